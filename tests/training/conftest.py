import numpy as np
import pytest
import torch
from training.tape import record

from vaekit import roles
from vaekit.compute import graphs
from vaekit.interfaces import Loss


@pytest.fixture
def images(tmp_path):
    """A file of 120 images of 9×7, grey."""
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (120, 9, 7), dtype=np.uint8))
    return path


@pytest.fixture
def on_cpu(monkeypatch):
    """Allow steps to be recorded on the CPU."""
    monkeypatch.setattr(graphs, "DEVICES", {"cpu"})
    monkeypatch.setattr(graphs, "record", record)
    monkeypatch.setattr(graphs, "warm_up", lambda function, *, last: function())


@pytest.fixture
def fragile():
    """A loss that becomes NaN in the second epoch if its number is above 1, registered for one test."""

    class Fragile(Loss):
        """Becomes NaN."""

        def __init__(self, *, weight: float = 1.0) -> None:
            super().__init__()
            self.register_buffer("weight", torch.tensor(weight), persistent=False)

        def forward(self, trace):
            late = (trace.epoch >= 1) & (trace.epoch < torch.inf) & (self.weight > 1)
            return trace.z.sum(-1) * torch.where(late, torch.nan, 0.0)

    with roles.losses.temporarily(fragile=Fragile):
        yield
