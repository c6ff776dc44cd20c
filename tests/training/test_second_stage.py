"""Second stages: a run starts from another run's weights and trains only some of its parts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from listener import Listener
from safetensors.torch import load_file
from torch import nn

import vaekit
from vaekit import roles
from vaekit.errors import CheckpointError, SpecError, UsageError
from vaekit.interfaces import MODEL_PARTS, Aim, Loss
from vaekit.schema import ModelPart
from vaekit.specs.options import build_spec
from vaekit.store import checkpoint
from vaekit.training.checkpoints import Checkpoints

REST: tuple[ModelPart, ...] = ("encoder", "decoder", "posterior", "likelihood")
"""All parts but the prior."""


def options(images: Path, **more: Any) -> dict[str, Any]:
    networks = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2, "likelihood": "bce", "binarize": "dynamic"}
    fixed = {"batch_size": 16, "epochs": 3, "threads": 1, "device": "cpu", "pictures": "none", "compile": "off"}
    return {"dataset": "array", "dataset.path": str(images), **networks, **fixed, **more}


@pytest.fixture
def first(images: Path, tmp_path: Path) -> vaekit.Run:
    return vaekit.train(**options(images, epochs=1), out=tmp_path / "first")


def changed(before: vaekit.Run, after: vaekit.Run) -> set[str]:
    """Return the parts of the model with tensors that are not bit-identical or exist in only one of two runs."""
    ours, theirs = (load_file(run.folder.model) for run in (before, after))
    names = ours.keys() | theirs.keys()
    return {n.partition(".")[0] for n in names if n not in ours or n not in theirs or not torch.equal(ours[n], theirs[n])}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"weight_decay": 0.5, "grad_clip": 1.0, "ema": 0.5},
        pytest.param({"compile": "on"}, marks=pytest.mark.slow),
    ],
    ids=["plain", "decay and average", "compiled"],
)
def test_a_prior_is_trained_as_a_second_stage(images: Path, tmp_path: Path, first: vaekit.Run, more: dict[str, Any]) -> None:
    given = options(images, **{"prior": "mixture", "lr": 1e-2, "epochs": 8, "init": first.path, "freeze": REST, **more})
    second = vaekit.train(**given, out=tmp_path / "second")
    assert changed(first, second) == {"prior"}
    state = load_file(second.folder.last)
    assert sum(name.startswith("optimizer.") for name in state) == 9  # three moments and counts of three tensors
    assert {name.split(".")[2] for name in state if name.startswith("average.")} <= {"prior"} if "ema" in more else True
    records = second.metrics()
    assert records[-1]["validation_elbo"] > records[0]["validation_elbo"]
    assert records[-1]["validation_reconstruction"] == records[0]["validation_reconstruction"]


def test_the_prior_of_digits_is_learned_afterwards(tmp_path: Path) -> None:
    given = {"encoder.hidden": (64,), "latent_dim": 8, "device": "cpu", "threads": 1, "pictures": "none", "epochs": 2}
    first = vaekit.train(**given, out=tmp_path / "first")
    given |= {"epochs": 6, "lr": 1e-2, "prior": "mixture"}
    second = vaekit.train(**given, init=first.path, freeze=REST, out=tmp_path / "second")
    assert changed(first, second) == {"prior"}
    before, after = first.evaluation(), second.evaluation()
    assert before is not None
    assert after is not None
    assert after["elbo"] > before["elbo"] + before["elbo_standard_error"]
    assert after["reconstruction"] == before["reconstruction"]


@pytest.mark.parametrize("stack", ["on", "off"])
def test_models_of_a_sweep_are_second_stages(images: Path, tmp_path: Path, first: vaekit.Run, stack: Any) -> None:
    other = vaekit.train(**options(images, epochs=1, seed=9), out=tmp_path / "other")
    given = options(images, prior="mixture", freeze=REST)
    over = {"init": (first.path, other.path), "seed": (0, 1)}
    lines: list[str] = []
    listener = Listener()
    listener.note = lines.append  # type: ignore[method-assign]
    runs = vaekit.sweep(over=over, stack=stack, reporter=listener, out=tmp_path / "sweep", **given)
    assert sum("initial weights from" in line for line in lines) == 2
    groups = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["groups"]
    assert [len(group["numbers"]) for group in groups] == ([4] if stack == "on" else [1] * 4)
    assert [changed(first, run) == {"prior"} for run in runs] == [True, True, False, False]
    assert [changed(other, run) == {"prior"} for run in runs] == [False, False, True, True]
    alone = vaekit.train(**given, init=other.path, seed=1, out=tmp_path / "alone").evaluation()
    stacked = runs[3].evaluation()
    assert alone is not None
    assert stacked is not None
    assert stacked["loss"] == pytest.approx(alone["loss"], rel=1e-6)


def test_a_sweep_whose_models_do_not_fit_the_run_is_refused(images: Path, tmp_path: Path, first: vaekit.Run) -> None:
    given = {**options(images, freeze=("decoder",), init=first.path)}
    del given["latent_dim"]
    with pytest.raises(UsageError, match="frozen decoder"):
        vaekit.sweep(over={"latent_dim": (2, 3)}, out=tmp_path / "sweep", **given)
    assert not (tmp_path / "sweep").exists()


def test_parts_of_the_same_kind_and_shapes_start_from_the_run_and_the_others_from_the_seed(
    images: Path, tmp_path: Path, first: vaekit.Run
) -> None:
    listener, still = Listener(), {"lr": 1e-60, "epochs": 1}
    given = options(images, **still, **{"encoder.activation": "relu", "decoder.hidden": (9,), "prior": "mixture"})
    fresh = vaekit.train(**given, out=tmp_path / "fresh")
    run = vaekit.train(**given, init=first.folder.model, ema=0.9, out=tmp_path / "run", reporter=listener)
    assert changed(first, run) == {"decoder", "prior"}
    assert changed(fresh, run) == {"encoder"}
    (note,) = (note for note in listener.notes if note.startswith("initial weights"))
    assert f"from {first.folder.model}, epoch 1: encoder (activation is relu here, silu there); not taken: " in note
    assert "decoder (net.1.weight is (9, 2) here, (8, 2) there)" in note
    assert "prior ('mixture' here, 'normal' there)" in note


def test_a_run_resumes_to_the_same_bits_without_the_run_it_started_from(images: Path, tmp_path: Path, first: vaekit.Run) -> None:
    given = options(images, prior="mixture", init=first.path, freeze=("encoder",), ema=0.5)
    whole = vaekit.train(**given, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        vaekit.train(**given, out=tmp_path / "cut", reporter=Listener(1))
    shutil.rmtree(first.path)
    resumed = vaekit.resume(tmp_path / "cut")
    ours, theirs = (load_file(run.folder.last) for run in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.folder.model.read_bytes() == whole.folder.model.read_bytes()
    assert vaekit.load(resumed.path).sample(2).shape == (2, 1, 9, 7)
    assert resumed.evaluate()["elbo"] == pytest.approx(whole.evaluation()["elbo"])  # type: ignore[index]
    digests = {checkpoint.load(file)[1].init for file in (resumed.folder.last, resumed.folder.best, whole.folder.model)}
    assert len(digests) == 1
    assert None not in digests
    with pytest.raises(UsageError, match=r"--init .*first does not exist"):
        vaekit.train(**given, out=tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_same_weights(
    images: Path, tmp_path: Path, first: vaekit.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = options(images, init=first.path)
    whole = vaekit.train(**given, out=tmp_path / "whole")

    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save_best", die)
        with pytest.raises(KeyboardInterrupt):
            vaekit.train(**given, out=tmp_path / "killed")
    again = vaekit.resume(tmp_path / "killed")
    assert again.folder.model.read_bytes() == whole.folder.model.read_bytes()


def test_a_search_records_the_initial_weights(images: Path, tmp_path: Path, first: vaekit.Run) -> None:
    pytest.importorskip("optuna")
    lines: list[str] = []
    listener = Listener()
    listener.note = lines.append  # type: ignore[method-assign]
    given = options(images, init=first.path, freeze=REST, prior="mixture")
    over, storage = {"prior.num_components": (2, 3)}, tmp_path / "journal.log"
    (run, _) = vaekit.search(over=over, storage=storage, trials=2, out=tmp_path / "search", reporter=listener, **given)
    assert changed(first, run) == {"prior"}
    assert sum("initial weights from" in line for line in lines) == 1


def test_the_digest_is_that_of_the_weights(images: Path, tmp_path: Path, first: vaekit.Run) -> None:
    copied = vaekit.train(**options(images, init=first.path, lr=1e-60), out=tmp_path / "copied")
    once, twice = (
        vaekit.train(**options(images, init=run.path, epochs=1), out=tmp_path / name)
        for name, run in (("once", first), ("twice", copied))
    )
    assert once.header.init == twice.header.init is not None
    assert vaekit.train(**options(images, init=once.path, epochs=1), out=tmp_path / "other").header.init != once.header.init
    assert first.header.init is None


class Idle(vaekit.Backbone):
    """A linear layer and an unused one."""

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
        super().__init__(in_shape, out_shape)
        sizes = int(np.prod(in_shape)), int(np.prod(out_shape))
        self.linear, self.idle = nn.Linear(*sizes), nn.Linear(*sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1)).unflatten(1, self.out_shape)  # type: ignore[no-any-return]


def test_weights_on_which_no_loss_depends_do_not_decay(images: Path, tmp_path: Path) -> None:
    given = options(images, encoder="idle", decoder="mlp", weight_decay=0.5)
    del given["epochs"], given["encoder.hidden"]
    with roles.encoders.temporarily(idle=Idle):
        runs = [vaekit.train(**given, epochs=n, out=tmp_path / str(n)) for n in (1, 2)]
        first, second = (load_file(run.folder.model) for run in runs)
    assert torch.equal(first["encoder.idle.weight"], second["encoder.idle.weight"])
    assert not torch.equal(first["encoder.linear.weight"], second["encoder.linear.weight"])


@pytest.fixture
def normalised() -> Iterator[None]:
    """An encoder whose buffers change in training."""

    class Normalised(vaekit.Backbone):
        """A batch normalisation and a linear layer."""

        def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
            super().__init__(in_shape, out_shape)
            self.normal = nn.BatchNorm1d(int(np.prod(in_shape)))
            self.linear = nn.Linear(int(np.prod(in_shape)), int(np.prod(out_shape)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(self.normal(x.flatten(1))).unflatten(1, self.out_shape)  # type: ignore[no-any-return]

    with roles.encoders.temporarily(normalised=Normalised):
        yield


@pytest.mark.usefixtures("normalised")
def test_buffers_of_frozen_parts_do_not_change(images: Path, tmp_path: Path) -> None:
    given = options(images, encoder="normalised", decoder="mlp")
    del given["encoder.hidden"]
    first = vaekit.train(**given, out=tmp_path / "first")
    assert load_file(first.folder.model)["encoder.normal.num_batches_tracked"] > 0
    second = vaekit.train(**given, init=first.path, freeze=("encoder",), out=tmp_path / "second")
    assert changed(first, second) == {"decoder"}
    third = vaekit.train(**given, init=first.path, out=tmp_path / "third")
    assert changed(first, third) == {"encoder", "decoder"}


class Narrow(Loss):
    """A penalty on the codes that trains the encoder only."""

    def aims(self) -> dict[str, Aim]:
        return {"narrow": Aim(moves=("encoder",))}

    def forward(self, trace: vaekit.Trace) -> torch.Tensor:
        return trace.z.square().sum(-1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"init": None}, "freeze: needs --init RUN"),
        (
            {"freeze": ("encoder", "loss")},
            r"freeze\.1|freeze: .*'encoder', 'decoder', 'posterior', 'prior', 'likelihood' or 'condition'",
        ),
        (
            {"freeze": MODEL_PARTS},
            "nothing to train(.*\n)*.*reconstruction trains [^;]*; frozen: encoder",
        ),
        ({"freeze": REST}, "nothing to train(.*\n)*.*frozen: encoder, decoder, posterior, likelihood"),
        ({"loss": ["kl", "narrow"]}, "nothing to train(.*\n)*.*narrow trains encoder; frozen: encoder"),
        ({"freeze": REST, "posterior": "delta", "prior": "mixture"}, "no loss depends on the prior"),
        ({"encoder": "cnn", "decoder": "mlp"}, "frozen encoder differs from that of(.*\n)*.*'cnn' here, 'mlp' there"),
        ({"encoder.hidden": (9,)}, r"frozen encoder differs from that of(.*\n)*.*weight is \(9, 63\) here, \(8, 63\) there"),
        ({"encoder.activation": "relu"}, "frozen encoder differs from that of(.*\n)*.*activation is relu here, silu there"),
        (
            {"freeze": (), "latent_dim": 5},
            r"no weights of .*first fit the model(.*\n)*.*encoder \(.* here, .* there\);",
        ),
        ({"freeze": (), "init": "nowhere"}, "--init nowhere does not exist"),
        ({"freeze": (), "init": "https://a.b/c"}, "is a URL"),
    ],
)
def test_invalid_second_stages_are_refused(
    images: Path, tmp_path: Path, first: vaekit.Run, more: dict[str, Any], message: str
) -> None:
    given = {**options(images), "init": first.path, "freeze": ("encoder",), **more}
    if given.get("encoder") == "cnn":
        given["encoder.hidden"] = (8,)
    with roles.losses.temporarily(narrow=Narrow), pytest.raises((SpecError, UsageError, CheckpointError), match=message):
        vaekit.train(**given, out=tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_initial_weights_of_other_data_are_refused(images: Path, tmp_path: Path, first: vaekit.Run) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((120, 9, 8), np.uint8))
    with pytest.raises(UsageError, match=r"no weights of .* fit(.*\n)*.*encoder \(net.*; decoder \(net.*"):
        vaekit.train(**options(tmp_path / "wide.npy", init=first.path), out=tmp_path / "second")
    np.save(tmp_path / "floats.npy", np.random.default_rng(0).random((120, 9, 7)).astype(np.float32) * 3)
    ranged = {"likelihood": "gaussian", "likelihood.link": "identity", "binarize": "none"}
    with pytest.raises(UsageError, match=r"other data(.*\n)*.*values from 0.0003.* to 2(.*\n)*.*values from 0 to 1"):
        vaekit.train(**options(tmp_path / "floats.npy", init=first.path, **ranged), out=tmp_path / "second")


def test_the_init_of_a_spec_round_trips(images: Path) -> None:
    spec = build_spec({}, {"init": "runs/a", "freeze": "encoder,decoder"})
    assert (spec.train.init, spec.train.freeze) == (Path("runs/a"), ("encoder", "decoder"))
    assert build_spec({}, {"init": "none"}).train.init is None


def test_a_part_that_no_loss_reaches_is_refused_before_training(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no loss depends on the prior, so it would never be trained"):
        vaekit.train(**options(images, posterior="delta", prior="mixture"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
