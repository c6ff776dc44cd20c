"""Every zoo model matches its file: it assembles, trains, resumes to the same bytes, samples, and can be cited."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import small

import vaekit
from vaekit import roles
from vaekit.citations import work_of
from vaekit.errors import UsageError
from vaekit.model.assembly import build_vae
from vaekit.specs import zoo
from vaekit.specs.options import OptionTable, build_spec
from vaekit.specs.resolve import ROLES, SEVERAL, chosen_components
from vaekit.training.progress import Silent

Cli = Callable[..., tuple[int, str, str]]
NAMES = zoo.names()
PYTHAE = {
    "AE": "ae",
    "VAE": "vae",
    "BetaVAE": "beta-vae",
    "VAE_LinNF": "planar",
    "VAE_IAF": "iaf",
    "DisentangledBetaVAE": "capacity",
    "FactorVAE": "factor-vae",
    "BetaTCVAE": "beta-tcvae",
    "IWAE": "iwae",
    "MIWAE": "miwae",
    "PIWAE": "piwae",
    "CIWAE": "ciwae",
    "MSSSIM_VAE": "ms-ssim-vae",
    "WAE_MMD": "wae-mmd",
    "INFOVAE_MMD": "infovae-mmd",
    "VAMP": "vampprior",
    "SVAE": "s-vae",
    "PoincareVAE": "poincare-vae",
    "Adversarial_AE": "aae",
    "VAEGAN": "vae-gan",
    "VQVAE": "vq-vae",
    "HRQVAE": "residual-vq-vae",
    "RAE_GP": "rae-gp",
    "RAE_L2": "rae-l2",
}
"""The models of pythae 0.1 by their names here, without those of the plugin vaekit-hamiltonian (HVAE and RHVAE)."""


class Died(BaseException):
    """Simulates a kill."""


class Killer(Silent):
    def epoch(self, record: Any) -> None:
        raise Died


def small_options(name: str) -> dict[str, Any]:
    """Return options that make a model small."""
    options: dict[str, Any] = {}
    data = OptionTable(zoo.base_of(name, base_spec(name)), {}).data
    for role, kind, _ in chosen_components(data):
        prefix = kind.replace("-", "_") if role in SEVERAL and kind != role else role
        options |= {f"{prefix}.{option}": value for option, value in small(ROLES[role], kind).items()}
    return options


def base_spec(name: str) -> dict[str, Any]:
    """Return the spec of the model to which another one is fitted; empty for standalone models."""
    after = zoo.read(name).after
    return {} if after is None else dict(zoo.base_of(after, base_spec(after)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Returns the options of 160 training examples for a model: digits or rows of counts."""
    folder, digits = tmp_path_factory.mktemp("data"), roles.datasets.get("digits")().load().train
    index = np.arange(160)
    np.savez(folder / "images.npz", images=digits.gather(torch.from_numpy(index)).numpy(), labels=digits.labels[:160].numpy())
    counts = np.random.default_rng(0).poisson(np.exp(np.random.default_rng(1).standard_normal((160, 12))))
    np.savez(folder / "counts.npz", counts=counts, labels=index % 3)

    def options_of(name: str) -> dict[str, Any]:
        likelihood = build_spec(base_spec(name), {"model": name} | ({"init": "RUN"} if base_spec(name) else {})).model.likelihood
        scores = roles.likelihoods.get(likelihood.kind).scores
        file = folder / ("counts.npz" if scores == "counts" else "images.npz")
        return {"dataset": "array", "dataset.path": str(file)}

    return options_of


@pytest.fixture(scope="module")
def run_of(data: Callable[[str], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], vaekit.Run]:
    """Trains a small run of a model on first use, preceded by one of the model to which it is fitted."""
    folder = tmp_path_factory.mktemp("runs")
    runs: dict[str, vaekit.Run] = {}

    def run_of(name: str) -> vaekit.Run:
        if name not in runs:
            runs[name] = vaekit.train(**options_of(name, data, run_of), out=folder / name)
        return runs[name]

    return run_of


def options_of(name: str, data: Any, run_of: Any) -> dict[str, Any]:
    """Return the options of a small run of a model."""
    training = {"epochs": 2, "batch_size": 32, "threads": 1, "device": "cpu", "pictures": "none"}
    options = {"model": name, **small_options(name), **data(name), **training}
    after = zoo.read(name).after
    return options if after is None else options | {"init": str(run_of(after).path)}


def test_all_models_of_pythae_exist() -> None:
    assert set(PYTHAE.values()) <= set(NAMES)
    assert len(NAMES) >= 40


