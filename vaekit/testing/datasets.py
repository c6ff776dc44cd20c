"""Checks of datasets."""

from __future__ import annotations

from typing import get_args

import torch

from vaekit.data import Batches, Binarize, ImageSource, Splits
from vaekit.roles import likelihoods
from vaekit.schema import ComponentSpec
from vaekit.specs.models import component_data
from vaekit.streams import Streams
from vaekit.testing.core import Candidate, built, check, during, expect, expect_finite

BINARIZATIONS = get_args(Binarize)
SAMPLE = 512


def splits_of(candidate: Candidate) -> Splits:
    """Build the dataset and read it."""
    dataset = built(candidate)
    with during("load()"):
        splits = dataset.load()
    expect(isinstance(splits, Splits), "what load() returns", expected="vaekit.data.Splits", got=type(splits).__name__)
    assert isinstance(splits, Splits)
    return splits


def first_of(source: ImageSource) -> torch.Tensor:
    """Return the first images of a source in their stored dtype."""
    return source.gather(torch.arange(min(len(source), SAMPLE)))


def default_likelihood(candidate: Candidate) -> ComponentSpec:
    """Return the spec of a dataset's default likelihood."""
    data = component_data("likelihood", candidate.cls.default_likelihood)
    expected = f"one of {', '.join(likelihoods.kinds())}"
    expect(data["kind"] in likelihoods, "default_likelihood", expected=expected, got=data["kind"])
    with during("validating default_likelihood"):
        return likelihoods.spec(data["kind"]).model_validate(data)


@check("dataset")
def check_splits(candidate: Candidate) -> None:
    """Each split has images of one shape, which are not all identical, and returns them in the requested order."""
    splits = splits_of(candidate)
    for name, part in splits.parts.items():
        expect(len(part) > 0, f"the {name} split", expected="images", got="none")
        expect(part.shape == splits.shape, f"the shape of {name} images", expected=splits.shape, got=part.shape)
        with during(f"reading {name} images"):
            images = first_of(part)
        expected = (min(len(part), SAMPLE), *splits.shape)
        expect(tuple(images.shape) == expected, f"the shape of {name} images read", expected=expected, got=tuple(images.shape))
        dtype = torch.uint8 if part.integer else torch.float32
        expect(images.dtype == dtype, f"the dtype of {name} images", expected=dtype, got=images.dtype)
        expect(len(images) == 1 or bool((images != images[0]).any()), f"{name} images", expected="several", got="one, repeated")
        backwards = part.gather(torch.arange(len(images)).flip(0))
        expect(torch.equal(backwards.flip(0), images), f"{name} images read backwards", expected="the same", got="different ones")


@check("dataset")
def check_disjointness(candidate: Candidate) -> None:
    """No split is a copy of the training set: most of its first images are not among the first training images."""
    splits = splits_of(candidate)
    rows = {name: set(map(bytes, first_of(part).flatten(1).numpy())) for name, part in splits.parts.items()}
    for name in ("validation", "test"):
        shared = len(rows[name] & rows["train"])
        expect(
            2 * shared <= len(rows[name]),
            f"{name} images in the training set",
            expected="none",
            got=f"{shared} of the first {SAMPLE}",
        )


@check("dataset")
def check_labels(candidate: Candidate) -> None:
    """Labels, if any, are one integer per image, from 0; if classes have names, every label has one."""
    for name, part in splits_of(candidate).parts.items():
        if part.labels is None:
            continue
        got = (part.labels.dtype, tuple(part.labels.shape))
        expect(got == (torch.int64, (len(part),)), f"labels of {name}", expected=(torch.int64, (len(part),)), got=got)
        expect(int(part.labels.min()) >= 0, f"labels of {name}", expected="0 or more", got=int(part.labels.min()))
        if part.class_names is not None:
            largest = int(part.labels.max())
            expect(largest < len(part.class_names), f"names of {name} labels", expected=largest + 1, got=len(part.class_names))


@check("dataset")
def check_determinism(candidate: Candidate) -> None:
    """Loading the dataset twice gives the same images, independent of torch's generator."""
    first = splits_of(candidate)
    torch.manual_seed(1)
    for name, (mine, other) in {name: (part, splits_of(candidate).parts[name]) for name, part in first.parts.items()}.items():
        same = len(mine) == len(other) and torch.equal(first_of(mine), first_of(other))
        expect(same, f"the {name} images, loaded twice", expected="the same", got="different ones")


@check("dataset")
def check_fingerprint(candidate: Candidate) -> None:
    """The fingerprint is the same each time the dataset is loaded, and differs for different images."""
    first, again = splits_of(candidate), splits_of(candidate)
    expect(first.fingerprint == again.fingerprint, "the fingerprint, loaded twice", expected="the same", got="a different one")
    for name, part in first.parts.items():
        num = len(part) // 2
        halves = part.subset(torch.arange(num)), part.subset(torch.arange(len(part) - num, len(part)))
        if num and not torch.equal(*(first_of(half) for half in halves)):
            differ = halves[0].digest() != halves[1].digest()
            expect(differ, f"digests of different {name} images", expected="different ones", got="the same")


@check("dataset")
def check_bytes(candidate: Candidate) -> None:
    """Byte images use the full range: 255 is white, so images of only 0 and 1 would be black."""
    for name, part in splits_of(candidate).parts.items():
        if part.integer:
            highest = int(first_of(part).max())
            expect(highest > 1, f"bytes of {name} images", expected="0 to 255", got=f"0 to {highest}")


@check("dataset")
def check_defaults(candidate: Candidate) -> None:
    """The default likelihood and binarisation exist and are compatible."""
    likelihood, binarize = default_likelihood(candidate).kind, candidate.cls.default_binarize
    expect(binarize in BINARIZATIONS, "default_binarize", expected=f"one of {', '.join(BINARIZATIONS)}", got=binarize)
    scores = likelihoods.get(likelihood).scores
    fits = binarize == "none" or scores == "binary"
    expect(fits, f"default_binarize, {likelihood!r} scoring {scores}", expected="none", got=binarize)


@check("dataset")
def check_batches(candidate: Candidate) -> None:
    """Batches are finite float32 images of the right shape, within [0, 1] if the default likelihood requires it."""
    splits = splits_of(candidate)
    unit = likelihoods.build(default_likelihood(candidate), data_shape=splits.shape).support == "unit"
    for name, part in splits.parts.items():
        with during(f"a batch of {name} images"):
            batch = next(iter(Batches(part, batch_size=min(8, len(part)), streams=Streams(0), train=False).epoch(0)))
        expect(batch.x.dtype == torch.float32, f"the dtype of {name} batches", expected=torch.float32, got=batch.x.dtype)
        expect(
            tuple(batch.x.shape[1:]) == splits.shape,
            f"the shape of {name} batches",
            expected=splits.shape,
            got=batch.x.shape[1:],
        )
        expect_finite(batch.x, f"pixels of {name} batches")
        if unit or part.integer:
            low, high = batch.x.min().item(), batch.x.max().item()
            expect(low >= 0 and high <= 1, f"pixels of {name} batches", expected="within [0, 1]", got=f"{low:g} to {high:g}")
