"""Checks of pictures, on a small untrained model and synthetic images of three classes."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vaekit.data.facts import Facts
from vaekit.data.pixels import UNIT, Range
from vaekit.data.sources import Splits, TensorImages
from vaekit.distributions import GaussianPixels
from vaekit.drawing.picture import Picture
from vaekit.drawing.subject import Subject
from vaekit.errors import UsageError, VaekitError
from vaekit.interfaces import Likelihood
from vaekit.model.assembly import build_vae
from vaekit.model.vae import VAE
from vaekit.specs.models import RunSpec
from vaekit.specs.resolve import resolve
from vaekit.store.folder import RunFolder
from vaekit.store.record import Record
from vaekit.testing.core import Candidate, built, check, during, expect

if TYPE_CHECKING:
    from PIL.Image import Image

SHAPES = ((1, 8, 6), (3, 8, 8))
NUM_IMAGES = 24


class _Sketch(Record):
    """An untrained run in an empty folder. Its images are the same in any range of values."""

    def __init__(self, path: Path, data_shape: tuple[int, int, int], *, labelled: bool = True, value_range: Range = UNIT) -> None:
        self.folder, self.path = RunFolder(path), path
        self.data_shape, self.labelled, self.value_range = data_shape, labelled, value_range

    @cached_property
    def spec(self) -> RunSpec:
        small = {"kind": "mlp", "hidden": [8]}
        data = {"dataset": "digits", "binarize": "none"}
        return resolve({"model": {"latent_dim": 3, "encoder": small, "decoder": small}, "data": data})

    @cached_property
    def splits(self) -> Splits:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (NUM_IMAGES, *self.data_shape), dtype=torch.uint8, generator=generator)
        low, high = self.value_range
        images = TensorImages(
            pixels if self.value_range == UNIT else low + (high - low) * pixels.float() / 255,
            torch.arange(NUM_IMAGES) % 3 if self.labelled else None,
            tuple("abc") if self.labelled else None,
        )
        return Splits(images, images, images)

    def vae(self) -> VAE:
        vae = build_vae(self.spec.model, Facts(data_shape=self.data_shape, value_range=self.value_range), seed=0)
        vae.encoder = nn.Sequential(_FromRange(self.value_range), vae.encoder)
        vae.likelihood = _InRange(self.data_shape, self.value_range)
        return vae.eval().requires_grad_(False)

    def evaluation(self) -> dict[str, Any] | None:
        return None


class _FromRange(nn.Module):
    """Maps images of a range to [0, 1]."""

    def __init__(self, value_range: Range) -> None:
        super().__init__()
        self.low, self.high = value_range

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.low) / (self.high - self.low)


class _InRange(Likelihood):
    """Gaussian pixels whose means cover a range."""

    def __init__(self, data_shape: tuple[int, int, int], value_range: Range) -> None:
        super().__init__(data_shape)
        self.low, self.high = value_range

    def forward(self, params: Tensor) -> GaussianPixels:
        mean = self.low + (self.high - self.low) * params.sigmoid()
        return GaussianPixels(mean, torch.zeros_like(mean))


@contextmanager
def subject_of(
    data_shape: tuple[int, int, int] = SHAPES[0], *, labelled: bool = True, value_range: Range = UNIT
) -> Iterator[Subject]:
    """Yield the subject of a run's pictures, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        yield Subject(_Sketch(Path(folder), data_shape, labelled=labelled, value_range=value_range))


def picture_of(candidate: Candidate, subject: Subject) -> Picture:
    """Build the picture, with test images if it takes any."""
    picture: Picture = built(candidate, subject=subject, a=0, b=1, images=[0, 1, 2])
    with during("forms()"):
        picture.forms()
    return picture


def drawn(picture: Picture) -> dict[str, list[Image]]:
    """Draw a picture in all its forms."""
    drawings: dict[str, list[Image]] = {}
    for form in picture.forms():
        with during(f"{form}()"):
            result: Any = getattr(picture, form)()
        drawings[form] = {"still": lambda r: [r], "animation": lambda r: list(r.frames), "files": lambda r: list(r.values())}[
            form
        ](result)
    return drawings


@check("picture")
def check_forms(candidate: Candidate) -> None:
    """The picture draws a still, an animation or files: Pillow images of grey and colour data."""
    from PIL import Image

    for shape in SHAPES:
        with subject_of(shape) as subject:
            for form, images in drawn(picture_of(candidate, subject)).items():
                expect(len(images) > 0, f"the images of {form} for images of {shape}", expected="one or more", got="none")
                wrong = [type(image).__name__ for image in images if not isinstance(image, Image.Image)]
                expect(not wrong, f"the output of {form}", expected="PIL images", got=", ".join(wrong))