@pytest.mark.parametrize("name", NAMES)
def test_entries_have_descriptions(name: str) -> None:
    entry = zoo.read(name)
    work = work_of(entry.reference)
    assert work is not None, "its reference has another form than those of docstrings"
    assert abs(work.year - entry.year) <= 1
    assert entry.about.endswith(".")
    assert set(entry.spec) <= {"model", "train"}
    assert entry.after is None or entry.after in NAMES
    assert (entry.after is None) == ("freeze" not in entry.spec.get("train", {}))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_trains_and_resumes_to_the_same_bytes(name: str, data: Any, run_of: Any, tmp_path: Path) -> None:
    run = run_of(name)
    assert np.isfinite([value for record in run.metrics() for value in record.values() if isinstance(value, float)]).all()
    with pytest.raises(Died):
        vaekit.train(**options_of(name, data, run_of), out=tmp_path / "run", reporter=Killer())
    vaekit.resume(tmp_path / "run")
    assert (tmp_path / "run/model.safetensors").read_bytes() == (run.path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_model_trains_every_part_but_those_that_are_frozen(name: str, run_of: Any) -> None:
    run, after = run_of(name), zoo.read(name).after
    weights, frozen = load_file(run.path / "model.safetensors"), run.spec.train.freeze
    initial = build_vae(run.spec.model, run.header.facts, seed=run.spec.train.seed)
    before = initial.state_dict() if after is None else load_file(run_of(after).path / "model.safetensors")
    for part, module in initial.named_children():
        names = [f"{part}.{name}" for name, _ in module.named_parameters()]
        if part in frozen:
            assert all(torch.equal(weights[name], before[name]) for name in names), part
        elif names:
            assert not all(name in before and torch.equal(weights[name], before[name]) for name in names), part


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_shape_and_the_range_of_the_data(name: str, run_of: Any) -> None:
    run = run_of(name)
    vae, facts = run.vae(), run.header.facts
    samples = vae.sample(8, generator=torch.Generator().manual_seed(0))
    assert samples.shape == (8, *facts.data_shape)
    assert samples.isfinite().all()
    if roles.likelihoods.get(run.spec.model.likelihood.kind).support == "unit":
        assert 0 <= samples.min() <= samples.max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_is_exported_and_verified(name: str, run_of: Any, tmp_path: Path) -> None:
    run_of(name).export("onnx", out=tmp_path / "decoder.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_200_steps_on_digits_lower_the_loss(name: str, data: Any, tmp_path: Path) -> None:
    common: dict[str, Any] = {"epochs": 3, "threads": 1, "device": "cpu", "pictures": "none", "schedule": "constant"}
    source = data(name) if data(name)["dataset.path"].endswith("counts.npz") else {"dataset": "digits"}
    common |= source | ({"batch_size": 16, "epochs": 20} if source.get("dataset") == "array" else {})
    after = zoo.read(name).after
    if after is not None:
        first = vaekit.train(model=after, **small_options(after), **common, out=tmp_path / "first")
        common["init"] = str(first.path)
    run = vaekit.train(model=name, **small_options(name), **common, out=tmp_path / "run")
    losses = [record["validation_loss"] for record in run.metrics()]
    assert min(losses[1:]) < losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_shown_with_parts_reference_and_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from vaekit.cli import main

    assert main(["zoo", "show", name]) == 0
    shown, entry = capsys.readouterr().out, zoo.read(name)
    assert entry.title in shown
    assert f"vaekit train --model {name}" in shown
    model = build_spec(base_spec(name), {"model": name} | ({"init": "RUN"} if entry.after else {})).model
    for role in ("encoder", "posterior", "prior", "likelihood"):
        assert f"{role} {getattr(model, role).kind}" in shown
    assert all(loss.kind in shown for loss in model.loss)


def test_the_list_names_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    from vaekit.cli import main

    assert main(["zoo", "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["name"] for each in listed] == NAMES
    assert main(["zoo"]) == 0
    assert all(line.startswith(name) for line, name in zip(capsys.readouterr().out.splitlines(), NAMES, strict=False))


def test_flags_override_a_model_and_a_model_the_posterior_prior_and_losses_of_a_spec() -> None:
    assert build_spec({}, {"model": "beta_tcvae", "latent_dim": "3", "tc.beta": "2"}).model.latent_dim == 3
    spec = {"model": {"encoder": "cnn", "prior": "mixture", "loss": ["beta"]}, "train": {"epochs": 7}}
    built = build_spec(spec, {"model": "beta-tcvae"})
    assert (built.model.encoder.kind, built.model.prior.kind, built.train.epochs) == ("cnn", "normal", 7)
    assert [loss.kind for loss in built.model.loss] == ["tc"]


def test_an_unknown_model_is_refused_with_suggestions() -> None:
    with pytest.raises(UsageError, match="unknown model 'beta-tcvaf'") as refused:
        build_spec({}, {"model": "beta-tcvaf"})
    assert "beta-tcvae" in str(refused.value.remedy)


@pytest.mark.parametrize("name", [name for name in NAMES if zoo.read(name).after is not None])
def test_a_second_stage_model_needs_the_run_of_the_first(name: str) -> None:
    with pytest.raises(UsageError, match="is fitted to the codes of a trained") as refused:
        build_spec({}, {"model": name})
    assert f"--model {zoo.read(name).after}" in str(refused.value.remedy)
