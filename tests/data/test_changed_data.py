"""Any change of the data since a run was trained is detected."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vaekit
from vaekit.compute.process import Interrupted
from vaekit.data.fingerprint import changes
from vaekit.errors import DataError, UsageError
from vaekit.roles import datasets
from vaekit.training.step import Step

TINY = {"encoder": "mlp", "encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2, "batch_size": 8, "epochs": 2}
TINY |= {"threads": 1, "device": "cpu", "pictures": "none"}


def write_picture(file: Path, number: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number, number // 2, 255 - number)).save(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty pictures of two classes."""
    for number in range(60):
        write_picture(tmp_path / "pictures" / "ab"[number % 2] / f"{number:03}.png", number)
    return tmp_path / "pictures"


def rename(folder: Path) -> None:
    (folder / "a" / "000.png").rename(folder / "a" / "900.png")


CHANGES = {
    "added": lambda folder: write_picture(folder / "a" / "500.png", 200),
    "deleted": lambda folder: (folder / "a" / "000.png").unlink(),
    "renamed": rename,
    "replaced": lambda folder: write_picture(folder / "b" / "001.png", 250),
    "another class": lambda folder: (folder / "b").rename(folder / "c"),
    "another label": lambda folder: (folder / "a" / "000.png").rename(folder / "b" / "000.png"),
}


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_folder_changes_its_fingerprint(folder: Path, change: str, memory_gb: float) -> None:
    def read():
        return datasets.build(datasets.spec("folder")(path=str(folder), memory_gb=memory_gb)).load().fingerprint

    before = read()
    assert changes(before, read()) == []
    CHANGES[change](folder)
    assert changes(before, read())


def test_a_moved_folder_is_the_same_dataset(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere")
    first, second = (
        datasets.build(datasets.spec("folder")(path=str(path), memory_gb=memory_gb)).load().fingerprint
        for path, memory_gb in ((folder, 0.0), (tmp_path / "elsewhere", 0.0))
    )
    assert first == second


def interrupted_run(monkeypatch: pytest.MonkeyPatch, **given: object) -> None:
    step = Step.__call__

    def interrupt(self, reading):
        if reading.number == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, reading)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", interrupt)
        with pytest.raises(Interrupted):
            vaekit.train(**TINY, **given)


def test_evaluation_and_pictures_on_changed_data_warn_with_the_changes(folder: Path, tmp_path: Path) -> None:
    run = vaekit.train(**TINY, dataset="folder", path=str(folder), out=tmp_path / "run")
    assert vaekit.Run(run.path).evaluate()["data"] == run.evaluation()["data"]
    CHANGES["added"](folder)
    with pytest.warns(UserWarning, match="the data have changed since .* train: num images was 48, is 49"):
        vaekit.Run(run.path).evaluate()
    with pytest.warns(UserWarning, match="the data have changed"):
        vaekit.Run(run.path).pictures.reconstruct([0])


def test_a_run_resumes_on_changed_data_only_if_allowed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_run(monkeypatch, dataset="folder", path=str(folder), out=tmp_path / "run")
    CHANGES["replaced"](folder)
    with pytest.raises(DataError, match="the data have changed") as caught:
        vaekit.resume(tmp_path / "run")
    assert "the images differ" in str(caught.value)
    assert len(vaekit.resume(tmp_path / "run", allow_changed_data=True).metrics()) == 2


def test_a_study_does_not_continue_with_a_replaced_array(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)

    def write() -> None:
        np.save(tmp_path / "images.npy", generator.integers(0, 256, (60, 6, 6), dtype=np.uint8))

    write()
    given = {"over": {"lr": (1e-3, 1e-2)}, "storage": tmp_path / "study.journal", "out": tmp_path / "search"}
    given |= {"dataset": "array", "path": str(tmp_path / "images.npy"), "likelihood": "bce", "binarize": "dynamic", **TINY}
    vaekit.search(**given, trials=1)
    write()
    with pytest.raises(UsageError, match="different data"):
        vaekit.search(**given, trials=2)
