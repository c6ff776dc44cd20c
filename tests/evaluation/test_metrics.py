"""A single table of metrics: an entry appears wherever metrics are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import vaekit
from vaekit.cli import main
from vaekit.evaluation.metrics import METRICS, Metric, comparable_metrics, documentation, metric_of, metrics_in
from vaekit.report import write_report
from vaekit.trace import Trace


def brightness(trace: Trace):
    return trace.reconstruction.flatten(-3).mean(-1)


ENTRY = Metric("brightness", "mean brightness", "pixel range", "mean pixel of the reconstruction", "less", brightness)
TINY = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2, "epochs": 2, "batch_size": 500, "threads": 1}


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch) -> Metric:
    """A metric added by an entry in the table."""
    monkeypatch.setitem(METRICS, ENTRY.key, ENTRY)
    return ENTRY


@pytest.mark.usefixtures("entry")
def test_a_metric_added_to_the_table_appears_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")  # for all columns of the sweep's table
    flags = [word for name, value in TINY.items() for word in (f"--{name}", str(value).strip("(),"))]
    assert main(["train", *flags, "--device", "cpu", "--out", str(tmp_path / "run")]) == 0
    terminal = capsys.readouterr().out
    run = vaekit.Run(tmp_path / "run")
    value = run.evaluation()["brightness"]
    images = run.vae().reconstruct(run.splits.test.gather(torch.arange(1000)) / 255)
    assert value == pytest.approx(images.mean().item(), abs=0.02)  # of sampled codes, where this is of their means
    assert f"mean brightness {value:>15.3f}  mean pixel of the reconstruction, pixel range" in terminal
    assert all("validation_brightness" in record for record in run.metrics())
    assert "| `brightness` | pixel range | mean pixel of the reconstruction | less |" in documentation()
    page = write_report(run).read_text("utf-8")
    assert page.count("mean brightness") >= 2  # a curve and a row
    other = vaekit.train(**TINY, device="cpu", seed=1, out=tmp_path / "other")
    assert main(["compare", str(run.path), str(other.path), "--out", str(tmp_path / "compare.png")]) == 0
    assert f"{value:.3f}" in capsys.readouterr().out
    assert (
        main(["sweep", *flags, "--device", "cpu", "--over", "seed=0,1", "--stack", "off", "--out", str(tmp_path / "sweep")]) == 0
    )
    assert "mean brightness" in " ".join(capsys.readouterr().out.split())
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text("utf-8"))["runs"]
    assert rows[0]["test"]["brightness"] == value
    where = {"storage": tmp_path / "study.journal", "out": tmp_path / "search"}
    best, worst = vaekit.search(over={"seed": (0, 1)}, trials=2, metric="brightness", prune=False, **where, **TINY, device="cpu")
    numbers = [run.metrics()[-1]["validation_brightness"] for run in (best, worst)]
    assert numbers == sorted(numbers)


def test_terms_of_an_objective_need_no_entry() -> None:
    shown = metrics_in(
        {"elbo_is": "lower bound", "split": "test", "num_images": 3, "kl": 1.0, "total_correlation": 0.5, "elbo": -2.0}
    )
    assert [metric.label for metric in shown] == ["ELBO", "KL", "total correlation"]
    assert metric_of("total_correlation").better is None


def test_a_cross_entropy_is_not_called_a_bound() -> None:
    grey = {"elbo_is": "cross-entropy on grey values, not a log-likelihood", "elbo": -2.0, "reconstruction": 1.0}
    assert [metric.label for metric in metrics_in(grey)] == ["-(CE+KL)", "cross-entropy"]
    assert metrics_in(grey)[0].meaning == grey["elbo_is"]


def test_models_are_compared_by_metrics_independent_of_the_objective() -> None:
    keys = [metric.key for metric in comparable_metrics({"run": dict.fromkeys(METRICS, 1.0)})]
    assert "elbo" in keys
    assert not {"loss", "samples", "images_per_second"} & set(keys)
