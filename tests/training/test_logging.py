"""Loggers receive everything once, whatever happens to the run, and do not affect training."""

import warnings

import numpy as np
import pytest
from PIL import Image

import vaekit
from vaekit import roles
from vaekit.cli import main
from vaekit.errors import UnknownComponentError, UsageError, VaekitError
from vaekit.specs.options import build_spec
from vaekit.training.loggers import numbers


@pytest.fixture
def images(tmp_path):
    """A file of 60 images of 6×5 with two labels."""
    path = tmp_path / "images.npz"
    rng = np.random.default_rng(0)
    np.savez(path, images=rng.integers(0, 256, (60, 6, 5), dtype=np.uint8), labels=np.array(["even", "odd"] * 30))
    return path


@pytest.fixture
def calls():
    """Register the loggers ``recording`` and ``broken``; return all their calls in order: name, call, arguments."""
    heard = []

    class Told(vaekit.Logger):
        """Remembers what it is told."""

        def start(self, run, spec, step):
            heard.append((self.kind, "start", run, step))
            return "here"

        def scalars(self, step, values):
            heard.append((self.kind, "scalars", step, dict(values)))

        def image(self, step, name, picture):
            heard.append((self.kind, "image", step, (name, picture)))

        def end(self, outcome):
            heard.append((self.kind, "end", outcome))

    @vaekit.loggers("recording")
    class AsIs(Told):
        """Remembers what it is told."""

    @vaekit.loggers("broken")
    class Broken(Told):
        """Fails.

        Args:
            call: Which call fails.
        """

        def __init__(self, *, call: str = "scalars") -> None:
            def fail(*arguments):
                heard.append((self.kind, call, *arguments))
                raise ConnectionError("the network\nis gone")

            setattr(self, call, fail)

    yield heard
    for kind in ("recording", "broken"):
        del roles.loggers._classes[kind]
        roles.loggers._specs.pop(kind, None)


def options(images, **more):
    small = {"encoder.hidden": (8,), "decoder.hidden": (8,), "likelihood": "bce", "latent_dim": 3, "batch_size": 12}
    return {"dataset": "array", "dataset.path": str(images), "epochs": 3, "threads": 1, "device": "cpu"} | small | more


def of(calls, name, kind="recording"):
    return [call[2:] for call in calls if call[:2] == (kind, name)]


class Interrupting:
    """A reporter that stops a run after an epoch, like a user."""

    def __init__(self, after):
        self.after, self.notes = after, ()

    def start(self, start):
        self.notes = start.notes

    def step(self, epoch, step, images_per_second, means): ...

    def epoch(self, record):
        if record["epoch"] == self.after:
            raise KeyboardInterrupt

    def end(self, evaluation): ...


def test_a_logger_receives_the_contents_of_the_run_folder(images, tmp_path, calls):
    reporter = Interrupting(None)
    run = vaekit.train(**options(images, logger="recording", pictures=(1, 3)), out=tmp_path / "run", reporter=reporter)
    assert [call[1] for call in calls] == ["start", "scalars", "image", "image", "scalars", "scalars", "image", "image", "end"]
    assert of(calls, "start") == [(run.path, None)]
    assert "recording: here" in reporter.notes
    for (step, values), record in zip(of(calls, "scalars"), run.metrics(), strict=True):
        assert (step, values) == (record["step"], numbers(record))
        assert values["validation/loss"] == record["validation_loss"]
        assert [values[f"validation_kl_per_latent/{i}"] for i in range(3)] == record["validation_kl_per_latent"]
        assert not {"step", "best"} & values.keys()
    steps = run.metrics()[-1]["step"] // 3
    for step, (name, picture) in of(calls, "image"):
        assert np.array_equal(picture, Image.open(run.path / name / f"epoch-{step // steps:04d}.png"))
    ((outcome,),) = of(calls, "end")
    assert (outcome.step, outcome.evaluation["test/elbo"]) == (3 * steps, run.evaluation()["elbo"])
    codes = outcome.codes(4)
    test = run.splits.test
    assert codes.means.equal(run.vae().encode(codes.images).mean)
    assert codes.labels == tuple(test.class_names[label] for label in test.labels[:4])
    assert outcome.codes(1000).means.shape == (len(test), 3)


def test_loggers_do_not_affect_the_model(images, tmp_path, calls):
    plain = vaekit.train(**options(images), out=tmp_path / "plain")
    logged = vaekit.train(**options(images, logger="recording"), out=tmp_path / "logged")
    assert (plain.path / "model.safetensors").read_bytes() == (logged.path / "model.safetensors").read_bytes()
    logged.evaluate()
    assert len(of(calls, "start")) == 1


def test_a_model_is_usable_without_its_logger_installed(images, tmp_path, calls, monkeypatch):
    run = vaekit.train(**options(images, epochs=1, logger="recording"), out=tmp_path / "run")
    monkeypatch.delitem(roles.loggers._classes, "recording")
    assert vaekit.load(run.path).latent_dim == 3
    with pytest.raises(UnknownComponentError, match="unknown logger 'recording'"):
        vaekit.train(run.path / "spec.yaml")
    monkeypatch.undo()


