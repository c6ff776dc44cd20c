"""The subject of a picture: a run's model, its test images and their codes. Importing this module does not import torch."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING

from vaekit.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from vaekit.data.specs import Fit
    from vaekit.drawing.examples import Examples
    from vaekit.drawing.latents import Plane, Spread
    from vaekit.drawing.options import ClassName, ImageName
    from vaekit.interfaces import Shape
    from vaekit.model.vae import VAE
    from vaekit.store.record import Record

NUM_CODES = 2000
"""Number of test images whose codes describe the latent space."""


class Subject:
    """A run as the subject of pictures. Properties are computed once, on first use.

    Args:
        run: The run.
    """

    def __init__(self, run: Record) -> None:
        self.run = run

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.run.spec.train.seed

    @cached_property
    def vae(self) -> VAE:
        """The best model."""
        return self.run.vae()

    @cached_property
    def kl_per_latent(self) -> list[float] | None:
        """KL of each latent in nats on the test set; None if unknown."""
        known: list[float] | None = (self.run.evaluation() or {}).get("kl_per_latent")
        return known if known is not None and len(known) == self.vae.latent_dim else None

    @cached_property
    def codes(self) -> Tensor:
        """Posterior means of test images, ``(N, D)``."""
        from vaekit.drawing.latents import encode_means

        return encode_means(self.vae, self.test(range(self.num_test(NUM_CODES))))

    @cached_property
    def order(self) -> list[int]:
        """The latents in order, most informative first."""
        from vaekit.drawing.latents import order_by_information

        return order_by_information(self.kl_per_latent, self.codes)

    @cached_property
    def spread(self) -> Spread:
        """The spread of the prior or, if the posterior has no density and need not match the prior, of the codes."""
        from vaekit.drawing.latents import code_spread, prior_spread
        from vaekit.interfaces import knows_density_of_draws

        if knows_density_of_draws(self.vae.posterior):
            return prior_spread(self.vae)
        return code_spread(self.codes)

    def num_test(self, most: int) -> int:
        """Return the number of test images, at most ``most``."""
        return min(most, len(self.run.splits.test))

    def test(self, index: Sequence[int] | Tensor) -> Examples:
        """Return test images by index, as the model sees them; `VAE.to_unit` maps them to [0, 1] for display."""
        from vaekit.drawing.examples import read_examples

        return read_examples(self.run.splits.test, index, self.run.spec.data.binarize)

    def images(self, given: Sequence[ImageName], fit: Fit | None = None, label: ClassName | None = None) -> Examples:
        """Return test images by index and the images in files and folders, as the model sees them, in the order given.

        Args:
            given: The images.
            fit: How to fit files of another size; None rejects them.
            label: The class of the files, required for conditional models.

        Raises:
            UsageError: A test image does not exist, or the class of files is missing or unknown.
            DataError: No images are given, or a file is missing, unreadable or of another size.
        """
        from vaekit.drawing.examples import Examples

        return reduce(Examples.followed_by, self._examples(given, label, partial(self._read_files, fit=fit)))

    def whole_images(self, given: Sequence[ImageName], label: ClassName | None = None) -> list[Examples]:
        """Return test images by index and image files of any size, one by one; see `images`."""
        from vaekit.data.folders import find_images

        files = [each for name in given for each in (find_images(Path(str(name))) if Path(str(name)).is_dir() else [name])]
        return self._examples(files, label, self._read_whole)

    def _examples(self, given: Sequence[ImageName], label: ClassName | None, read: Callable[[Path], Tensor]) -> list[Examples]:
        """Return test images by index and what a function reads from files and folders, in the order given."""
        import torch

        from vaekit.drawing.examples import Examples

        if not given:
            raise DataError("no images given", expected="indices of test images, files or folders")
        number = self.chosen_class(label)
        parts = []
        for each in given:
            if is_number(each):
                parts.append(self.test([int(str(each))]))
                continue
            images = read(Path(str(each)))
            if self.vae.condition.size and number is None:
                raise UsageError("the class of image files is unknown, and the model is conditional", remedy="pass --label CLASS")
            parts.append(Examples(images, None if number is None else torch.full((len(images),), number), self.class_names))
        return parts

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, if the data have labels."""
        return self.run.header.facts.class_names

    def chosen_class(self, label: ClassName | None) -> int | None:
        """Return the number of the class that the user specifies by name or number; None if unspecified.

        Raises:
            UsageError: The model is not conditional, or the class is unknown.
        """
        if label is None:
            return None
        names = self.class_names or ()
        if self.vae.condition.size == 0:
            raise UsageError("the model is not conditional, so a class cannot be chosen", given=f"label {label}")
        if str(label) in names:
            return names.index(str(label))
        if not str(label).isdecimal() or int(label) >= len(names):
            raise UsageError("unknown class", given=label, expected=", ".join(names))
        return int(label)

    def condition_of(self, label: ClassName | None = None) -> Tensor | None:
        """Return the condition of a class, ``(1, E)``; default: the first; None if the model is unconditional."""
        import torch

        number = self.chosen_class(label)
        return self.vae.condition_on(torch.tensor([number or 0]))

    def _read_whole(self, path: Path) -> Tensor:
        """Return the image in a file at its own size, ``(1, C, H, W)``."""
        from vaekit.data.images import image_size

        channels, *size = self.vae.data_shape
        size = list(image_size(path)) if path.is_file() and len(size) == 2 else size  # reading reports what cannot be read
        return self._read_files(path, shape=(channels, *size))

    def _read_files(self, path: Path, fit: Fit | None = None, shape: Shape | None = None) -> Tensor:
        """Return the images in a file or folder, ``(N, C, H, W)``; by default in the model's shape."""
        from vaekit import roles
        from vaekit.drawing.images import read_images

        reader = roles.datasets.build(self.run.spec.data.dataset).reader
        limits = None if reader is None else reader.limits
        return self.vae.from_unit(read_images([path], shape or self.vae.data_shape, fit=fit, limits=limits))

    def plane(self, dims: Sequence[int] | None) -> tuple[Plane, Spread]:
        """Return axes of the latent space and the spread along them.

        Args:
            dims: One or two latents; default: all latents or, if there are more than two, the first two principal axes of the
                codes.

        Raises:
            UsageError: ``dims`` are not one or two latents of the model.
        """
        from vaekit.drawing.latents import Spread, check_dims, latent_plane, principal_plane

        if dims is None and self.vae.latent_dim > 2:
            plane = principal_plane(self.codes)
            return plane, Spread(self.codes.new_zeros(len(plane.axes)), self.codes.new_ones(len(plane.axes)))
        chosen = list(range(self.vae.latent_dim)) if dims is None else list(dims)
        check_dims(chosen, self.vae.latent_dim)
        if len(chosen) > 2:
            raise UsageError("a plane has two axes", given=", ".join(map(str, chosen)), expected="one or two latents")
        return latent_plane(self.spread, chosen), Spread(*(v[chosen] for v in self.spread))

    def labels(self, purpose: str) -> Tensor:
        """Return the labels of the test set; warn about classes that occur only in the training set.

        Raises:
            DataError: The dataset has no labels.
        """
        train, test = self.run.splits.train, self.run.splits.test
        labels = test.labels
        if labels is None:
            raise DataError(
                f"{purpose} needs labels, but the dataset {self.run.spec.data.dataset.kind!r} has none",
                expected="an image folder with a subfolder per class, or labels in the array file",
                remedy="train on labelled data: --dataset folder with subfolders, or --dataset array --dataset.labels NAME",
            )
        if train.labels is not None:
            missing = sorted({*train.labels.unique().tolist()} - {*labels.unique().tolist()})
            absent = [test.class_names[label] if test.class_names else str(label) for label in missing]
            if absent:
                warnings.warn(f"{purpose}: no test images of class {', '.join(absent)}", stacklevel=2)
        return labels


def is_number(given: ImageName) -> bool:
    """Whether an argument is the index of a test image; a file of that name takes precedence."""
    return isinstance(given, int) or (re.fullmatch(r"-?\d+", str(given)) is not None and not Path(given).exists())
