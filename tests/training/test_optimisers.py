"""Adam, its settings and the schedules of its learning rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import vaekit
from vaekit.errors import SpecError
from vaekit.interfaces import Aim, Loss, Optim
from vaekit.model.assembly import assemble
from vaekit.model.objective import Objective
from vaekit.specs.models import RunSpec
from vaekit.specs.options import build_spec
from vaekit.store.record import load_splits
from vaekit.training.hardware import fit_to_machine
from vaekit.training.progress import Silent
from vaekit.training.step import Step


def options(images: Path, **more: Any) -> dict[str, Any]:
    networks = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2}
    fixed = {"batch_size": 16, "epochs": 3, "threads": 1, "device": "cpu", "pictures": "none", "compile": "off"}
    return {"dataset": "array", "dataset.path": str(images), **networks, **fixed, **more}


def spec_of(**given: Any) -> RunSpec:
    return fit_to_machine(build_spec({}, given))


def step_of(spec: RunSpec) -> Step:
    splits = load_splits(spec)
    return Step(spec, assemble(spec, splits), splits)


def test_a_run_with_milestones_matches_torchs_adamw(images: Path) -> None:
    adam = {"lr": 1e-2, "betas": (0.5, 0.9), "eps": 1e-2}
    spec = spec_of(**options(images, schedule="step", lr_milestones=(1, 2), lr_gamma=0.3, **adam))
    splits = load_splits(spec)
    mine, theirs = (assemble(spec, splits) for _ in range(2))
    step = Step(spec, mine, splits)
    optimizer = torch.optim.AdamW(theirs.parameters(), weight_decay=0.0, fused=True, **adam)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2], 0.3)
    for epoch in range(3):
        for reading in step.batches.readings(epoch):
            step(reading)
            total, *_ = theirs(step.inputs(reading))
            total.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert step.learning_rate(reading.number) == pytest.approx(optimizer.param_groups[0]["lr"])
        schedule.step()
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(
            mine.get_parameter(name), parameter, rtol=1e-5, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_the_protocol_of_importance_weighted_autoencoders_is_a_schedule(images: Path) -> None:
    """Burda et al. (2016), section 5: a rate of 0.001 · 10^(-i/7) for 3^i epochs, for i = 0, …, 7, and an ε of 1e-4."""
    lengths = [3**i for i in range(8)]
    milestones = tuple(sum(lengths[: i + 1]) for i in range(7))
    given = {"epochs": sum(lengths), "lr": 1e-3, "eps": 1e-4, "lr_milestones": milestones, "lr_gamma": 10 ** (-1 / 7)}
    step = step_of(spec_of(**options(images, schedule="step", **given)))
    rates = [step.learning_rate(number) for number in range(step.num_steps)]
    expected = [1e-3 * 10 ** (-i / 7) for i, length in enumerate(lengths) for _ in range(length * step.steps_per_epoch)]
    assert rates == pytest.approx(expected)
    (optimizer,) = step.optimizers
    assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.9, 0.999), 1e-4)


class Critic(Loss):
    """A critic with its own optimiser settings."""

    def __init__(self, optim: Optim) -> None:
        super().__init__()
        self.network, self.optim = torch.nn.Linear(2, 1), optim

    def aims(self) -> dict[str, Aim]:
        return {"critic": Aim(moves=(), own=("network",), optim=self.optim, judged=False)}

    def forward(self, trace: vaekit.Trace) -> torch.Tensor:
        value: torch.Tensor = self.network(trace.z).squeeze(-1).square()
        return value


@pytest.mark.parametrize(
    ("optim", "expected"),
    [
        (Optim(), (1e-3, (0.8, 0.9), 1e-3, 0.5)),
        (Optim(lr=1.0), (1.0, (0.8, 0.9), 1e-3, 0.5)),
        (Optim(betas=(0.0, 0.1)), (1e-3, (0.0, 0.1), 1e-3, 0.5)),
        (Optim(eps=1e-1), (1e-3, (0.8, 0.9), 1e-1, 0.5)),
        (Optim(weight_decay=0.0), (1e-3, (0.8, 0.9), 1e-3, 0.0)),
    ],
)
def test_a_player_has_the_runs_settings_unless_its_aims_override_them(
    images: Path, optim: Optim, expected: tuple[Any, ...]
) -> None:
    spec = spec_of(**options(images, lr=1e-3, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.5))
    splits = load_splits(spec)
    whole = assemble(spec, splits)
    objective = Objective(whole.vae, {**dict(whole.losses.items()), "critic": Critic(optim)}, num_data=whole.num_data)  # type: ignore[dict-item]
    settings = [optimizer.param_groups[0] for optimizer in Step(spec, objective, splits).optimizers]
    found = [(each["peak_lr"], each["betas"], each["eps"], each["decay"]) for each in settings]
    assert found == [(1e-3, (0.8, 0.9), 1e-3, 0.5), expected]


class Interrupt(Silent):
    def epoch(self, record: Any) -> None:
        raise KeyboardInterrupt


def test_a_run_with_milestones_resumes_to_the_same_bits(images: Path, tmp_path: Path) -> None:
    given = options(images, schedule="step", lr_milestones=(1, 2), betas=(0.5, 0.9), eps=1e-3)
    whole = vaekit.train(**given, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        vaekit.train(**given, out=tmp_path / "cut", reporter=Interrupt())
    resumed = vaekit.resume(tmp_path / "cut")
    ours, theirs = (load_file(run.folder.last) for run in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [record["lr"] for record in resumed.metrics()] == pytest.approx([2e-3, 2e-4, 2e-5])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"schedule": "step"}, "lr_milestones: required for --schedule step"),
        ({"lr_milestones": (2, 3)}, "lr_milestones: needs --schedule step"),
        ({"schedule": "step", "lr_milestones": (3, 2)}, "lr_milestones: must be increasing"),
        ({"schedule": "step", "lr_milestones": (0, 2)}, "lr_milestones: .*greater than 0"),
        ({"lr_gamma": 1e300}, "lr_gamma: .*less than or equal to 1"),
        ({"betas": (0.9, 1.0)}, "betas: .*less than 1"),
        ({"eps": 0}, "eps: .*greater than 0"),
    ],
)
def test_inconsistent_schedules_and_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build_spec({}, given)