def test_a_failing_logger_only_logs_a_warning(images, tmp_path, calls):
    with pytest.warns(UserWarning, match="'broken' failed.* training continues: ConnectionError: the network is gone") as caught:
        run = vaekit.train(**options(images, logger=("broken", "recording")), out=tmp_path / "run")
    assert len([warning for warning in caught if "broken" in str(warning.message)]) == 1
    assert [call[1] for call in calls if call[0] == "broken"] == ["start", "scalars"]
    assert len(of(calls, "scalars")) == 3
    assert of(calls, "end")[0][0] is not None
    assert run.evaluation() is not None


def test_a_logger_that_cannot_start_stops_the_run_before_training(images, tmp_path, calls):
    chosen = ("recording", {"kind": "broken", "call": "start"})
    with pytest.raises(VaekitError, match="the logger 'broken' cannot start") as caught:
        vaekit.train(**options(images, logger=chosen), out=tmp_path / "run")
    assert "ConnectionError: the network is gone" in str(caught.value)
    assert of(calls, "end") == [(None,)]
    assert not (tmp_path / "run").exists()


def test_a_stopped_run_ends_its_loggers_and_resumes(images, tmp_path, calls):
    with pytest.raises(KeyboardInterrupt):
        vaekit.train(**options(images, logger="recording", pictures=(2, 3)), out=tmp_path / "run", reporter=Interrupting(2))
    assert [call[1] for call in calls] == ["start", "scalars", "scalars", "image", "image", "end"]
    assert calls[-1][2] is None
    run = vaekit.resume(tmp_path / "run")
    last = [record["step"] for record in run.metrics()]
    assert [step for _, step in of(calls, "start")] == [None, last[1]]
    assert [step for step, _ in of(calls, "scalars")] == last
    assert [step for step, _ in of(calls, "image")] == [last[1], last[1], last[2], last[2]]


@pytest.mark.parametrize("stack", ["on", "off"])
def test_each_run_of_a_sweep_has_its_own_logger(images, tmp_path, calls, stack):
    runs = vaekit.sweep(
        **options(images, logger="recording", epochs=2, compile="off"), over={"seed": (0, 1)}, stack=stack, out=tmp_path / "sweep"
    )
    assert [run for run, _ in of(calls, "start")] == [run.path for run in runs]
    assert [outcome.evaluation["test/loss"] for (outcome,) in of(calls, "end")] == [run.evaluation()["loss"] for run in runs]
    assert len(of(calls, "scalars")) == 4


def test_a_model_of_a_stack_that_diverges_ends_its_logger(images, tmp_path, calls):
    vaekit.sweep(
        **options(images, logger="recording", epochs=1, compile="off"),
        over={"lr": (1e-3, 1e30)},
        stack="on",
        out=tmp_path / "sweep",
    )
    assert sorted(outcome is None for (outcome,) in of(calls, "end")) == [False, True]


def test_loggers_are_chosen_like_other_components(calls):
    assert build_spec({}, {}).train.logger == ()
    for given in ("recording", ["recording"], {"kind": "recording"}):
        assert [logger.kind for logger in build_spec({"train": {"logger": given}}, {}).train.logger] == ["recording"]
    file = {"train": {"logger": ["recording", {"kind": "broken", "call": "end"}]}}
    for name in ("call", "logger.call", "broken.call"):
        assert [getattr(logger, "call", None) for logger in build_spec(file, {name: "image"}).train.logger] == [None, "image"]
    assert [logger.call for logger in build_spec(file, {"logger": "broken"}).train.logger] == ["end"]
    assert build_spec(file, {"logger": "none"}).train.logger == ()
    with pytest.raises(UsageError, match="'recording' is given twice"):
        vaekit.train(logger=("recording", "recording"))


def test_flags_choose_several_loggers_and_set_their_options(images, tmp_path, calls, capsys):
    flags = [word for name, value in options(images, epochs=1).items() for word in (f"--{name}", _text(value))]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code = main(
            ["train", *flags, "--logger", "recording", "--logger", "broken", "--call", "end", "--out", str(tmp_path / "run")]
        )
    out, err = capsys.readouterr()
    assert code == 0
    assert "note: recording: here" in out
    assert "warning: the logger 'broken' failed" in err
    assert len(of(calls, "scalars", "broken")) == 1
    assert main(["train", "--logger", "broken", "--help"]) == 0
    assert "--call" in capsys.readouterr().out


def _text(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_metrics_are_logged_under_sortable_names():
    record = {
        "epoch": 2,
        "step": 9,
        "best": True,
        "train_loss": 1,
        "elbo_is": "a bound",
        "validation_x": [0.5] * 11,
        "none": None,
    }
    found = numbers(record)
    assert list(found)[:3] == ["epoch", "train/loss", "validation_x/00"]
    assert list(found)[-1] == "validation_x/10"
    assert len(found) == 13
