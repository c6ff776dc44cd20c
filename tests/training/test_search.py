"""A search is a single study, regardless of the number of processes and interruptions."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import optuna
import pytest

import vaekit
from vaekit import Range
from vaekit.compute.process import Interrupted
from vaekit.errors import DataError, UsageError
from vaekit.evaluation.metrics import Criterion
from vaekit.sweeps import search
from vaekit.sweeps.record import outcome
from vaekit.training.step import Step

ROOT = Path(__file__).parents[2]
OVER = {"beta": Range(0.5, 8.0), "lr": Range(1e-4, 1e-2, log=True)}


def options(images, **more):
    return {
        "dataset": "array",
        "dataset.path": str(images),
        "encoder.hidden": "16",
        "decoder.hidden": "16",
        "likelihood": "bce",
        "binarize": "dynamic",
        "loss": "beta",
        "latent_dim": "3",
        "batch_size": "16",
        "epochs": "2",
        "threads": "1",
        "device": "cpu",
        "pictures": "none",
        **more,
    }


def record_of(folder):
    return json.loads((folder / "sweep.json").read_text())


def values_of(folder):
    return [(row["options"], row.get("value"), row.get("test")) for row in record_of(folder)["runs"]]


def asked(tmp_path, images, *, name="search", **more):
    where = {"storage": tmp_path / f"{name}.journal", "out": tmp_path / name}
    return {"over": OVER, "trials": 3, "prune": False, **where, **options(images), **more}


def test_a_search_returns_a_run_per_trial_best_first(images, tmp_path):
    runs = vaekit.search(**asked(tmp_path, images))
    record = record_of(tmp_path / "search")
    assert [row["run"][:4] for row in record["runs"]] == ["0000", "0001", "0002"]
    assert record["over"] == {"beta": "0.5..8.0", "lr": "0.0001..0.01:log"}
    kept = [max((r for r in run.metrics() if r["best"]), key=lambda r: r["epoch"])["validation_elbo"] for run in runs]
    assert kept == sorted(kept, reverse=True)
    assert sorted(row["value"] for row in record["runs"]) == sorted(kept)
    assert record["best"] == runs[0].path.name
    for run in runs:
        (row,) = (row for row in record["runs"] if row["run"] == run.path.name)
        assert run.spec.model.loss[0].beta == row["options"]["beta"]
        assert run.spec.train.lr == row["options"]["lr"]
        assert row["test"]["elbo"] == run.evaluation()["elbo"]
    left = {path.name for path in (tmp_path / "search").iterdir() if path.is_file()}
    assert left == {"sweep.json"}


def test_a_run_of_a_search_equals_that_of_train(images, tmp_path):
    best, *_ = vaekit.search(**asked(tmp_path, images, trials=2))
    single = vaekit.train(best.path / "spec.yaml", out=tmp_path / "alone")
    assert (best.path / "model.safetensors").read_bytes() == (single.path / "model.safetensors").read_bytes()


def test_adding_trials_later_equals_requesting_them_at_once(images, tmp_path):
    vaekit.search(**asked(tmp_path, images, trials=2))
    vaekit.search(**asked(tmp_path, images, trials=4))
    vaekit.search(**asked(tmp_path, images, trials=4, name="whole"))
    assert values_of(tmp_path / "search") == values_of(tmp_path / "whole")


def test_lists_integers_and_non_text_values_are_drawn(images, tmp_path):
    over = {
        "latent_dim": Range(2, 4),
        "encoder.hidden": ((8,), (16, 8)),
        "schedule": ("cosine", "constant"),
        "grad_clip": (None, 5.0),
    }
    given = {name: value for name, value in asked(tmp_path, images).items() if name not in over}
    for run in vaekit.search(**{**given, "over": over, "trials": 4, "epochs": 1}):
        assert run.spec.model.latent_dim in {2, 3, 4}
        assert run.spec.model.encoder.hidden in {(8,), (16, 8)}
        assert run.spec.train.grad_clip in {None, 5.0}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"over": {**OVER, "lr": Range(1e-4, 1e-1)}}, "a different over"),
        ({"epochs": "3"}, "a different epochs"),
        ({"metric": "loss"}, "a different metric"),
        ({"out": "elsewhere"}, "runs are in another folder"),
    ],
)
def test_another_study_is_refused(images, tmp_path, changed, message):
    vaekit.search(**asked(tmp_path, images, trials=1))
    with pytest.raises(UsageError, match=message):
        vaekit.search(**asked(tmp_path, images, trials=2, **changed))
    assert len(record_of(tmp_path / "search")["runs"]) == 1


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"metric": "elbow"}, UsageError, "(?s)metric elbow is not available.*loss, .*elbo"),
        ({"metric": "loss:up"}, UsageError, "loss:min or loss:max"),
        ({"trials": 0}, UsageError, "needs at least one trial"),
        ({"over": {}}, UsageError, "nothing to sweep over"),
        ({"over": {"beta": Range(-1.0, 2.0)}}, UsageError, "beta"),
        ({"over": {"seed": Range(0, 3), "dataset.path": ("absent.npy",)}, "dataset.path": None}, DataError, "absent.npy"),
        ({"over": {"likelihood": ("bce", "mse")}, "likelihood": None}, UsageError, "not comparable"),
        (
            {"over": {"lr": OVER["lr"]}, "posterior": "delta", "loss": None},
            UsageError,
            "(?s)metric elbo is not available.*'delta' has no density",
        ),
    ],
)
def test_a_search_that_cannot_start_leaves_nothing(images, tmp_path, changed, error, message):
    given = {name: value for name, value in {**asked(tmp_path, images), **changed}.items() if value is not None}
    with pytest.raises(error, match=message):
        vaekit.search(**given)
    assert {path.name for path in tmp_path.iterdir()} == {"images.npy"}


def test_a_file_that_is_not_a_journal_is_refused_and_unchanged(images, tmp_path):
    file = tmp_path / "search.journal"
    file.write_text("model:\n  latent_dim: 3\n")
    with pytest.raises(UsageError, match="not an Optuna journal"):
        vaekit.search(**asked(tmp_path, images))
    assert file.read_text() == "model:\n  latent_dim: 3\n"
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize("cut", [1, 20, 150, 180])
def test_a_study_whose_last_line_was_truncated_by_a_kill_continues(images, tmp_path, cut):
    vaekit.search(**asked(tmp_path, images, name="whole"))
    vaekit.search(**asked(tmp_path, images, trials=2))
    file = tmp_path / "search.journal"
    file.write_bytes(file.read_bytes()[:-cut])
    removed = pytest.warns(UserWarning, match=r"search\.journal: the last line is incomplete and is removed")
    with nullcontext() if cut == 1 else removed:  # only the end of the line is missing, and nothing else
        vaekit.search(**asked(tmp_path, images))
    assert values_of(tmp_path / "search") == values_of(tmp_path / "whole")


def test_a_journal_damaged_elsewhere_is_refused_and_unchanged(images, tmp_path):
    vaekit.search(**asked(tmp_path, images, trials=1))
    file = tmp_path / "search.journal"
    lines = file.read_bytes().splitlines(keepends=True)
    content = b"".join([*lines[:3], lines[3][:30] + lines[4], *lines[5:]])
    file.write_bytes(content)
    with pytest.raises(UsageError, match="not an Optuna journal, or is damaged"):
        vaekit.search(**asked(tmp_path, images))
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("elbo", ("elbo", True)),
        ("loss", ("loss", False)),
        ("active_units", ("active_units", True)),
        ("active_units:min", ("active_units", False)),
        ("beta", ("beta", False)),
        ("elbo:min", ("elbo", False)),
    ],
)
def test_the_direction_of_a_metric_is_known_and_can_be_overridden(text, expected):
    criterion = Criterion.read(text)
    assert (criterion.name, criterion.maximise) == expected


def test_without_optuna_the_error_names_the_extra(images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "vaekit.sweeps.study", raising=False)
    with pytest.raises(UsageError, match=r"vaekit\[optuna\]"):
        vaekit.search(**asked(tmp_path, images))


@pytest.mark.usefixtures("fragile")
def test_a_trial_that_diverges_fails_with_its_error_and_the_search_continues(images, tmp_path):
    runs = vaekit.search(**asked(tmp_path, images, over={"weight": Range(0.0, 2.0)}, loss="fragile", trials=5))
    rows = record_of(tmp_path / "search")["runs"]
    failed = [row for row in rows if row["options"]["weight"] > 1]
    assert 0 < len(failed) < len(rows) == 5
    assert all("not finite: loss, fragile at epoch 2" in row["error"] for row in failed)
    assert len(runs) == len(rows) - len(failed)
    study = optuna.load_study(study_name=None, storage=storage_of(tmp_path / "search.journal"))
    assert [trial.state.name for trial in study.trials].count("FAIL") == len(failed)


def storage_of(path):
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))


def test_a_trial_below_the_median_is_pruned_and_its_run_kept(images, tmp_path):
    over = {"lr": Range(1e-5, 1e-1, log=True)}
    vaekit.search(**asked(tmp_path, images, over=over, trials=8, epochs=3, prune=True, schedule="constant", seed="4"))
    rows = record_of(tmp_path / "search")["runs"]
    pruned = [row for row in rows if "pruned" in row]
    assert pruned
    for row in pruned:
        assert len(vaekit.Run(tmp_path / "search" / row["run"]).metrics()) == row["pruned"] < 3
        assert "test" not in row
        assert row["value"] < np.median([row["value"] for row in rows])


def test_an_interrupted_search_resumes_its_trial(images, tmp_path, monkeypatch):
    step, taken = Step.__call__, []

    def stop_at_twenty(self, *arguments):
        taken.append(self)
        if len(taken) == 20:  # in the second trial's first epoch
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", stop_at_twenty)
        with pytest.raises(Interrupted) as stop:
            vaekit.search(**asked(tmp_path, images))
    assert stop.value.args == (str(tmp_path / "search"),)
    assert ["value" in row for row in record_of(tmp_path / "search")["runs"]] == [True, False]
    steps = []
    monkeypatch.setattr(Step, "__call__", lambda self, *arguments: steps.append(self) or step(self, *arguments))
    vaekit.search(**asked(tmp_path, images))
    assert len(steps) == 3 * 2 * 6 - 20
    vaekit.search(**asked(tmp_path, images, name="whole"))
    assert values_of(tmp_path / "search") == values_of(tmp_path / "whole")


def test_a_trial_that_repeatedly_kills_its_process_fails(images, tmp_path, monkeypatch):
    class Died(BaseException):
        """Simulates a kill."""

    def die(self, *arguments):
        raise Died

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(Step, "__call__", die)
            with pytest.raises(Died):
                vaekit.search(**asked(tmp_path, images))
    runs = vaekit.search(**asked(tmp_path, images))
    first, *others = record_of(tmp_path / "search")["runs"]
    assert "died 3 times" in first["error"]
    assert len(runs) == len(others) == 2


def start(*arguments, program=("-m", "vaekit"), **variables):
    """Start a process; with RANK set, it is one of two started by torchrun."""
    if variables:
        variables = {"WORLD_SIZE": "2", "LOCAL_RANK": str(variables["RANK"]), "RANK": str(variables["RANK"])}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, *program, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def flags(tmp_path, images, *, trials):
    given = [word for name, value in options(images).items() for word in (f"--{name}", value)]
    search = ["--search", "optuna", "--storage", tmp_path / "search.journal", "--out", tmp_path / "search", "--prune", "off"]
    return ["sweep", *given, *search, "--trials", trials, "--over", "beta=0.5..8.0", "--over", "lr=1e-4..1e-2:log", "--json"]


DIES = """
import os, signal, sys
from vaekit.cli import main
from vaekit.training.step import Step
step = Step.__call__
def hooked(self, reading):
    if reading.number == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, reading)
