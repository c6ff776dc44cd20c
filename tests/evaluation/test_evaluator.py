from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import vaekit
from vaekit.data import batches
from vaekit.streams import Streams


def test_images_in_memory_are_binarised_once_in_all_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, list[int]] = {}

    def draw(streams: Streams, stream: str, index: Tensor, shape: tuple[int, ...]) -> Tensor:
        drawn.setdefault(stream, []).extend(index.tolist())
        return torch.zeros(len(index), *shape, dtype=torch.int16)

    monkeypatch.setattr(batches, "draw_fixed_noise", draw)
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (400, 8, 8), dtype=np.uint8))
    data = {"dataset": "array", "dataset.path": str(tmp_path / "images.npy"), "binarize": "dynamic", "likelihood": "bce"}
    small = {"encoder.hidden": (8,), "decoder.hidden": (8,), "batch_size": 16, "device": "cpu"}
    vaekit.train(**data, **small, epochs=3, out=tmp_path / "run")
    assert {stream: len(index) for stream, index in drawn.items()} == {"static/validation": 40, "static/test": 40}
    assert all(len({*index}) == len(index) for index in drawn.values())
