"""Throughput measurements are complete, comparable and of the right amount of work."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image

from vaekit.benchmark.machine import covered
from vaekit.benchmark.report import compare, differences, read_result
from vaekit.benchmark.throughput import PARTS, TASKS, _saved_bytes, throughput
from vaekit.cli import main
from vaekit.errors import DataError, UsageError

TINY = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2, "threads": 1, "binarize": "none", "likelihood": "bce"}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (80, 6, 6), dtype=np.uint8))
    return path


@pytest.fixture(scope="module")
def result(images):
    given = {"dataset": "array", "dataset.path": str(images), **TINY}
    return throughput({}, batch_sizes=(8, 16), devices=("cpu",), seconds=0.01, **given)


def test_every_task_and_batch_size_has_a_row_with_its_spread(result):
    assert {(row["task"], row["batch"]) for row in result["rows"]} == {(task, size) for task in TASKS for size in (8, 16)}
    for row in result["rows"]:
        assert 0 < row["lower"] <= row["images_per_second"] <= row["upper"]
        assert row["flops_fraction"] > 0
        assert row["peak_bytes"] > 0
        if row["task"] == "train":
            assert list(row["parts"]) == list(PARTS)
            assert row["bytes_fraction"] > 0
            assert row["first_step_seconds"] > 0


def test_flops_are_those_of_the_products_of_matrices(result):
    weights = 36 * 8 + 8 * 4 + 2 * 8 + 8 * 36  # in -> hidden -> 2 x latent; latent -> hidden -> out
    for row in result["rows"]:
        forward = 2 * weights * row["batch"]
        if row["task"] == "train":
            assert row["flops"] == 3 * forward - 2 * 36 * 8 * row["batch"]  # images need no gradient
        if row["task"] == "evaluate":
            assert row["flops"] == forward
        if row["task"] == "encode":
            assert row["flops"] == 2 * (36 * 8 + 8 * 4) * row["batch"]


def test_a_step_moves_at_least_its_parameters_and_moments(result):
    num_parameters = 36 * 8 + 8 + 8 * 4 + 4 + 2 * 8 + 8 + 8 * 36 + 36
    small, large = (next(r for r in result["rows"] if r["task"] == "train" and r["batch"] == size) for size in (8, 16))
    assert 40 * num_parameters < small["bytes"] < large["bytes"]


def test_a_loss_that_differentiates_by_torch_func_is_measured_without_the_bytes_of_its_step():
    """These are counted by hooks, which torch.func rejects; other errors are reported."""
    weight = torch.ones(3, requires_grad=True)

    def step():
        torch.func.grad(lambda z: (weight * z).square().sum())(torch.ones(3)).sum().backward()

    def fails():
        raise RuntimeError("of a loss")

    assert _saved_bytes(step, torch.nn.Module()) is None
    assert _saved_bytes(lambda: weight.square().sum().backward(), torch.nn.Module()) == 12
    with pytest.raises(RuntimeError, match="of a loss"):
        _saved_bytes(fails, torch.nn.Module())


def test_the_machine_the_versions_and_the_commit_are_recorded(result):
    assert result["environment"]["versions"]["torch"] == torch.__version__
    assert result["environment"]["threads"] == 1
    assert "commit" in result["environment"]
    assert set(result["machine"]) == {"cpu fp32"}
    assert json.loads(json.dumps(result)) == result


def test_two_measurements_are_compared_row_by_row(result):
    faster = deepcopy(result)
    for row in faster["rows"]:
        for name in ("lower", "images_per_second", "upper"):
            row[name] *= 1e6  # beyond what other load on the machine does to the quartiles
    faster["environment"]["threads"] = 4
    rows = compare(result, faster)
    assert len(rows) == len(result["rows"])
    assert all(row["ratio"] == pytest.approx(1e6) and row["beyond_quartiles"] for row in rows)
    assert not any(row["beyond_quartiles"] for row in compare(result, result))
    assert differences(result, faster) == ["threads: 1 before, 4 after"]
    with pytest.raises(UsageError, match="no row in common"):
        compare(result, {**result, "rows": []})


def test_an_unrelated_file_is_named(tmp_path):
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(DataError, match="is not a measurement"):
        read_result(tmp_path / "other.json")


def test_the_command_prints_a_table_json_and_a_chart_and_compares(images, tmp_path, capsys):
    flags = ["--dataset", "array", "--path", str(images), "--encoder.hidden", "8", "--decoder.hidden", "8", "--threads", "1"]
    common = ["bench", *flags, "--batch-sizes", "8", "--devices", "cpu", "--seconds", "0.1", "--tasks", "train,encode"]
    assert main([*common, "--precisions", "fp32,bf16", "--plot", str(tmp_path / "chart.png")]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("images/s", "bf16", "GFLOP/s", "torch", "peak memory"))
    with Image.open(tmp_path / "chart.png") as picture:
        assert picture.size[1] > 4 * 20
    assert main([*common, "--json"]) == 0
    text = capsys.readouterr().out
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(text)
    assert main(["bench", "--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    assert "within the spread" in capsys.readouterr().out
    other = json.loads(text)
    other["spec"]["train"]["ema"] = 0.9
    (tmp_path / "b.json").write_text(json.dumps(other))
    assert main(["bench", "--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    assert "train.ema: none before, 0.9 after" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-sizes", "8,x"], "batch sizes must be positive integers"),
        (["--tasks", "train,fly"], "unknown tasks"),
        (["--plot", "nowhere/chart.png"], "chart cannot be written"),
        (["--plot", "chart.txt"], "chart cannot be written"),
        (["--compile", "maybe"], "unknown compile"),
        (["--encoder", "nothing"], "nothing"),
    ],
)
def test_an_invalid_request_is_a_usage_error(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.gpu
def test_cuda_is_timed_by_events(images):
    given = {"dataset": "array", "dataset.path": str(images), **TINY}
    result = throughput({}, batch_sizes=(8,), devices=("cuda",), seconds=0.1, **given)
    assert {row["device"] for row in result["rows"]} == {"cuda"}
    assert result["environment"]["gpu"] == torch.cuda.get_device_name()


def test_overlapping_time_is_counted_once():
    assert covered([(4, 6), (0, 2), (1, 3), (1, 2), (6, 7)]) == 6
    assert covered([]) == 0


@pytest.mark.gpu
def test_the_busy_fraction_is_measured_on_cuda(images):
    given = {"dataset": "array", "dataset.path": str(images), **TINY}
    ways = ("off", "graph")
    result = throughput({}, batch_sizes=(8,), devices=("cuda",), compilations=ways, tasks=("train",), seconds=0.01, **given)
    assert all(0 < row["busy_fraction"] <= 1.1 for row in result["rows"])
