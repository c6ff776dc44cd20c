"""Checks of loggers, which actually log: pass options that keep the logged data on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from vaekit.specs.resolve import resolve
from vaekit.testing.core import Candidate, built, check, during, expect
from vaekit.training.logger import Codes, Logger, Outcome

SCALARS = {"epoch": 1.0, "lr": 2e-3, "train/loss": 151.5, "validation/loss": 152.25, "validation_kl_per_latent/00": 0.125}


@contextmanager
def run_folders(*names: str) -> Iterator[list[Path]]:
    """Create temporary run folders."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        folders = [Path(root) / name for name in names]
        for folder in folders:
            folder.mkdir()
        yield folders


def log(logger: Logger, folder: Path, steps: tuple[int, ...], *, after: int | None = None, complete: bool = True) -> str:
    """Make the same calls as a run; return the result of `start`."""
    from PIL import Image

    with during(f"start(…, step={after})"):
        where = logger.start(folder, resolve({}), after)
    for step in steps:
        with during(f"scalars({step}, …)"):
            logger.scalars(step, SCALARS)
        for mode in ("L", "RGB"):
            with during(f"image({step}, …) of a picture of mode {mode}"):
                logger.image(step, {"L": "samples", "RGB": "reconstructions"}[mode], Image.new(mode, (12, 8)))
    with during("end(…)" if complete else "end(None)"):
        logger.end(outcome(steps[-1]) if complete else None)
    return where


def outcome(step: int) -> Outcome:
    """Return an example outcome of a run on grey images."""
    return Outcome(step, {"test/loss": 153.0, "test/elbo": -153.0}, lambda most: codes(min(most, 9)))


def codes(num: int) -> Codes:
    """Return codes of non-square images in two classes."""
    return Codes(torch.randn(num, 3), torch.rand(num, 1, 8, 6), tuple("ab"[i % 2] for i in range(num)))


@check("logger")
def check_calls(candidate: Candidate) -> None:
    """A run can be logged from start to end, and `start` returns one line with the location of the log."""
    with run_folders("run") as (folder,):
        where = log(built(candidate), folder, (4, 8))
    expect(len(where.splitlines()) == 1, "the result of start", expected="a line of text", got=repr(where))


@check("logger")
def check_resumption(candidate: Candidate) -> None:
    """Another instance can resume an interrupted run, even if some steps are logged again."""
    with run_folders("run") as (folder,):
        log(built(candidate), folder, (4, 8), complete=False)
        log(built(candidate), folder, (8, 12), after=4)


@check("logger")
def check_stop(candidate: Candidate) -> None:
    """A run can be interrupted before anything is logged, and then resumed."""
    with run_folders("run") as (folder,):
        logger = built(candidate)
        with during("start(…), end(None)"):
            logger.start(folder, resolve({}), None)
            logger.end(None)
        log(built(candidate), folder, (4,), after=0)


@check("logger")
def check_independence(candidate: Candidate) -> None:
    """Two runs can be logged concurrently, as in a sweep."""
    with run_folders("first", "second") as folders:
        loggers = [built(candidate) for _ in folders]
        for logger, folder in zip(loggers, folders, strict=True):
            with during(f"start of the {folder.name} of two runs"):
                logger.start(folder, resolve({}), None)
        for logger in loggers:
            with during("scalars of two runs in turn"):
                logger.scalars(4, SCALARS)
        for logger in loggers:
            with during("end of two runs in turn"):
                logger.end(outcome(4))


@check("logger")
def check_randomness(candidate: Candidate) -> None:
    """Logging does not advance torch's generator."""
    with run_folders("run") as (folder,):
        logger = built(candidate)
        before = torch.get_rng_state()
        log(logger, folder, (4,), complete=False)
        expect(torch.equal(before, torch.get_rng_state()), "torch's generator after logging", expected="unchanged", got="changed")


@check("logger")
def check_purity(candidate: Candidate) -> None:
    """The logger does not modify the numbers, pictures and codes that it receives, which are shared with other loggers."""
    from PIL import Image

    scalars, picture, latents = dict(SCALARS), Image.new("RGB", (12, 8), "white"), codes(9)
    pixels, tensors = picture.tobytes(), (latents.means.clone(), latents.images.clone())
    ending = Outcome(4, {"test/elbo": -153.0}, lambda most: latents)
    with run_folders("run") as (folder,), during("start, scalars, image and end"):
        logger = built(candidate)
        logger.start(folder, resolve({}), None)
        logger.scalars(4, scalars)
        logger.image(4, "samples", picture)
        logger.end(ending)
    expect(scalars == SCALARS, "the numbers after logging", expected=f"still {SCALARS}", got=scalars)
    expect(
        (picture.mode, picture.tobytes()) == ("RGB", pixels), "the picture after logging", expected="unchanged", got="modified"
    )
    expect(
        ending.evaluation == {"test/elbo": -153.0}, "the evaluation after logging", expected="unchanged", got=ending.evaluation
    )
    same = torch.equal(latents.means, tensors[0]) and torch.equal(latents.images, tensors[1])
    expect(same, "the codes after logging", expected="unchanged", got="modified")