Step.__call__ = hooked
main(sys.argv[1:])
"""


def test_a_killed_process_does_not_change_the_trials(images, tmp_path):
    arguments = flags(tmp_path, images, trials=5)
    with start(*arguments, program=("-c", DIES), RANK=0) as dying:
        while dying.poll() is None and not any((tmp_path / "search").glob("*/spec.yaml")):  # or the other might do all trials
            time.sleep(0.01)
        with start(*arguments, RANK=1) as living:
            _, errors = living.communicate(timeout=120)
            assert dying.wait(120) < 0
    assert living.returncode == 0, errors
    vaekit.search(**asked(tmp_path, images, trials=5))  # takes over the dead process's trial, if the other one has already ended
    vaekit.search(**asked(tmp_path, images, trials=5, name="whole"))
    assert values_of(tmp_path / "search") == values_of(tmp_path / "whole")


@pytest.mark.slow
def test_under_torchrun_each_process_runs_its_own_trials(images, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vaekit")
    with start(*flags(tmp_path, images, trials=4), program=launcher) as torchrun:
        output, errors = torchrun.communicate(timeout=120)
    assert torchrun.returncode == 0, errors
    assert output.count('"metric": "elbo:max"') == 2  # each reports the result of the study
    vaekit.search(**asked(tmp_path, images, trials=4, name="whole"))
    assert values_of(tmp_path / "search") == values_of(tmp_path / "whole")


def test_the_outcome_of_a_trial_is_read_once(images, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(search, "outcome", lambda run, error: read.append(run.path.name) or outcome(run, error))
    runs = vaekit.search(**asked(tmp_path, images, trials=4))
    assert sorted(read) == sorted(run.path.name for run in runs)
    assert all("test" in row for row in record_of(tmp_path / "search")["runs"])
