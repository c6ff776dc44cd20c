"""``vaekit score`` and ``run.score``: tables, thresholds, known anomalies, maps and pages."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import vaekit
from vaekit.data.batches import Batches
from vaekit.streams import Streams

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def own_run(labelled_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the images of `labelled_run` with a likelihood of grey pixels."""
    options = {"likelihood": "gaussian", "epochs": 10, "lr": 5e-3, "pictures": "none"}
    return vaekit.train(labelled_run / "spec.yaml", out=tmp_path_factory.mktemp("score") / "run", **options).path


@pytest.fixture
def run(own_run: Path) -> Path:
    """The run, without a threshold."""
    (own_run / "threshold.json").unlink(missing_ok=True)
    return own_run


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 50 images of noise, which are anomalies, without labels."""
    file = tmp_path_factory.mktemp("noise") / "noise.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (50, 8, 6), dtype=np.uint8))
    return file


def test_table_has_the_numbers_of_the_test_split_with_labels(cli: Cli, run: Path) -> None:
    code, out, err = cli("score", run, "--samples", 5)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("elbo of 24 examples: mean ")
    assert out.splitlines()[-1] == str(run / "scores.parquet")
    table = pq.read_table(run / "scores.parquet").to_pydict()
    assert list(table)[:3] == ["row", "label", "class_name"]
    assert table["row"] == list(range(24))
    assert {*zip(table["label"], table["class_name"], strict=True)} == {(0, "left"), (1, "middle"), (2, "right/far")}
    columns = {name: np.array(values) for name, values in table.items()}
    np.testing.assert_allclose(columns["score"], columns["reconstruction"] + columns["kl"], rtol=1e-6)
    np.testing.assert_array_equal(columns["score"], -columns["elbo"])
    assert (columns["effective_samples"] <= 5).all()
    evaluated = vaekit.Run(run).evaluation()
    assert evaluated is not None
    spread = columns["elbo"].std() / 24**0.5
    assert columns["elbo"].mean() == pytest.approx(evaluated["elbo"], abs=max(0.5, spread))
    assert columns["kl"].mean() == pytest.approx(evaluated["kl"], rel=1e-5)


def test_the_same_numbers_for_any_size_of_batches_and_from_python(cli: Cli, run: Path, tmp_path: Path) -> None:
    opened = vaekit.Run(run)
    assert cli("score", run, "--out", tmp_path / "scores.npz")[0] == 0
    stored = np.load(tmp_path / "scores.npz")
    for size in (1, 7, 64):
        scores = opened.score(batch_size=size)
        assert scores.columns.keys() == set(stored)
        for name in ("elbo", "kl", "reconstruction", "squared_error", "score"):
            np.testing.assert_allclose(scores[name], stored[name], rtol=2e-6, atol=3e-5)


def test_threshold_is_a_quantile_of_the_validation_split_and_is_kept(cli: Cli, run: Path) -> None:
    code, out, _ = cli("score", run, "--quantile", 0.9, "--score", "squared_error", "--json")
    result = json.loads(out)
    stored = json.loads((run / "threshold.json").read_text())
    assert (code, result["threshold"]) == (0, stored)
    normal = vaekit.Run(run).score(split="validation", score="squared_error")
    assert stored["value"] == np.quantile(normal.score, 0.9, method="inverted_cdf")
    assert (stored["score"], stored["num_images"], stored["epoch"]) == (
        "squared_error",
        24,
        vaekit.Run(run).header.state["epoch"],
    )
    assert (normal["above_threshold"] == (normal.score > stored["value"])).all()
    assert normal["above_threshold"].sum() == 2
    assert result["num_above"] == vaekit.Run(run).score(score="squared_error")["above_threshold"].sum()
    for other in ({"score": "elbo"}, {"score": "squared_error", "deterministic": True}):
        assert "above_threshold" not in vaekit.Run(run).score(**other).columns


def test_threshold_from_the_share_of_anomalies_in_the_data(cli: Cli, run: Path, noise: Path, tmp_path: Path) -> None:
    assert cli("score", run, noise, "--contamination", 0.1, "--out", tmp_path / "s.npz")[0] == 0
    table = np.load(tmp_path / "s.npz")
    assert table["above_threshold"].sum() == 5
    assert table["score"][table["above_threshold"]].min() > table["score"][~table["above_threshold"]].max()
    assert json.loads((run / "threshold.json").read_text())["source"] == "noise.npy"


def test_a_threshold_of_named_normal_examples(run: Path, noise: Path) -> None:
    scores = vaekit.Run(run).score(quantile=0.8, validation=noise)
    assert scores.threshold is not None
    assert (scores.threshold.source, scores.threshold.num_images) == ("noise.npy", 50)
    assert not scores["above_threshold"].any()


def test_a_second_data_set_is_of_anomalies(cli: Cli, run: Path, noise: Path, tmp_path: Path) -> None:
    options = ["--against", noise, "--quantile", 0.9, "--score", "input_complexity", "--out", tmp_path / "s.parquet"]
    code, out, _ = cli("score", run, *options)
    assert code == 0
    assert re.search(r"^  squared_error +AUROC 1\.0000  average precision 1\.0000$", out, re.MULTILINE)
    assert re.search(r"^  precision 0\.\d+, recall \d\.\d+, F1 0\.\d+$", out, re.MULTILINE)
    table = pq.read_table(tmp_path / "s.parquet").to_pydict()
    assert table["row"] == [*range(24), *range(50)]
    assert table["anomaly"] == [False] * 24 + [True] * 50
    assert set(table["data"]) == {"the test split of the run's data", "noise.npy"}
    assert (table["label"][24:], table["class_name"][24:]) == ([-1] * 50, [""] * 50)
    assert json.loads(cli("score", run, *options, "--json")[1])["auroc"]["elbo"] == 1.0


def test_labels_of_anomalies_are_named(cli: Cli, run: Path, tmp_path: Path) -> None:
    options = ["--anomalous", "left", "--anomalous", "right/far", "--json", "--out", tmp_path / "s.npz"]
    code, out, _ = cli("score", run, *options)
    table = np.load(tmp_path / "s.npz")
    assert code == 0
    assert (table["anomaly"] == (table["class_name"] != "middle")).all()
    assert 0 <= json.loads(out)["auroc"]["kl"] <= 1


def test_likelihood_ratio_is_a_difference_of_two_models(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "background"))
    spec = (other / "spec.yaml").read_text()
    scores = vaekit.Run(run).score(score="likelihood_ratio", background=other)
    np.testing.assert_allclose(scores.score, 0, atol=1e-4)  # it is the same model with the same draws
    (other / "spec.yaml").write_text(spec.replace("binarize: none", "binarize: threshold"))
    with pytest.raises(vaekit.VaekitError, match="not comparable"):
        vaekit.Run(run).score(score="likelihood_ratio", background=other)


def test_a_background_model_needs_a_density(run: Path, tmp_path: Path) -> None:
    data = {"dataset": "array", "dataset.path": vaekit.Run(run).spec.data.dataset.path}  # type: ignore[attr-defined]
    options = {"posterior": "delta", "likelihood": "gaussian", "epochs": 1, "pictures": "none", "batch_size": 16}
    background = vaekit.train(**data, **options, out=tmp_path / "background")
    with pytest.raises(vaekit.VaekitError, match=r"the background model .* has no likelihood, since"):
        vaekit.Run(run).score(score="likelihood_ratio", background=background)


def test_files_of_a_folder_are_named_and_of_another_size_refused(cli: Cli, run: Path, tmp_path: Path) -> None:
    for name, shade in (("a/one.png", 40), ("b/two.png", 200), ("b/three.png", 90)):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 8), shade).save(tmp_path / "photos" / name)
    assert cli("score", run, tmp_path / "photos", "--out", tmp_path / "s.npz")[0] == 0
    table = np.load(tmp_path / "s.npz")
    assert table["file"].tolist() == [str(tmp_path / "photos" / name) for name in ("a/one.png", "b/three.png", "b/two.png")]
    assert table["class_name"].tolist() == ["a", "b", "b"]
    for file in (tmp_path / "photos").rglob("*.png"):
        Image.new("L", (12, 16), 90).save(file)
    code, _, err = cli("score", run, tmp_path / "photos", "--out", tmp_path / "other.npz")
    assert (code, "do not have the shape of the model" in err, "--fit crop" in err) == (1, True, True)
    assert not (tmp_path / "other.npz").exists()
    for words in ([tmp_path / "photos"], ["--against", tmp_path / "photos", "--split", "validation"]):
        assert cli("score", run, *words, "--fit", "stretch", "--out", tmp_path / "other.npz")[0] == 0


def test_nothing_is_drawn_for_deterministic_scores_not_even_binary_pixels(labelled_run: Path, tmp_path: Path) -> None:
    options = {"binarize": "dynamic", "epochs": 1, "pictures": "none"}
    run = vaekit.train(labelled_run / "spec.yaml", out=tmp_path / "run", **options)
    grey = run.splits.test.gather(torch.arange(24)) / 255
    binary = Batches(run.splits.test, batch_size=24, streams=Streams(0), binarize="dynamic", train=False, split="test")
    fixed, drawn = run.score(deterministic=True), run.score(samples=2)
    for scores, x in ((fixed, grey), (drawn, binary.fixed(torch.arange(24)))):
        expected = (x - run.vae().reconstruct(x)).square().flatten(1).sum(1)
        np.testing.assert_allclose(scores["squared_error"], expected, rtol=1e-4)
    assert (fixed["elbo"] == run.score(deterministic=True, seed=1)["elbo"]).all()
    assert (drawn["elbo"] != run.score(samples=2, seed=1)["elbo"]).any()
    assert (fixed.elbo_is[-11:], drawn.elbo_is) == ("not a bound", "lower bound of log p(x), nats")


def test_maps_are_pictures_of_the_error_by_row(cli: Cli, run: Path, tmp_path: Path) -> None:
    assert cli("score", run, "--maps", tmp_path / "maps", "--out", tmp_path / "s.npz")[0] == 0
    assert sorted(file.name for file in (tmp_path / "maps").iterdir()) == [f"{row:02}.png" for row in range(24)]
    drawn = np.asarray(Image.open(tmp_path / "maps" / "07.png")).astype(float) / 255
    assert drawn.shape == (8, 6)
    assert (drawn**2).sum() == pytest.approx(np.load(tmp_path / "s.npz")["squared_error"][7], rel=0.02)
    code, _, err = cli("score", run, "--maps", tmp_path / "maps", "--out", tmp_path / "s.npz")
    assert (code, "not an empty folder" in err) == (2, True)


def test_page_shows_the_least_and_most_likely_examples(cli: Cli, run: Path, noise: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, _, _ = cli("score", run, "--against", noise, "--quantile", 0.9, "--page", page, "--out", tmp_path / "s.npz")
    assert code == 0
    text, table = page.read_text("utf-8"), np.load(tmp_path / "s.npz")
    least, most = (re.search(rf'<section id="{name}".*?</section>', text, re.DOTALL) for name in ("least", "most"))
    assert least is not None
    assert most is not None
    order = np.argsort(-table["score"], kind="stable")
    for section, rows in ((least[0], order[:24]), (most[0], order[::-1][:24])):
        assert section.count("<figure>") == 24
        known = "anomaly, " if table["anomaly"][rows[0]] else ""
        first = f"{table['score'][rows[0]]:,.2f}: {known}row {table['row'][rows[0]]}"
        assert re.search(r"<figcaption>([^<]*)", section)[1].startswith(first)  # type: ignore[index]
    assert "stroke-dasharray" in text
    assert "Known anomalies" in text
    assert "<script src" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        ("--score entropy", 2, "unknown score"),
        ("--score log_likelihood", 2, "--samples"),
        ("--score likelihood_ratio", 2, "--background"),
        ("--samples 3 --deterministic", 2, "importance samples are random"),
        ("--quantile 0.9 --contamination 0.1", 2, "one source"),
        ("--quantile 1.5", 2, "between 0 and 1"),
        ("--anomalous left --against x.npy", 2, "leave out one"),
        ("--anomalous above", 2, "left, middle, right/far"),
        ("--split final", 2, "do not have this split"),
        ("nothing.npy", 1, "the data do not exist"),
        ("digits --split final", 2, "do not have this split"),
        ("--out scores.xlsx", 2, ".parquet"),
        ("--background nowhere", 1, "not a run folder"),
        ("--device abacus", 2, "abacus"),
    ],
)
def test_mistakes_are_explained(cli: Cli, run: Path, arguments: str, code: int, part: str) -> None:
    (run / "scores.parquet").unlink(missing_ok=True)
    given, out, err = cli("score", run, *arguments.split())
    assert (given, out) == (code, "")
    assert part in err
    assert "Traceback" not in err
    assert not (run / "scores.parquet").exists()
    assert not (run / "threshold.json").exists()


def test_a_quantile_without_validation_data_says_what_to_do(cli: Cli, run: Path, noise: Path, tmp_path: Path) -> None:
    lost = Path(shutil.copytree(run, tmp_path / "run"))
    spec = (lost / "spec.yaml").read_text()
    (lost / "spec.yaml").write_text(re.sub(r"path: .*images\.npz", f"path: {tmp_path}/lost.npz", spec))
    out = ["--out", tmp_path / "s.npz"]
    code, _, err = cli("score", lost, noise, "--quantile", 0.9, *out)
    assert code == 1
    assert "a quantile needs the validation split" in err
    assert "--validation DATA" in err
    assert cli("score", lost, noise, "--quantile", 0.9, "--validation", noise, *out)[0] == 0
    assert cli("score", lost, noise, "--contamination", 0.1, *out)[0] == 0


def test_anomalies_without_labels_are_refused(cli: Cli, run: Path, noise: Path) -> None:
    code, _, err = cli("score", run, noise, "--anomalous", "left")
    assert (code, "the data have no labels" in err) == (1, True)


def test_a_damaged_threshold_is_named(cli: Cli, run: Path, tmp_path: Path) -> None:
    for content in ("{", "[]", '{"score": "elbo"}', '{"score": "elbo", "value": null}'):
        (run / "threshold.json").write_text(content)
        code, _, err = cli("score", run, "--out", tmp_path / "s.npz")
        assert code == 1
        assert "threshold.json is damaged" in err
        assert "vaekit score" in err
