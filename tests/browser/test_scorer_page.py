"""A scorer in a browser, and in the WebAssembly that browsers run, equals the scores of Python."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vaekit

HERE = Path(__file__).parent
PAGE = ("scorer.html", "scorer_page.mjs", "scorer_node.mjs")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(labelled_run: Path, example: Path) -> tuple[Path, vaekit.Run]:
    """A folder with a page, a scorer and images to score, and the run."""
    run = vaekit.Run(shutil.copytree(labelled_run, example / "run"))
    run.score(quantile=0.7, deterministic=True)
    run.export(part="scorer", out=example / "scorer.onnx")
    x = (run.splits.test.gather(torch.arange(24)) / 255).numpy()
    (example / "images.json").write_text(json.dumps({"shape": x.shape, "values": x.ravel().tolist()}))
    for file in PAGE:
        shutil.copy(HERE / file, example)
    return example, run


def check(found: dict[str, list[float]], run: vaekit.Run) -> None:
    scores = run.score(deterministic=True)
    np.testing.assert_allclose(found["score"], scores.score, rtol=1e-5)
    assert (np.array(found["is_anomaly"]) == scores["above_threshold"]).all()
    assert 0 < sum(found["is_anomaly"]) < 24
    assert scores.threshold is not None
    np.testing.assert_allclose(found["normalised_score"], scores.threshold.normalised(scores.score), atol=1e-4)
    np.testing.assert_allclose(np.reshape(found["map"], (24, -1)).sum(1), scores["squared_error"], rtol=1e-4)


def test_a_page_scores_as_the_run_does(
    site: tuple[Path, vaekit.Run], drive: Callable[..., Any], serve: Callable[[Path], AbstractContextManager[str]]
) -> None:
    folder, run = site
    with serve(folder) as address:
        record = drive("scorer.mjs", f"{address}scorer.html")
    assert record["complaints"] == []
    check(record["found"], run)


def test_the_web_assembly_of_browsers_scores_as_the_run_does(site: tuple[Path, vaekit.Run], tmp_path: Path) -> None:
    folder, run = site
    command = ["node", "scorer_node.mjs", "scorer.onnx", "images.json", str(tmp_path / "result.json")]
    subprocess.run(command, cwd=folder, check=True, timeout=120)
    check(json.loads((tmp_path / "result.json").read_text())["found"], run)
