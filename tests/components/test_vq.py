"""The codebook of a VQ-VAE: initialisation, learning and the bound."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import vaekit
from vaekit.components.posteriors.vq import VQ
from vaekit.distributions import from_positions, nearest, to_positions
from vaekit.errors import UsageError
from vaekit.model.vae import VAE
from vaekit.trace import Site, Trace

F64 = torch.float64


def posterior(codes: int = 4, shape: tuple[int, ...] = (2, 3), **options: Any) -> VQ:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VQ(math.prod(shape), shape, num_codes=codes, **options).double()


def trace_of(vq: VQ, outputs: Tensor) -> Trace:
    q: Any = vq(outputs)
    return Trace(outputs, (Site(q.mean, q, q),), q)


def outputs(num: int, size: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(num, size, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_positions_form_the_grid() -> None:
    grid = outputs(2, 24).view(2, 4, 2, 3)
    vectors = to_positions(grid.flatten(1), 4)
    assert torch.equal(vectors[1, 5], grid[1, :, 1, 2])
    assert torch.equal(from_positions(vectors), grid.flatten(1))


def test_the_nearest_entry_matches_a_search() -> None:
    vq, x = posterior(), outputs(5)
    q = vq(x)
    for image in range(5):
        for place in range(3):
            distances = [(x[image].view(2, 3)[:, place] - entry).norm() for entry in vq.codebook]
            best = int(torch.stack(distances).argmin())
            assert q.codes[image, place] == best
            assert torch.equal(q.entries[image].view(2, 3)[:, place], vq.codebook[best])


def test_samples_have_the_values_of_entries_and_the_gradient_of_outputs() -> None:
    vq, x = posterior(), outputs(5).requires_grad_()
    q = vq(x)
    z = q.rsample(torch.zeros(7, 5, 6, dtype=F64))
    assert torch.equal(z, q.entries.expand(7, 5, 6))
    weights = outputs(5, seed=1)
    (gradient,) = torch.autograd.grad((z * weights).sum(), x)
    torch.testing.assert_close(gradient, 7 * weights)
    assert torch.equal(q.log_prob(z), torch.zeros(7, 5, dtype=F64))
    assert torch.equal(q.log_prob(z + 1), torch.full((7, 5), -torch.inf, dtype=F64))


def test_the_codebook_follows_moving_averages_of_the_outputs_of_each_code() -> None:
    vq, x = posterior(decay=0.9, restart=0), outputs(50)
    trace = trace_of(vq, x)
    state, codes, vectors = vq.next_state(trace), trace.site.q.codes.flatten(), to_positions(x, 2).flatten(0, 1)  # type: ignore[attr-defined]
    for code in range(4):
        own = vectors[codes == code]
        usage = 0.9 * vq.usage[code] + 0.1 * len(own) / len(vectors)
        sums = 0.9 * vq.sums[code] + 0.1 * own.sum(0) / len(vectors)
        torch.testing.assert_close(state["usage"][code], usage)
        torch.testing.assert_close(state["codebook"][code], sums / usage)
    assert state["usage"].sum().item() == pytest.approx(1)


def test_a_rarely_used_entry_moves_to_an_output() -> None:
    vq, x = posterior(decay=0.0), outputs(50)
    vq.codebook[1:3] = torch.tensor([[50.0, 50.0], [60.0, 60.0]], dtype=F64)
    state = vq.next_state(trace_of(vq, x))
    vectors = to_positions(x, 2).flatten(0, 1)
    moved = state["codebook"][1:3]
    assert all((vectors == entry).all(1).any() for entry in moved)
    assert not torch.equal(moved[0], moved[1])
    torch.testing.assert_close(state["usage"][1:3], torch.full((2,), 0.25, dtype=F64))
    never = posterior(decay=0.0, restart=0)
    never.codebook[1:3] = vq.codebook[1:3]
    assert not never.next_state(trace_of(never, x))["usage"][1:3].any()


def test_the_codebook_starts_at_the_clusters_of_the_outputs() -> None:
    centres = torch.tensor([[5.0, 5.0], [-5.0, 5.0], [5.0, -5.0], [-5.0, -5.0]], dtype=F64)
    labels = torch.arange(200).view(100, 2) % 4
    vectors = centres[labels] + 0.1 * outputs(100, 4).view(100, 2, 2)
    vq = posterior(shape=(2, 2))
    state = vq.initial_state(trace_of(vq, from_positions(vectors)))
    assert sorted(nearest(centres, state["codebook"]).tolist()) == [0, 1, 2, 3]
    assert torch.cdist(centres, state["codebook"]).min(1).values.max() < 0.1
    torch.testing.assert_close(state["usage"], torch.full((4,), 0.25, dtype=F64))
    torch.testing.assert_close(state["sums"] / state["usage"][:, None], state["codebook"])


def test_more_entries_than_outputs_start_at_different_positions() -> None:
    vq = posterior(codes=40)
    state = vq.initial_state(trace_of(vq, outputs(5)))
    assert len(state["codebook"].unique(dim=0)) == 40


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> vaekit.Run:
    folder = tmp_path_factory.mktemp("vq")
    rng = np.random.default_rng(0)
    np.save(folder / "images.npy", np.kron(rng.integers(0, 256, (200, 4, 4)), np.ones((2, 2))).astype(np.uint8))
    options: dict[str, Any] = {"dataset": "array", "dataset.path": str(folder / "images.npy"), "posterior": "vq"}
    options |= {"encoder": "cnn", "encoder.channels": (8, 8), "decoder.channels": (8, 8), "latent_dim": 3, "latent_stride": 2}
    options |= {"num_codes": 16, "epochs": 3, "batch_size": 16, "pictures": "none", "threads": 1, "device": "cpu"}
    return vaekit.train(**options, out=folder / "run")


def test_the_kl_is_p_log_k_and_the_elbo_a_bound(run: vaekit.Run) -> None:
    numbers = run.evaluate(samples=3)
    assert run.spec.model.prior.kind == "uniform"
    assert [loss.kind for loss in run.spec.model.loss] == ["commitment"]
    assert numbers["kl"] == pytest.approx(16 * math.log(16), rel=1e-6)
    assert numbers["elbo"] == pytest.approx(-numbers["reconstruction"] - numbers["kl"], rel=1e-6)
    assert numbers["log_likelihood"] == pytest.approx(numbers["elbo"], rel=1e-5)  # q is a point mass: all samples are equal
    assert 1 < numbers["perplexity"] <= 16


def test_draws_from_the_prior_are_entries_at_every_position(run: vaekit.Run) -> None:
    vae: VAE = run.vae()
    z = to_positions(vae.sample_latent(50, generator=torch.Generator().manual_seed(0)), 3)
    assert z.shape == (50, 16, 3)
    codebook: Any = vae.posterior.codebook
    codes = nearest(z, codebook)
    assert torch.equal(codebook[codes], z)
    assert len(codes.unique()) == 16


def test_a_frozen_codebook_does_not_learn(run: vaekit.Run, tmp_path: Path) -> None:
    parts = ("encoder", "posterior")
    second = vaekit.train(run.spec, init=run.path, freeze=parts, epochs=1, out=tmp_path / "second")
    first, after = (load_file(each.folder.model) for each in (run, second))
    for name in first:
        assert torch.equal(first[name], after[name]) == (name.partition(".")[0] in parts), name


def test_a_grid_is_exported_as_a_grid(run: vaekit.Run) -> None:
    about = json.loads(run.export("onnx").path.with_suffix(".json").read_text())
    assert about["inputs"][0]["shape"] == ["batch", 3, 4, 4]
    assert about["latent_size"] == 48


def test_every_entry_is_used_at_the_start() -> None:
    vq, x = posterior(codes=30), outputs(50)
    codes = nearest(to_positions(x, 2), vq.initial_state(trace_of(vq, x))["codebook"])
    assert len(codes.unique()) == 30


@pytest.mark.parametrize("kind", ["vq", "residual_vq"])
def test_a_codebook_larger_than_the_data_is_refused(kind: str, tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8))
    options: dict[str, Any] = {
        "dataset": "array",
        "dataset.path": str(tmp_path / "few.npy"),
        "dataset.validation": 0.2,
        "dataset.test": 0.2,
        "latent_dim": 2,
        "latent_stride": 4,
        "encoder": "cnn",
        "posterior": kind,
        "batch_size": 18,
        "epochs": 1,
        "pictures": "none",
    }
    with pytest.raises(UsageError, match="larger than the data") as error:
        vaekit.train(**options, num_codes=73, out=tmp_path / "large")
    assert "18 training images with 4 positions" in str(error.value.given)
    assert not (tmp_path / "large").exists()
    vaekit.train(**options, num_codes=72, out=tmp_path / "as-large")
