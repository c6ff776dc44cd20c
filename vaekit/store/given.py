"""Examples that a user gives to a trained model: a split of the run's own data, another dataset, a file or a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from vaekit import roles
from vaekit.data.images import FileImages
from vaekit.errors import DataError, UsageError
from vaekit.files import local_path
from vaekit.specs.models import spec_error

if TYPE_CHECKING:
    import torch

    from vaekit.data.batches import Batches
    from vaekit.data.sources import ImageSource
    from vaekit.data.specs import Binarize, Fit
    from vaekit.model.vae import VAE
    from vaekit.store.record import Record

SPLITS = ("train", "validation", "test")
WHERE = ("data_root", "download")
"""Options of a dataset that say where it is; those of the run's dataset also apply to others."""
HOW = ("size", "channels", "fit", "range", "layout", "memory_gb", "on_bad_image")
"""Options that say how it is read; those of the run's dataset also apply to other data of its kind."""


@dataclass(frozen=True)
class Given:
    """Examples that a trained model is applied to.

    Args:
        name: What they are, such as ``the test split of mnist``.
        source: The examples.
        split: The name of their split, to which the noise of binarisation belongs.
        binarize: How grey values become 0 or 1.
    """

    name: str
    source: ImageSource
    split: str
    binarize: Binarize

    @cached_property
    def files(self) -> list[str] | None:
        """The path of each file relative to the folder of all; None if the examples are not files, or were read into memory."""
        if not (isinstance(self.source, FileImages) and isinstance(self.source.files, list)):
            return None
        folder = Path(os.path.commonpath([file.parent for file in self.source.files]))
        return [self.source.files[row].relative_to(folder).as_posix() for row in self.source.rows.tolist()]

    @property
    def is_binary(self) -> bool:
        """Whether the model sees pixels of 0 and 1 only."""
        return self.binarize != "none" or self.source.is_binary

    def batches(self, batch_size: int, device: torch.device | str = "cpu", workers: int = 0) -> Batches:
        """Return the batches of the examples: all of them, in order."""
        from vaekit.data.batches import Batches
        from vaekit.streams import Streams

        return Batches(
            self.source,
            batch_size=batch_size,
            streams=Streams(0),  # of which evaluation draws nothing: the noise of binarisation belongs to the examples
            binarize=self.binarize,
            device=device,
            train=False,
            split=self.split,
            workers=workers,
        )


def given_data(
    run: Record, vae: VAE, data: str | Path | None = None, *, split: str = "test", fit: Fit | None = None, drawn: bool = True
) -> Given:
    """Return the examples that a user names, as the run's model takes them.

    Args:
        run: The run.
        vae: Its model.
        data: The name of a dataset, or a folder of images or an array file, of which all examples are taken unless it states
            splits; default: the data of the run. Data of the same kind as those of the run are read with the same options, such
            as their size.
        split: ``train``, ``validation`` or ``test``.
        fit: How image files of another size are fitted to the model's; default: they are refused.
        drawn: Whether grey pixels that the model sees as 0 or 1 are drawn; otherwise they stay grey, unless a threshold makes
            them black or white.

    Raises:
        UsageError: The split is unknown, or the data are neither a dataset nor a folder nor a file.
        DataError: The data are missing or unreadable, or do not fit the model.
    """
    if split not in SPLITS:
        raise UsageError("unknown split", given=split, expected="train, validation or test")
    spec = run.spec.data
    binarize = spec.binarize if drawn or spec.binarize == "threshold" else "none"
    if data is None:
        return Given(f"the {split} split of the run's data", run.splits.parts[split], split, binarize)
    parts = _parts(run, vae, str(data), fit)
    name = Path(str(data)).name
    if len(parts) > 1:
        if split not in parts:
            raise DataError(f"{data} has no {split} split", given=", ".join(parts), remedy="choose another one: --split NAME")
        name = f"the {split} split of {name}"
    source = parts[split if len(parts) > 1 else next(iter(parts))]
    if spec.missing == "refuse":
        source = source.complete(name)
    _check(name, source, run, vae)
    return Given(name, source, split, binarize)


def _parts(run: Record, vae: VAE, data: str, fit: Fit | None) -> dict[str, ImageSource]:
    """Return the examples of a dataset, a folder or a file by split."""
    own = run.spec.data.dataset
    path = local_path(data)
    named = data in roles.datasets
    kind = data if named else "folder" if path.is_dir() else "array"
    if not named and not path.exists():
        raise UsageError(
            "the data are neither a dataset nor a file or folder",
            given=data,
            expected=f"a folder of images, an array file, or one of {', '.join(roles.datasets.kinds())}",
        )
    fields = roles.datasets.spec(kind).model_fields
    shared = WHERE + HOW if kind == own.kind else WHERE
    options: dict[str, Any] = {name: getattr(own, name) for name in shared if name in fields and hasattr(own, name)}
    if not named:
        options["path"] = data
    if kind == "folder" and len(vae.data_shape) == 3:
        options["channels"] = "grey" if vae.data_shape[0] == 1 else "rgb"
        options |= {} if fit is None else {"size": vae.data_shape[1:], "fit": fit}
    try:
        dataset = roles.datasets.build(roles.datasets.spec(kind).model_validate({"kind": kind, **options}))
    except ValidationError as error:
        raise spec_error(error, f"the dataset {kind!r}") from None
    return dict(dataset.stored())


def _check(name: str, source: ImageSource, run: Record, vae: VAE) -> None:
    """Check that examples fit the model.

    Raises:
        DataError: They have another shape or, if the model is conditional, no labels or other classes.
    """
    if source.shape != vae.data_shape:
        raise DataError(
            f"the model takes examples of another shape than {name}",
            given=f"shape {source.shape}",
            expected=f"shape {vae.data_shape}",
            remedy="resize image files, or pass --fit crop, pad or stretch" if len(source.shape) == 3 else None,
        )
    classes = run.header.facts.class_names
    if vae.condition.size and (source.labels is None or source.class_names not in (None, classes)):
        raise DataError(
            f"the model is conditional, and {name} has no labels of its classes",
            given="no labels" if source.labels is None else ", ".join(source.class_names or ()),
            expected=", ".join(classes or ()),
        )
