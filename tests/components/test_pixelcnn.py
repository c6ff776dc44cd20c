"""The prior `pixelcnn`: dependencies between codes, normalisation, sampling, and a second stage."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import vaekit
from vaekit.components.priors.pixelcnn import PixelCNN
from vaekit.distributions import Codebooks, Quantised, from_positions, kl_per_dim, to_positions
from vaekit.distributions.pixelcnn import PixelCNNCodes
from vaekit.errors import UsageError

F64 = torch.float64
CASES = {
    "image": ((2, 2), (3,)),
    "signal of two numbers": ((3,), (2, 3)),
    "volume": ((2, 2, 2), (2,)),
    "one position": ((), (3, 2)),
    "a side of 1": ((1, 3), (4,)),
}


class Numbers:
    """Codes that represent themselves."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes

    def vectors(self, codes: Tensor) -> Tensor:
        return codes.to(F64)

    def codes(self, vectors: Tensor) -> Tensor:
        return vectors.long()


def density(sides: tuple[int, ...], sizes: tuple[int, ...], vocabulary: Any = None, **options: Any) -> PixelCNNCodes:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = (len(sizes), *sides)
        prior = PixelCNN(math.prod(shape), shape, sizes, **{"width": 8, "depth": 2, **options}).double()
    with torch.no_grad():
        prior.weights["logits"].mul_(3)  # so that codes depend on those before them
    return prior(SimpleNamespace(posterior=SimpleNamespace(vocabulary=vocabulary or Numbers(sizes))))


