from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each worker has a core; more threads would compete


def pytest_configure() -> None:
    """Let Ctrl-C and SIGHUP reach tests and their subprocesses, even if pytest runs in the background and ignores them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def double() -> Iterator[None]:
    """Use double precision by default."""
    import torch

    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def forgotten_components() -> Iterator[None]:
    """Forget the components that a test registers."""
    from vaekit.roles import REGISTRIES

    with ExitStack() as stack:
        for registry in REGISTRIES:
            stack.enter_context(registry.temporarily())
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data, from VAEKIT_DATA."""
    folder = os.environ.get("VAEKIT_DATA")
    if folder is None or not (Path(folder) / "MNIST" / "raw").is_dir():
        pytest.skip("needs real data: set VAEKIT_DATA to a folder that contains MNIST/raw")
    return Path(folder)


@pytest.fixture(scope="session")
def labelled_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run with three latents on 240 grey 8×6 images with three labels; tests must not write to it."""
    import numpy as np

    import vaekit

    folder = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 3
    images = rng.integers(0, 60, (240, 8, 6))
    images[np.arange(240), :, labels * 2] = 220
    names = np.array(["left", "middle", "right/far"])[labels]
    np.savez(folder / "images.npz", images=images.astype(np.uint8), labels=names)
    hidden = {"encoder.hidden": (16,), "decoder.hidden": (16,)}
    training = {"epochs": 3, "batch_size": 16, "threads": 1, "device": "cpu", "latent_dim": 3, "likelihood": "bce"}
    data = {"dataset": "array", "dataset.path": str(folder / "images.npz")}
    return vaekit.train(**hidden, **training, **data, out=folder / "run").path
