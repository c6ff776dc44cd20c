"""The choice of the precision of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vaekit
from vaekit.data.facts import Facts
from vaekit.model.assembly import assemble, build_objective, build_vae
from vaekit.model.objective import Objective
from vaekit.specs.models import RunSpec
from vaekit.specs.options import build_spec
from vaekit.store.record import load_splits
from vaekit.training.hardware import fit_to_machine
from vaekit.training.precision import choose_precision, num_products
from vaekit.training.step import Step

MLP = {"encoder": "mlp", "decoder": "mlp", "encoder.hidden": (512,), "decoder.hidden": (512,), "latent_dim": 20}


def made(**given: Any) -> tuple[RunSpec, Objective]:
    spec = fit_to_machine(build_spec({}, {"device": "cpu", **given}))
    return spec, build_objective(spec.model, build_vae(spec.model, Facts(data_shape=(1, 28, 28))), num_data=1000)


def test_the_products_of_linear_layers_and_convolutions_are_counted_at_all_positions() -> None:
    assert num_products(made(**MLP)[1]) == 2 * 784 * 512 + 512 * 40 + 20 * 512
    given = {"encoder": "cnn", "decoder": "cnn", "encoder.channels": (4, 8), "decoder.channels": (8, 4), "latent_dim": 3}
    given |= {"encoder.hidden": (), "decoder.hidden": ()}
    convolutions = 14 * 14 * 4 * 9 + 7 * 7 * 8 * 4 * 9  # a transposed convolution uses its weights at the positions of its input
    expected = convolutions + 8 * 49 * 6 + 3 * 8 * 49 + 7 * 7 * 8 * 4 * 9 + 14 * 14 * 4 * 9
    assert num_products(made(**given)[1]) == expected


def test_several_samples_decode_several_times() -> None:
    decoder = 20 * 512 + 512 * 784
    assert num_products(made(**MLP, loss="iwae", **{"loss.num_samples": 5})[1]) == 784 * 512 + 512 * 40 + 5 * decoder


def test_counting_products_leaves_no_hooks() -> None:
    _, objective = made(**MLP)
    num_products(objective)
    assert not any(module._forward_hooks for module in objective.modules())


def test_counting_products_changes_no_statistics_and_draws_no_numbers() -> None:
    _, objective = made(**MLP)
    encoder = objective.vae.encoder
    encoder.net = torch.nn.Sequential(torch.nn.BatchNorm2d(1), torch.nn.Dropout(), encoder.net)
    objective.train()
    before, drawn = {name: tensor.clone() for name, tensor in objective.state_dict().items()}, torch.get_rng_state()
    num_products(objective)
    assert encoder.net.training
    torch.testing.assert_close(objective.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize(
    ("amx", "batch_size", "asked", "chosen"),
    [(True, 128, "auto", "bf16"), (True, 64, "auto", "fp32"), (False, 4096, "auto", "fp32"), (True, 4096, "fp32", "fp32")],
)
def test_a_cpu_uses_bf16_if_it_has_amx_and_enough_work(
    monkeypatch: pytest.MonkeyPatch, amx: bool, batch_size: int, asked: str, chosen: str
) -> None:
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    spec, objective = made(**MLP, batch_size=batch_size, precision=asked)
    assert choose_precision(spec, objective).train.precision == chosen


def test_products_are_computed_in_the_requested_precision(images: Path) -> None:
    given = {"dataset": "array", "dataset.path": str(images), "encoder.hidden": (8,), "decoder.hidden": (8,), "batch_size": 16}
    seen: dict[str, torch.dtype] = {}
    for precision in ("fp32", "bf16"):
        spec = fit_to_machine(build_spec({}, {**given, "device": "cpu", "precision": precision, "latent_dim": 2}))
        splits = load_splits(spec)
        step = Step(spec, assemble(spec, splits), splits)

        def note(_: Any, inputs: Any, output: Tensor, precision: str = precision) -> None:
            seen[precision] = output.dtype

        step.objective.vae.decoder.register_forward_hook(note)
        loss = step(next(iter(step.batches.readings(0))))["loss"]
        assert loss.dtype == torch.float32
        assert loss.isfinite()
    assert seen == {"fp32": torch.float32, "bf16": torch.bfloat16}


def test_a_run_records_the_precision_that_was_chosen(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True)
    monkeypatch.setattr("vaekit.training.precision.WORTH_HALVING", 0)
    given = {"dataset": "array", "dataset.path": str(images), "encoder.hidden": (8,), "decoder.hidden": (8,), "epochs": 1}
    run = vaekit.train(**given, device="cpu", latent_dim=2, batch_size=16, pictures="none", out=tmp_path / "run")
    assert run.spec.train.precision == "bf16"
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    assert vaekit.resume(run.path, epochs=2).spec.train.precision == "bf16"
