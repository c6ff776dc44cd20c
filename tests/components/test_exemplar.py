"""The prior of the Exemplar VAE: a mixture around the codes of the most recent training images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import distributions as td

import vaekit
from vaekit.components.priors.exemplar import Exemplar
from vaekit.data.facts import Facts
from vaekit.data.sources import Splits, TensorImages
from vaekit.errors import UsageError
from vaekit.model.assembly import assemble, build_vae, initial_state
from vaekit.model.objective import Inputs, Objective
from vaekit.model.vae import VAE
from vaekit.specs.options import build_spec
from vaekit.training.step import Step

F64 = torch.float64
SMALL: dict[str, Any] = {"prior": "exemplar", "latent_dim": 2, "encoder.hidden": (8,), "decoder.hidden": (8,)}
PLAIN = {**SMALL, "binarize": "none", "likelihood": "bce"}


def model(num: int = 5, **more: Any) -> VAE:
    facts = Facts(data_shape=(1, 4, 3), class_names=("a", "b", "c"))
    return build_vae(build_spec({}, {**SMALL, "num_exemplars": num, **more}).model, facts, seed=0).double()


def prior_of(vae: VAE) -> Exemplar:
    assert isinstance(vae.prior, Exemplar)
    return vae.prior


def some(num: int, seed: int = 0) -> Tensor:
    return torch.rand(num, 1, 4, 3, dtype=F64, generator=torch.Generator().manual_seed(seed))


def advance(vae: VAE, x: Tensor, y: Tensor | None = None) -> None:
    for name, value in vae.prior.next_state(vae(x, y=y)).items():
        vae.prior.get_buffer(name).copy_(value)


def test_its_density_is_that_of_a_mixture_around_the_means_of_its_exemplars() -> None:
    vae = model()
    prior = prior_of(vae)
    with torch.no_grad():
        prior.logvar.fill_(math.log(0.3))
    q = vae.encode(prior.inputs)
    around = td.Independent(td.Normal(q.mu, math.sqrt(0.3)), 1)
    theirs = td.MixtureSameFamily(td.Categorical(logits=torch.zeros(5, dtype=F64)), around)
    z = torch.randn(7, 6, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    p: Any = prior(vae)
    torch.testing.assert_close(p.log_prob(z), theirs.log_prob(z))
    torch.testing.assert_close(p.mean, theirs.mean)


def test_the_kl_trains_the_encoder_through_the_exemplars_and_the_variance() -> None:
    vae = model()
    site = vae(some(3)).site
    parameters = [*vae.encoder.parameters(), prior_of(vae).logvar]
    gradients = torch.autograd.grad(site.p.log_prob(site.z.detach()).sum(), parameters)
    assert all(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("num", [2, 3, 7, 12])
def test_the_exemplars_are_the_images_trained_on_last_in_order(num: int) -> None:
    vae, x, y = model(num, condition="label"), some(12), torch.arange(12) % 3
    for start in range(0, 12, 3):
        advance(vae, x[start : start + 3], y[start : start + 3])
    assert torch.equal(prior_of(vae).inputs, x[-num:])
    assert torch.equal(prior_of(vae).labels, y[-num:])


def test_an_exemplar_is_encoded_with_its_label() -> None:
    vae, x, y = model(6, condition="label"), some(6), torch.arange(6) % 3
    advance(vae, x, y)
    torch.testing.assert_close(vae.prior(vae).mu, vae.encode(x, y).mean)
    assert not torch.allclose(vae.encode(x, y).mean, vae.encode(x, y.flip(0)).mean)


def test_missing_values_of_exemplars_stay_missing() -> None:
    facts = Facts(data_shape=(6,), missing="channel")
    options = {**SMALL, "num_exemplars": 4, "likelihood": "gaussian", "missing": "channel"}
    vae = build_vae(build_spec({}, options).model, facts, seed=0).double()
    x = some(4).flatten(1)[:, :6].clone()
    x[:, 2] = torch.nan
    advance(vae, x)
    torch.testing.assert_close(prior_of(vae).inputs, x, equal_nan=True)
    torch.testing.assert_close(vae.prior(vae).mu, vae.encode(x).mean)
    assert vae(x).kl.isfinite().all()


def bytes_of(num: int) -> Tensor:
    return torch.randint(256, (num, 1, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def start(source: TensorImages, num: int) -> dict[str, Tensor]:
    spec = build_spec({}, {**PLAIN, "num_exemplars": num, "condition": "label"})
    return initial_state(spec, assemble(spec, Splits(source, source, source)), source)


def test_exemplars_start_at_training_images_with_their_labels() -> None:
    labels = torch.arange(60) % 3
    source = TensorImages(bytes_of(60), labels, ("a", "b", "c"))
    state = start(source, 6)
    found = [(source.images / 255 == each).flatten(1).all(1).nonzero().item() for each in state["vae.prior.inputs"]]
    assert len(set(found)) == 6
    assert state["vae.prior.labels"].tolist() == labels[found].tolist()
    with pytest.raises(UsageError, match=r"images would often be their own(.|\n)*7 exemplars, 60 (.|\n)*num-exemplars 6 or less"):
        start(source, 7)


def save(folder: Path, num: int) -> str:
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (num, 4, 3), dtype=np.uint8))
    return str(folder / "images.npy")


def options(path: str, **more: Any) -> dict[str, Any]:
    training = {"epochs": 2, "batch_size": 16, "threads": 1, "device": "cpu", "pictures": "none"}
    return {**PLAIN, "dataset": "array", "dataset.path": path, "num_exemplars": 20, **training, **more}


def test_an_image_is_its_own_exemplar_only_shortly_after_the_previous_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own: list[int] = []
    forward = Objective.forward

    def counted(self: Objective, inputs: Inputs, **more: Any) -> Any:
        if self.training:
            exemplars = prior_of(self.vae).inputs
            own.append(int((inputs.x.flatten(1)[:, None] == exemplars.flatten(1)).all(-1).sum()))
        return forward(self, inputs, **more)

    monkeypatch.setattr(Objective, "forward", counted)
    vaekit.train(**options(save(tmp_path, 1000), epochs=20), out=tmp_path / "run")
    assert len(own) == 20 * 50
    assert not any(count for number, count in enumerate(own) if number % 50 > 1)
    expected = 20 * 16 * (20 + 4) / 800  # 20 and 4 exemplars are left of the previous epoch at the first two steps
    assert sum(own) == pytest.approx(expected, abs=4 * math.sqrt(expected))


def test_evaluation_does_not_change_the_exemplars(tmp_path: Path) -> None:
    run = vaekit.train(**options(save(tmp_path, 300)), out=tmp_path / "run")
    vae: VAE = run.vae()
    before = prior_of(vae).inputs.clone()
    run.evaluate()
    vae.sample(4)
    assert torch.equal(prior_of(vae).inputs, before)
    assert torch.equal(prior_of(run.vae()).inputs, before)


def test_a_moving_average_of_the_weights_has_the_exemplars_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visited: list[Tensor] = []
    inputs = Step.inputs

    def noted(self: Step, reading: Any) -> Any:
        made = inputs(self, reading)
        visited.append(made.x.clone())
        return made

    monkeypatch.setattr(Step, "inputs", noted)
    run = vaekit.train(**options(save(tmp_path, 300), ema=0.9, best="last"), out=tmp_path / "run")
    assert torch.equal(prior_of(run.vae()).inputs, torch.cat(visited)[-20:])


def test_the_halves_of_a_batch_give_the_exemplars_of_the_whole() -> None:
    vae, x, y = model(5, condition="label"), some(4), torch.tensor([0, 1, 2, 1])
    objective = Objective(vae, {"kl": vaekit.losses.get("kl")()})
    whole, first, second = (
        Inputs(x[part], x[part], torch.zeros(len(x[part]), 2, dtype=F64), torch.zeros(()), y[part])
        for part in (slice(4), slice(2), slice(2, 4))
    )
    expected = objective(whole).state
    sent: list[Tensor] = []
    objective.gather = lambda part, dim: (sent.append(part), part)[1]  # type: ignore[func-returns-value]
    objective(first)
    objective.gather = lambda part, dim: torch.cat([sent.pop(0), part], dim)
    state = objective(second).state
    assert state.keys() == expected.keys() == {"vae.prior.inputs", "vae.prior.labels"}
    assert all(torch.equal(value, expected[name]) for name, value in state.items())
    assert torch.equal(state["vae.prior.inputs"][1:], x)


def test_frozen_exemplars_do_not_change(tmp_path: Path) -> None:
    first = vaekit.train(**options(save(tmp_path, 300)), out=tmp_path / "first")
    second = vaekit.train(first.spec, init=first.path, freeze=("prior",), seed=1, out=tmp_path / "second")
    before, after = (prior_of(run.vae()) for run in (first, second))
    assert torch.equal(after.inputs, before.inputs)
    assert torch.equal(after.logvar, before.logvar)


def test_an_exemplar_prior_fitted_to_codes_is_a_kernel_density_estimate(tmp_path: Path) -> None:
    path = save(tmp_path, 300)
    plain = {name: value for name, value in options(path, posterior="delta").items() if name not in {"prior", "num_exemplars"}}
    first = vaekit.train(**plain, out=tmp_path / "ae")
    frozen = ("encoder", "decoder", "posterior", "likelihood")
    more = {"posterior": "delta", "loss": "prior_nll", "init": str(first.path), "freeze": frozen, "lr": 0.1}
    second = vaekit.train(**options(path, **more), out=tmp_path / "kde")
    losses = [record["validation_loss"] for record in second.metrics()]
    assert losses[-1] < losses[0]