@check("picture")
def check_frames(candidate: Candidate) -> None:
    """The frames of an animation have the same size."""
    with subject_of() as subject:
        sizes = {image.size for image in drawn(picture_of(candidate, subject)).get("animation", [])}
    expect(len(sizes) <= 1, "the sizes of the frames", expected="one", got=sizes)


@check("picture")
def check_determinism(candidate: Candidate) -> None:
    """Drawn twice, the picture is the same, regardless of torch's generator."""
    contents = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        with subject_of() as subject:
            contents.append([image.tobytes() for images in drawn(picture_of(candidate, subject)).values() for image in images])
    expect(contents[0] == contents[1], "the picture, drawn twice", expected="the same", got="a different one")


def _difference(a: Image, b: Image) -> float:
    """Return the largest difference between two images of the same size, in grey levels."""
    from PIL import ImageChops

    extrema: Any = ImageChops.difference(a, b).getextrema()  # a pair per channel
    return max(float(high) for _, high in extrema)


@check("picture")
def check_range(candidate: Candidate) -> None:
    """Images with any range of values are drawn like the same images in [0, 1]: see `VAE.to_unit`."""
    drawings = []
    for value_range in (UNIT, (-2.0, 2.0)):
        with subject_of(value_range=value_range) as subject:
            images = [image for images in drawn(picture_of(candidate, subject)).values() for image in images]
            drawings.append([image.convert("RGB") for image in images])
    same = [a.size == b.size and _difference(a, b) <= 1 for a, b in zip(*drawings, strict=True)]
    expect(
        all(same), "the picture of images in [-2, 2]", expected="the same as in [0, 1] (use vae.to_unit)", got="a different one"
    )


@check("picture")
def check_randomness(candidate: Candidate) -> None:
    """Drawing does not change torch's global generator."""
    with subject_of() as subject:
        picture = picture_of(candidate, subject)
        before = torch.get_rng_state()
        drawn(picture)
    expect(torch.equal(before, torch.get_rng_state()), "torch's generator after drawing", expected="unchanged", got="changed")


@check("picture")
def check_purity(candidate: Candidate) -> None:
    """Drawing modifies neither the model nor the test images."""
    with subject_of() as subject:
        weights = {name: tensor.clone() for name, tensor in subject.vae.state_dict().items()}
        images = subject.test(range(NUM_IMAGES)).images.clone()
        drawn(picture_of(candidate, subject))
        changed = [name for name, tensor in subject.vae.state_dict().items() if not torch.equal(tensor, weights[name])]
        expect(not changed, "the weights after drawing", expected="unchanged", got=f"{', '.join(changed)} changed")
        expect(not subject.vae.training, "the model after drawing", expected="in eval mode", got="in training mode")
        same = torch.equal(subject.test(range(NUM_IMAGES)).images, images)
        expect(same, "the test images after drawing", expected="unchanged", got="modified")


@check("picture")
def check_places(candidate: Candidate) -> None:
    """By default, it is written to subfolders of the run folder, and exactly to the paths returned by `write`."""
    with subject_of() as subject:
        with during("write()"):
            paths = picture_of(candidate, subject).write()
        root = subject.run.path
        expect(bool(paths), "the paths returned", expected="one or more", got="none")
        for path in paths:
            expect(path.exists() and root in path.parents, "a path returned", expected=f"a file written below {root}", got=path)
        others = {file for file in root.rglob("*") if file.is_file()}
        others -= {file for path in paths for file in [path, *path.rglob("*")]}
        expect(not others, "files missing from the returned paths", expected="none", got=", ".join(map(str, others)))


@check("picture")
def check_out(candidate: Candidate) -> None:
    """It is written to the path given by the user, and other formats are rejected before anything is drawn."""
    with subject_of() as subject:
        picture = picture_of(candidate, subject)
        folder = subject.run.path / "elsewhere"
        suffix = {"still": ".png", "animation": ".gif", "files": ""}[picture.forms()[0]]
        single = not picture.paths or bool(Path(picture.paths[0]).suffix)
        out = folder / f"given{suffix if single else ''}"
        with during(f"write({out.name!r})"):
            expect(picture.write(out) == [out], "the paths returned", expected=[out], got="different ones")
        if single and suffix:
            try:
                picture.write(folder / "given.txt")
            except UsageError:
                return
            expect(False, "a file called given.txt", expected="a UsageError", got="no error")


@check("picture")
def check_labels(candidate: Candidate) -> None:
    """Data without labels are drawn or rejected with one of vaekit's errors."""
    with subject_of(labelled=False) as subject:
        picture = picture_of(candidate, subject)
        for form in picture.forms():
            with during(f"{form}() of data without labels"), contextlib.suppress(VaekitError):
                getattr(picture, form)()
