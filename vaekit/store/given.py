"""Examples given to the model of a run: a part of the run's own data, or other data."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from vaekit import roles
from vaekit.data.arrays import find_layout, holds_pixels, to_examples, to_labels
from vaekit.data.pixels import Array, choose_range
from vaekit.data.sources import ImageSource, TensorImages
from vaekit.data.specs import Fit
from vaekit.errors import DataError, UsageError
from vaekit.files import local_path
from vaekit.store.record import Record

if TYPE_CHECKING:
    from vaekit.interfaces import Dataset
    from vaekit.schema import ComponentSpec

DEFAULT_SPLIT = "test"
"""The default split, for data that have several."""


def read_given(
    record: Record,
    data: str | Path | Array | None = None,
    *,
    split: str | None = None,
    fit: Fit | None = None,
    labels: Array | None = None,
) -> tuple[ImageSource, str]:
    """Return examples that a run's model can encode, in their stored order, and the name of their split.

    Files are read with the options of the run's dataset if it is of the same kind, so that pixels have the same range and
    pictures the same size. They are read a batch at a time; arrays of .npz, .safetensors and .parquet files are in memory.

    Args:
        record: The run.
        data: A file or a folder, the name of a dataset, or an array with the axes that such a file has; default: the data of the
            run.
        split: The split; default: all if the data are not split, else the test split.
        fit: How to fit image files of another size; default: as the run's dataset does, else such files are an error.
        labels: The labels of an array, ``(N,)``: integers or names.

    Raises:
        DataError: The data are missing, unreadable or of another shape, or have a class that a conditional model does not know.
        UsageError: An option does not apply.
    """
    if fit is not None and fit not in get_args(Fit):
        raise UsageError("unknown way to fit images", given=f"fit {fit}", expected=", ".join(get_args(Fit)))
    if fit is not None and (data is None or not isinstance(data, str | Path)):
        raise UsageError("only image files can be fitted to a size", given=f"fit {fit}", remedy="leave it out")
    if labels is not None and (data is None or isinstance(data, str | Path)):
        raise UsageError("labels can be given only with an array; files and datasets have their own", remedy="leave them out")
    facts, own = record.header.facts, record.spec.data
    if data is None:
        parts = record.splits.parts
    elif isinstance(data, str | Path):
        parts = dict(_dataset(record, data, fit).stored())
    else:
        parts = {"train": _examples(data, own.dataset, labels)}
    if split is None:
        split = DEFAULT_SPLIT if len(parts) > 1 else next(iter(parts))
    if split not in parts:
        raise UsageError("the data do not have this split", given=split, expected=", ".join(parts))
    source = parts[split]
    if source.shape != facts.data_shape:
        raise DataError(
            "the examples do not have the shape of the model's data",
            given=f"shape {source.shape}",
            expected=f"shape {facts.data_shape}",
            remedy="pass --fit crop, pad or stretch" if source.encoded else "use examples of the model's shape",
        )
    if data is None:
        return source, split
    source = source if own.missing != "refuse" else source.complete(str(data) if isinstance(data, str | Path) else "the data")
    return _renumbered(source, facts.class_names, conditional=record.spec.model.condition.kind != "none"), split


def _dataset(record: Record, data: str | Path, fit: Fit | None) -> Dataset:
    """Return the dataset of a file, a folder or a name."""
    path = local_path(data).expanduser()
    if path.exists():
        return _files(record, path, fit)
    whole = [kind for kind in roles.datasets.kinds() if not _needs_options(kind)]
    if str(data) not in whole:
        expected = f"a file, a folder, or one of the datasets {', '.join(whole)}"
        raise DataError("the data do not exist", given=data, expected=expected)
    if fit is not None:
        raise UsageError("only image files can be fitted to a size", given=f"fit {fit}", remedy="leave it out")
    dataset: Dataset = roles.datasets.build(roles.datasets.spec(str(data)).model_validate({"kind": str(data)}))
    return dataset


def _needs_options(kind: str) -> bool:
    return any(field.is_required() for name, field in roles.datasets.spec(kind).model_fields.items() if name != "kind")


def _files(record: Record, path: Path, fit: Fit | None) -> Dataset:
    """Return the dataset of a file or a folder: of the run's kind if that reads such files, else of another kind."""
    own, shape = record.spec.data.dataset, record.header.facts.data_shape
    suffix = "" if path.is_dir() else path.suffix.lower()
    kinds = [kind for kind in (own.kind, *roles.datasets.kinds()) if suffix in roles.datasets.get(kind).suffixes]
    if not kinds:
        known = sorted({each for kind in roles.datasets.kinds() for each in roles.datasets.get(kind).suffixes if each})
        raise UsageError("unknown file format", given=path, expected=f"a folder of images, or a {', '.join(known)} file")
    kind = kinds[0]
    spec = roles.datasets.spec(kind)
    other = {"path", "validation", "test", *(("key", "labels") if suffix == ".npy" else ())}  # a single array has no name
    options: dict[str, Any] = own.model_dump(exclude=other) if kind == own.kind else {"kind": kind}
    options["path"] = str(path)
    if "memory_gb" in spec.model_fields:
        options["memory_gb"] = 0.0
    if kind != own.kind and "channels" in spec.model_fields:
        options["channels"] = "grey" if shape[0] == 1 else "rgb"
    if fit is not None:
        if not {"size", "fit"} <= spec.model_fields.keys():
            raise UsageError("only image files can be fitted to a size", given=f"fit {fit}, {path}", remedy="leave it out")
        options |= {"size": shape[1:], "fit": fit}
    dataset: Dataset = roles.datasets.build(spec.model_validate(options))
    return dataset


def _examples(array: Array, own: ComponentSpec, labels: Array | None) -> TensorImages:
    """Return an array as if it had been read from a file."""
    layout = find_layout(array.shape, getattr(own, "layout", None))
    limits = choose_range([array] if holds_pixels(layout) else [], getattr(own, "range", None), "the array")
    examples = to_examples(array, layout, limits)
    return TensorImages(examples, *(() if labels is None else to_labels(labels, len(examples), "labels")))


def _renumbered(source: ImageSource, names: tuple[str, ...] | None, *, conditional: bool) -> ImageSource:
    """Return the examples with their classes numbered as in the model.

    Raises:
        DataError: The model is conditional, and does not know a class of the data.
    """
    if source.labels is None or names is None:
        return source
    if source.class_names is None:
        known = bool(((source.labels >= 0) & (source.labels < len(names))).all())
        given, numbers = "numbers " + ", ".join(map(str, source.labels.unique().tolist())), source.labels
    else:
        known = set(source.class_names) <= set(names)
        given = ", ".join(source.class_names)
        numbers = torch.tensor([names.index(name) for name in source.class_names])[source.labels] if known else source.labels
    if not known:
        if conditional:
            raise DataError(
                "the model is conditional, and does not know all classes of the data", given=given, expected=", ".join(names)
            )
        return source
    source = copy(source)
    source.labels, source.class_names = numbers, names
    return source
