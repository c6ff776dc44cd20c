"""``vaekit embed``: a run's codes as a file, from the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import vaekit
from vaekit.data.archives import read_archive

Cli = Callable[..., tuple[int, str, str]]


def test_a_table_of_the_test_images_is_written_to_the_run_by_default(cli: Cli, labelled_run: Path) -> None:
    run = vaekit.Run(labelled_run)
    out = run.path / "codes.parquet"
    try:
        assert cli("embed", run.path) == (0, f"{out}\n  24 rows\n", "")
        codes = {name: column.load() for name, column in read_archive(out).items()}
        np.testing.assert_array_equal(codes["z"], run.embed().z)
        assert pq.read_metadata(out).num_rows == len(run.splits.test) == 24
    finally:
        out.unlink(missing_ok=True)


def test_options_are_those_of_python(cli: Cli, labelled_run: Path, tmp_path: Path) -> None:
    run, images = vaekit.Run(labelled_run), np.random.default_rng(0).integers(0, 256, (10, 8, 6), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    out = tmp_path / "codes.npz"
    options = ["--sample", "--seed", 3, "--batch-size", 4, "--device", "cpu"]
    assert cli("embed", run.path, tmp_path / "images.npy", "--out", out, *options)[0] == 0
    with np.load(out) as file:
        assert list(file) == ["row", "z", "std", "kl", "kl_per_latent"]
        np.testing.assert_allclose(file["z"], run.embed(images, sample=True, seed=3).z, rtol=1e-5, atol=1e-6)
    out = tmp_path / "codes.npy"
    assert cli("embed", run.path, "--split", "validation", "--out", out)[0] == 0
    np.testing.assert_array_equal(np.load(out), run.embed(split="validation").z)


def test_what_cannot_be_embedded_or_written_is_refused_and_leaves_nothing(
    cli: Cli, labelled_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "large.npy", np.zeros((4, 9, 6), np.uint8))
    out = tmp_path / "codes.npz"
    for arguments, expected in {
        (tmp_path / "large.npy",): (1, ["do not have the shape", "(1, 9, 6)", "(1, 8, 6)"]),
        ("digits",): (1, ["do not have the shape", "(1, 28, 28)"]),
        ("nowhere",): (1, ["do not exist", "nowhere"]),
        ("--split", "extra"): (2, ["do not have this split", "train, validation, test"]),
        ("--fit", "crop"): (2, ["only image files"]),
        ("--out", tmp_path / "codes.csv"): (2, ["unknown format of a table", ".parquet, .npz, .npy"]),
    }.items():
        code, stdout, err = cli("embed", labelled_run, "--out", out, *arguments)
        assert (code, stdout) == (expected[0], "")
        assert all(part in err for part in expected[1]), err
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    code, _, err = cli("embed", labelled_run, "--out", tmp_path / "codes.parquet")
    assert code == 2
    assert 'pip install "vaekit[parquet]"' in err
    assert [path.name for path in tmp_path.iterdir()] == ["large.npy"]
