"""The classifier of codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import vaekit
from vaekit.components.losses.classifier import Classifier
from vaekit.data.facts import Facts
from vaekit.errors import UsageError
from vaekit.model.assembly import build_objective, build_vae
from vaekit.model.objective import Inputs, Objective
from vaekit.specs.options import build_spec

SHAPE, Y = (1, 4, 3), torch.tensor([0, 2, 1, 2, 1])
SMALL: dict[str, Any] = {"encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 2}


def objective_of(**options: Any) -> Objective:
    model = build_spec({}, {**SMALL, "loss": "classifier", **options}).model
    vae = build_vae(model, Facts(data_shape=SHAPE), seed=0).double()
    return build_objective(model, vae, num_data=100, num_classes=3, seed=0).double()


def inputs_of(*samples: int) -> Inputs:
    x = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).round()
    noise = torch.randn(*samples, 5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Inputs(x, x, noise, torch.zeros((), dtype=torch.float64), y=Y)


@pytest.mark.parametrize("hidden", [(), (6, 4)])
def test_the_loss_is_the_cross_entropy_of_codes_and_trains_the_classifier_with_the_model(hidden: tuple[int, ...]) -> None:
    objective, inputs = objective_of(**{"weight": 2.0, "classifier.hidden": hidden}), inputs_of()
    assert [player.aims for player in objective.players] == [("reconstruction", "classifier", "kl")]
    total, terms, _ = objective(inputs)
    network, vae = objective.losses["classifier"].network, objective.vae
    trace = vae(inputs.x, inputs.noise)
    logits = network(trace.z)
    expected = 2 * F.cross_entropy(logits, Y)
    torch.testing.assert_close(terms["classifier"], expected.detach())
    torch.testing.assert_close(terms["accuracy"], (logits.argmax(-1) == Y).double().mean())
    total.backward()
    whole = expected + (trace.kl - trace.log_likelihood).mean()
    parameters = [*network.parameters(), *vae.parameters()]
    for parameter, gradient in zip(parameters, torch.autograd.grad(whole, parameters), strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_samples_of_a_code_are_classified_one_by_one() -> None:
    objective, inputs = objective_of(), inputs_of(4)
    loss, vae = objective.losses["classifier"], objective.vae
    each = torch.stack([loss(vae(inputs.x, noise, y=Y)) for noise in inputs.noise])
    torch.testing.assert_close(loss(vae(inputs.x, inputs.noise, y=Y)), each.mean(0))


def test_data_or_traces_without_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs labels, but the trace has none"):
        Classifier(2, 3).double()(objective_of().vae(inputs_of().x))
    np.save(tmp_path / "images.npy", np.zeros((60, 4, 3), dtype=np.uint8))
    with pytest.raises(UsageError, match="the loss 'classifier' needs labels"):
        vaekit.train(
            **SMALL, dataset="array", path=str(tmp_path / "images.npy"), loss="classifier", batch_size=16, out=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_codes_of_digits_can_be_classified(tmp_path: Path) -> None:
    """After three epochs, a linear classifier of 10 latents is far better than chance (0.1)."""
    training: dict[str, Any] = {"epochs": 3, "lr": 5e-3, "device": "cpu", "threads": 1, "pictures": "none"}
    small = {"encoder.hidden": (64,), "decoder.hidden": (64,)}
    run = vaekit.train(model="classifier-vae", **small, **training, out=tmp_path / "run")
    evaluation = run.evaluation()
    assert evaluation is not None
    assert evaluation["accuracy"] > 0.6
