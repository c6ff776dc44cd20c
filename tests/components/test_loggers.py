"""Output of the built-in loggers can be read with the libraries' own readers; no network is needed."""

import sys
from pathlib import Path

import pytest
import torch

import vaekit
from vaekit.components.loggers.tensorboard import LARGEST_SPRITE, thumbnails
from vaekit.errors import UsageError
from vaekit.store import checkpoint
from vaekit.training.logger import Codes

SMALL = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 3, "batch_size": 16, "threads": 1, "device": "cpu"}


@pytest.fixture
def options(labelled_run):
    """Options of a run of 3 epochs on the labelled images of 8×6."""
    data = vaekit.Run(labelled_run).spec.data.dataset.model_dump()
    return SMALL | {"dataset": data, "likelihood": "bce", "epochs": 3, "pictures": (1, 3)}


def killed_after_logging(options: dict, epoch: int, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until an epoch is logged, then die before its checkpoint is written."""
    save = checkpoint.save

    def dying(path, tensors, spec, *, state, **more):
        if state.get("epoch", 0) == epoch:
            raise OSError("killed")
        save(path, tensors, spec, state=state, **more)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", dying)
        with pytest.raises(OSError, match="killed"):
            vaekit.train(**options, out=out)


@pytest.mark.parametrize(("kind", "module"), [("tensorboard", "tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow")])
def test_a_missing_library_is_reported_before_a_run_starts(kind, module, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == module or name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf'"vaekit\[{kind}\]"'):
        vaekit.train(logger=kind, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def accumulator(folder):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = event_accumulator.EventAccumulator(str(folder), {"scalars": 0, "images": 0})
    found.Reload()
    return found


def test_tensorboard_reads_a_run_that_was_killed_and_resumed_as_one(options, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    killed_after_logging(options | {"logger": "tensorboard"}, 2, tmp_path / "run", monkeypatch)
    folder = tmp_path / "run" / "tensorboard"
    assert len(accumulator(folder).Scalars("validation/loss")) == 2
    run = vaekit.resume(tmp_path / "run")
    found = accumulator(folder)
    for name, field in {"validation/loss": "validation_loss", "train/kl": "train_kl", "lr": "lr"}.items():
        logged = [(event.step, event.value) for event in found.Scalars(name)]
        assert logged == [(record["step"], pytest.approx(record[field])) for record in run.metrics()]
    last = run.metrics()[-1]["step"]
    assert [event.step for event in found.Images("reconstructions")] == [run.metrics()[0]["step"], last]
    assert found.Images("samples")[0].encoded_image_string.startswith(b"\x89PNG")
    assert [(event.step, event.value) for event in found.Scalars("test/elbo")] == [
        (last, pytest.approx(run.evaluation()["elbo"]))
    ]
    assert "kind: array" in found.Tensors("spec/text_summary")[0].tensor_proto.string_val[0].decode()

    (rows,) = folder.glob("*/codes/tensors.tsv")
    codes = torch.tensor([[float(value) for value in line.split("\t")] for line in rows.read_text().splitlines()])
    assert codes.shape == (len(run.splits.test), 3)
    assert set(rows.with_name("metadata.tsv").read_text().split()) == {"left", "middle", "right/far"}
    assert "metadata_path" in (folder / "projector_config.pbtxt").read_text()


def test_tensorboard_separates_runs_in_a_common_folder(options, tmp_path):
    pytest.importorskip("tensorboard")
    chosen = {"logger": "tensorboard", "log_dir": str(tmp_path / "logs"), "projector": 0, "epochs": 1}
    vaekit.train(**options | chosen, out=tmp_path / "first")
    assert accumulator(tmp_path / "logs" / "first").Scalars("train/loss")
    assert not list((tmp_path / "logs").rglob("*.tsv"))
    with pytest.raises(UsageError, match="already exists and belongs to another run"):
        vaekit.train(**options | chosen, out=tmp_path / "other" / "first")


@pytest.mark.parametrize(
    "shape", [(5, 1, 8, 6), (4, 3, 5, 9), (3, 2, 100, 90), (20000, 1, 64, 64), (6, 7), (6, 2, 30), (6, 1, 4, 5, 6)]
)
def test_thumbnails_are_square_and_fit_on_one_sheet(shape):
    found = thumbnails(Codes(torch.zeros(shape[0], 2), torch.zeros(1, *shape[1:]).expand(shape), None))
    coloured = len(shape) < 4 or shape[1] in (3, 4)
    assert found.shape[:2] == (shape[0], 3 if coloured else 1)
    assert found.shape[2] == found.shape[3] <= 64
    assert found.shape[2] * shape[0] ** 0.5 <= LARGEST_SPRITE


def wandb_records(folder: Path):
    """Read a file of W&B's: a header of 7 bytes, then LevelDB's log, whose records are its protocol buffers."""
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    (file,) = folder.glob("run-*.wandb")
    data, place, parts, block = file.read_bytes(), 7, b"", 32768
    while place + 7 <= len(data):
        if block - place % block < 7:  # the rest of a block too small for a header is left empty
            place += block - place % block
            continue
        size, fragment = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if fragment in (1, 4):  # a whole record, or its last part
            yield messages.Record.FromString(parts)
            parts = b""


def test_wandb_logs_a_run_offline_and_continues_under_its_id(options, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    chosen = options | {"logger": "wandb", "mode": "offline", "project": "digits"}
    killed_after_logging(chosen, 2, tmp_path / "run", monkeypatch)
    run = vaekit.resume(tmp_path / "run")
    sessions = sorted((run.path / "wandb").glob("offline-run-*"), key=lambda folder: folder.stat().st_mtime_ns)
    records = [record for folder in sessions for record in wandb_records(folder)]
    begun = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert {(each.project, each.display_name) for each in begun} == {("digits", "run")}
    assert len({each.run_id for each in begun}) == 1
    rows = [
        {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    logged = [(int(row["_step"]), float(row["validation/loss"])) for row in rows if "validation/loss" in row]
    assert logged == [(record["step"], pytest.approx(record["validation_loss"])) for record in run.metrics()]
    assert [int(row["_step"]) for row in rows if "samples/path" in row] == [run.metrics()[0]["step"], run.metrics()[-1]["step"]]
    assert len(list((run.path / "wandb").rglob("samples_*.png"))) == 2
    summary = {i.key: i.value_json for r in records if r.WhichOneof("record_type") == "summary" for i in r.summary.update}
    assert float(summary["test/elbo"]) == pytest.approx(run.evaluation()["elbo"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy, about MLflow
def test_mlflow_logs_a_run_to_a_database_and_continues_under_its_id(options, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("alembic")
    monkeypatch.chdir(tmp_path)
    place = f"sqlite:///{tmp_path / 'runs.db'}"
    chosen = options | {"logger": "mlflow", "tracking_uri": place, "experiment": "digits"}
    killed_after_logging(chosen, 2, tmp_path / "run", monkeypatch)
    client = mlflow.MlflowClient(place)
    experiment = client.get_experiment_by_name("digits").experiment_id
    assert [found.info.status for found in client.search_runs([experiment])] == ["KILLED"]
    run = vaekit.resume(tmp_path / "run")
    (found,) = client.search_runs([experiment])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    logged = [(metric.step, metric.value) for metric in client.get_metric_history(found.info.run_id, "validation/loss")]
    assert logged == [(record["step"], record["validation_loss"]) for record in run.metrics()]
    assert found.data.metrics["test/elbo"] == run.evaluation()["elbo"]
    assert found.data.metrics["validation_kl_per_latent/2"] == run.metrics()[-1]["validation_kl_per_latent"][2]
    assert (found.data.params["train.epochs"], found.data.params["model.loss.0.kind"]) == ("3", "kl")
    pictures = [Path(artifact.path).name for artifact in client.list_artifacts(found.info.run_id, "images")]
    assert len([name for name in pictures if name.startswith("samples") and name.endswith(".png")]) == 2