def all_codes(sides: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
    """Return all codes of all positions, ``(N, P, R)``."""
    every = itertools.product(*([range(size) for size in sizes] * math.prod(sides)))
    return torch.tensor([*every]).view(-1, math.prod(sides), len(sizes))


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_probabilities_of_all_codes_sum_to_one(case: str) -> None:
    p, codes = density(*CASES[case]), all_codes(*CASES[case])
    value = p.log_prob(from_positions(codes.to(F64)))
    assert value.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert value.std() > 0.1  # they differ
    both = torch.stack([codes, codes.flip(0)])[None]
    torch.testing.assert_close(p.log_prob(from_positions(both.to(F64)))[0], torch.stack([value, value.flip(0)]))


@pytest.mark.parametrize("case", ["image", "signal of two numbers", "one position"])
@torch.no_grad()
def test_draws_follow_the_probabilities(case: str) -> None:
    p, codes = density(*CASES[case]), all_codes(*CASES[case])
    num = 20_000
    noise = torch.rand(num, codes[0].numel(), generator=torch.Generator().manual_seed(0), dtype=F64)
    every, drawn = from_positions(codes.to(F64)), p.rsample(noise)
    counts, expected = (drawn[:, None] == every).all(-1).sum(0), p.log_prob(every).exp()
    assert counts.sum() == num
    assert ((counts / num - expected).abs() < 5 * (expected / num).sqrt() + 2 / num).all()  # five standard errors


@pytest.mark.parametrize("sides", [(5,), (3, 4), (2, 3, 3), (4, 1, 3)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_each_position_depends_on_exactly_the_preceding_ones(sides: tuple[int, ...], kernel: int) -> None:
    """Each position has a different code, so the gradient of the embedding table distinguishes positions."""
    num = math.prod(sides)
    p = density(sides, (num,), depth=4, kernel=kernel)
    context = p.context(torch.arange(num).view(1, num, 1))[0]
    for position in range(num):
        (gradient,) = torch.autograd.grad(context[position].sum(), p.weights["codes"], retain_graph=True, materialize_grads=True)
        depends = gradient.abs().sum(-1) > 0
        assert torch.equal(depends, torch.arange(num) < position), position


def test_code_numbers_of_a_position_depend_on_those_before_them() -> None:
    num = 4
    p = density((2,), (num,) * 3)
    codes = torch.arange(6).view(1, 2, 3) % num
    logits = p.logits(p.context(codes), codes)
    for place, r in itertools.product(range(2), range(3)):
        (gradient,) = torch.autograd.grad(logits[0, place, r].sum(), p.weights["before"], retain_graph=True)
        used = gradient.view(2, num, -1).abs().sum(-1) > 0
        expected = torch.zeros(2, num, dtype=torch.bool)
        for s in range(min(r, 2)):
            expected[s, codes[0, place, s]] = True
        assert torch.equal(used, expected)


@pytest.mark.parametrize("sides", [(7,), (3, 4), (2, 3, 3)])
@torch.no_grad()
def test_incremental_sampling_matches_full_passes(sides: tuple[int, ...]) -> None:
    p, num = density(sides, (3, 5), depth=3, kernel=5), math.prod(sides)
    noise = torch.rand(2, 10, 2 * num, generator=torch.Generator().manual_seed(0), dtype=F64)
    codes = to_positions(p.rsample(noise), 2).long().flatten(0, 1)
    bounds = torch.softmax(p.logits(p.context(codes), codes), -1).cumsum(-1)[..., :-1]
    assert torch.equal((noise.view(20, num, 2, 1) >= bounds).sum(-1).clamp(max=torch.tensor([2, 4])), codes)


@torch.no_grad()
def test_the_kl_of_a_point_mass_is_minus_the_log_probability_of_its_codes() -> None:
    books = Codebooks(torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(0), dtype=F64))
    p = density((2, 3), (5,), books)
    codes = torch.randint(5, (7, 6, 1), generator=torch.Generator().manual_seed(0))
    entries = from_positions(books.vectors(codes))
    kl = kl_per_dim(Quantised(entries, entries, codes), p)
    assert kl is not None
    torch.testing.assert_close(kl.sum(-1), -p.log_prob(entries))
    torch.testing.assert_close(to_positions(kl, 2), (-p.log_prob_of(codes) / 2)[..., None].expand(7, 6, 2))
    assert (kl >= 0).all()


def test_the_kernel_size_must_be_odd() -> None:
    with pytest.raises(UsageError, match="odd kernel size"):
        PixelCNN(4, (1, 4), (3,), kernel=4)


@pytest.fixture(scope="module", params=["vq", "fsq"])
def stages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[vaekit.Run, vaekit.Run]:
    """A run, and the run that fits a prior to its codes, as in the README."""
    folder = tmp_path_factory.mktemp(request.param)
    rows = np.random.default_rng(0).integers(0, 256, (200, 4, 1))
    np.save(folder / "images.npy", np.kron(np.tile(rows, (1, 1, 4)), np.ones((2, 2))).astype(np.uint8))  # of equal columns
    options: dict[str, Any] = {"dataset": "array", "dataset.path": str(folder / "images.npy"), "posterior": request.param}
    options |= {"encoder": "cnn", "encoder.channels": (8, 8), "decoder.channels": (8, 8), "latent_dim": 2, "latent_stride": 2}
    options |= {"num_codes": 8} if request.param == "vq" else {"levels": (4, 3)}
    options |= {"epochs": 3, "batch_size": 16, "pictures": "none", "threads": 1, "device": "cpu"}
    first = vaekit.train(**options, out=folder / "first")
    freeze = ("encoder", "decoder", "posterior", "likelihood")
    more: dict[str, Any] = {"prior": "pixelcnn", "width": 16, "depth": 2, "epochs": 6, "lr": 1e-2}
    return first, vaekit.train(first.spec, init=first.path, freeze=freeze, **more, out=folder / "second")


def test_fitting_the_prior_to_codes_lowers_only_the_kl(stages: tuple[vaekit.Run, vaekit.Run]) -> None:
    first, second = stages
    before, after = first.evaluate(samples=2), second.evaluate(samples=2)
    assert before["kl"] == pytest.approx(16 * math.log(8 if first.spec.model.posterior.kind == "vq" else 12), rel=1e-6)
    assert after["kl"] < 0.7 * before["kl"]
    assert after["reconstruction"] == pytest.approx(before["reconstruction"], rel=1e-6)
    assert after["log_likelihood"] == pytest.approx(after["elbo"], rel=1e-5)  # q is a point mass: all samples are equal
    one, other = (load_file(run.folder.model) for run in stages)
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())
    assert second.metrics()[-1]["train_loss"] < second.metrics()[0]["train_loss"]


def test_samples_are_typical_codes_and_decode_to_images(stages: tuple[vaekit.Run, vaekit.Run]) -> None:
    first, second = stages
    vae: Any = second.vae()
    generator = torch.Generator().manual_seed(0)
    z, others = (each.sample_latent(100, generator=generator) for each in (vae, first.vae()))
    with torch.no_grad():
        p = vae.prior(vae)
        assert p.log_prob(z).mean() > p.log_prob(others).mean() + 5
    assert vae.decode(z).shape == (100, 1, 8, 8)


def test_the_decoder_of_a_pixelcnn_model_is_exported(stages: tuple[vaekit.Run, vaekit.Run], tmp_path: Path) -> None:
    assert stages[1].export("onnx", out=tmp_path / "decoder.onnx").path.exists()
