"""Quantisation by levels and in stages: `fsq` and `residual_vq`, and the prior `uniform` over their codes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from vaekit.components.losses.commitment import Commitment
from vaekit.components.posteriors.fsq import FSQ
from vaekit.components.posteriors.residual_vq import ResidualVQ
from vaekit.components.posteriors.vq import VQ
from vaekit.components.priors.uniform import Uniform
from vaekit.data.facts import Facts
from vaekit.distributions import Codebooks, Levels, UniformCodes, from_positions, kl_per_dim, nearest, to_positions
from vaekit.drawing.latents import decode, decode_nearest
from vaekit.errors import UsageError
from vaekit.model.assembly import build_vae
from vaekit.specs.options import build_spec
from vaekit.trace import Site, Trace

F64 = torch.float64


def seeded(cls: Any, shape: tuple[int, ...] = (2, 3), **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return cls(math.prod(shape), shape, **options).double()


def outputs(num: int, size: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(num, size, generator=torch.Generator().manual_seed(seed), dtype=F64)


def trace_of(posterior: Any, x: Tensor) -> Trace:
    q = posterior(x)
    num = x.shape[1] // posterior.channels
    return Trace(x, (Site(q.mean, q, UniformCodes(posterior.vocabulary, num)),), q)


def test_one_stage_is_vq() -> None:
    vq, residual = seeded(VQ, num_codes=4), seeded(ResidualVQ, num_codes=4, num_stages=1)
    q, other = vq(outputs(50)), residual(outputs(50))
    assert torch.equal(residual.codebooks[0], vq.codebook)
    assert torch.equal(q.entries, other.entries)
    assert torch.equal(q.distance, other.distance)
    for method in ("next_state", "initial_state"):
        one, same = (getattr(each, method)(trace_of(each, outputs(50))) for each in (vq, residual))
        for mine, theirs in zip(one.values(), same.values(), strict=True):
            assert torch.equal(mine, theirs[0])


def test_each_stage_quantises_the_residual_of_the_previous_ones() -> None:
    residual, x = seeded(ResidualVQ, num_codes=4, num_stages=3), outputs(5)
    q = residual(x)
    for image in range(5):
        for place in range(3):
            left = x[image].view(2, 3)[:, place]
            for stage, book in enumerate(residual.codebooks):
                best = int(torch.stack([(left - entry).norm() for entry in book]).argmin())
                assert q.codes[image, place, stage] == best
                left = left - book[best]
                partial = x[image].view(2, 3)[:, place] - left
                torch.testing.assert_close(q.partial[stage, image].view(2, 3)[:, place], partial)
    assert torch.equal(q.entries, q.partial[-1])
    torch.testing.assert_close(q.entries, from_positions(residual.vocabulary.vectors(q.codes)))


def test_samples_have_the_values_of_sums_and_the_gradient_of_outputs() -> None:
    residual, x = seeded(ResidualVQ, num_codes=4, num_stages=3), outputs(5).requires_grad_()
    q, weights = residual(x), outputs(5, seed=1)
    z = q.rsample(torch.zeros(7, 5, 6, dtype=F64))
    assert torch.equal(z, q.entries.expand(7, 5, 6))
    (gradient,) = torch.autograd.grad((z * weights).sum(), x)
    torch.testing.assert_close(gradient, 7 * weights)


def test_every_codebook_follows_moving_averages_of_its_residuals() -> None:
    residual, x = seeded(ResidualVQ, num_codes=4, num_stages=3, decay=0.9, restart=0), outputs(50)
    trace = trace_of(residual, x)
    state, codes, left = residual.next_state(trace), trace.site.q.codes.flatten(0, 1), to_positions(x, 2).flatten(0, 1)  # type: ignore[attr-defined]
    for stage, book in enumerate(residual.codebooks):
        for code in range(4):
            own = left[codes[:, stage] == code]
            usage = 0.9 * residual.usage[stage, code] + 0.1 * len(own) / len(left)
            sums = 0.9 * residual.sums[stage, code] + 0.1 * own.sum(0) / len(left)
            torch.testing.assert_close(state["usage"][stage, code], usage)
            torch.testing.assert_close(state["codebooks"][stage, code], sums / usage)
        left = left - book[codes[:, stage]]


def test_codebooks_start_at_clusters_of_clusters() -> None:
    coarse = torch.tensor([[9.0, 9.0], [-9.0, 9.0], [9.0, -9.0], [-9.0, -9.0]], dtype=F64)
    fine = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=F64)
    number = torch.arange(400).view(200, 2)
    vectors = coarse[(number + number // 100) % 4] + fine[number // 4 % 4] + 0.05 * outputs(200, 4).view(200, 2, 2)
    residual = seeded(ResidualVQ, (2, 2), num_codes=4, num_stages=2)
    state = residual.initial_state(trace_of(residual, from_positions(vectors)))
    for centres, book in zip((coarse, fine), state["codebooks"], strict=True):
        assert sorted(nearest(centres, book).tolist()) == [0, 1, 2, 3]
        assert torch.cdist(centres, book).min(1).values.max() < 0.1
    torch.testing.assert_close(state["sums"] / state["usage"][..., None], state["codebooks"])


def test_the_commitment_is_the_kl_and_the_distances_of_all_stages() -> None:
    residual, x = seeded(ResidualVQ, num_codes=4, num_stages=2), outputs(5).requires_grad_()
    trace = trace_of(residual, x)
    value, q = Commitment(commitment=0.5)(trace), residual(x)
    distance = sum((x - partial).square().sum(-1) for partial in q.partial)
    torch.testing.assert_close(value, 3 * 2 * math.log(4) + 0.5 * distance)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(gradient, sum((x - partial) for partial in q.partial))


@pytest.mark.parametrize("size", [3, 4, 5, 8, 255, 256])
def test_every_level_is_reached(size: int) -> None:
    fsq = FSQ(1, (1,), levels=(size,))
    q = fsq(torch.linspace(-12, 12, 100_001)[:, None])
    assert torch.equal(q.codes.flatten().unique(), torch.arange(size))
    values = q.entries.unique() * (size // 2)
    torch.testing.assert_close(values, torch.arange(size) - float(size // 2), rtol=0, atol=1e-4)
    assert fsq(torch.zeros(1, 1)).codes.item() == size // 2
    codes = torch.arange(size)[:, None]
    assert torch.equal(fsq.vocabulary.codes(fsq.vocabulary.vectors(codes)), codes)


def test_an_output_is_rounded_to_the_nearest_level_with_the_gradient_of_tanh() -> None:
    fsq, x = seeded(FSQ, (2, 3), levels=(4, 5)), (2 * outputs(50)).requires_grad_()
    q, weights = fsq(x), outputs(50, seed=1)
    even, odd = x.view(50, 2, 3).unbind(1)
    reach = 3 * 1.001 / 2
    bounded = torch.stack([(reach * torch.tanh(even + math.atanh(0.5 / reach)) - 0.5) / 2, 2 * 1.001 / 2 * torch.tanh(odd)], 1)
    levels = [torch.arange(-2, 2, dtype=F64) / 2, torch.arange(-2, 3, dtype=F64) / 2]
    for channel, own in enumerate(levels):
        best = (bounded[:, channel, :, None] - own).abs().argmin(-1)
        assert torch.equal(q.codes[..., channel], best)
        assert torch.equal(q.entries.view(50, 2, 3)[:, channel], own[best])
    z = q.rsample(torch.zeros(50, 6, dtype=F64))
    assert torch.equal(z, q.entries)
    (gradient,), (expected,) = (
        torch.autograd.grad((value.flatten(1) * weights).sum(), x, retain_graph=True) for value in (z, bounded)
    )
    torch.testing.assert_close(gradient, expected)


def test_the_number_of_levels_must_match_the_channels() -> None:
    assert FSQ(12, (3, 4), levels=(8, 5, 5)).code_sizes == (8, 5, 5)
    assert FSQ(12, (3, 4)).code_sizes == (5, 5, 5)
    with pytest.raises(UsageError, match="the number of levels of each channel") as error:
        FSQ(12, (3, 4), levels=(8, 5))
    assert error.value.given == "levels 8, 5 for 3 channels"
    assert error.value.remedy == "use --latent-dim 2"


VOCABULARIES = {
    "two codebooks": (Codebooks(outputs(2 * 4 * 3).view(-1)[: 2 * 4 * 3].view(2, 4, 3)), 3),
    "levels": (Levels((3, 4), torch.tensor([1.0, 2.0], dtype=F64), torch.tensor([2.0, 3.0], dtype=F64)), 2),
}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_uniform_draws_are_all_codes_equally_often(name: str) -> None:
    vocabulary, channels = VOCABULARIES[name]
    p, num = UniformCodes(vocabulary, 2), 20_000
    sizes = vocabulary.sizes
    noise = torch.rand(num, 2 * len(sizes), generator=torch.Generator().manual_seed(0), dtype=F64)
    z = p.rsample(noise)
    assert z.shape == (num, 2 * channels)
    vectors, counts = to_positions(z, channels).flatten(0, 1).unique(dim=0, return_counts=True)
    assert len(vectors) == math.prod(sizes)
    share = 1 / math.prod(sizes)
    allowed = 5 * math.sqrt(share * (1 - share) / (2 * num))  # five standard errors
    assert (counts / (2 * num) - share).abs().max() < allowed
    torch.testing.assert_close(p.mean, from_positions(vectors.mean(0).expand(2, -1)))
    torch.testing.assert_close(p.log_prob(z), torch.full((num,), 2 * math.log(share), dtype=F64))


@pytest.mark.parametrize(
    ("cls", "nats"), [(ResidualVQ, 3 * 4 * math.log(256)), (FSQ, 3 * 2 * math.log(5)), (VQ, 3 * math.log(512))]
)
def test_the_kl_from_the_uniform_prior_is_the_log_number_of_codes(cls: Any, nats: float) -> None:
    posterior = seeded(cls)
    prior = Uniform(6, (2, 3), posterior.code_sizes)
    p = UniformCodes(posterior.vocabulary, 3)
    kl = kl_per_dim(posterior(outputs(5)), p)
    assert kl is not None
    torch.testing.assert_close(kl.sum(-1), torch.full((5,), nats, dtype=F64))
    z = p.rsample(prior.draw_noise(5, like=torch.zeros((), dtype=F64)))
    torch.testing.assert_close(p.log_prob(z), torch.full((5,), -nats, dtype=F64))


@pytest.mark.parametrize("kind", ["vq", "fsq", "residual_vq", "categorical", "joint"])
@torch.no_grad()
def test_pictures_decode_the_nearest_codes(kind: str) -> None:
    facts, options = Facts(data_shape=(1, 8, 8)), {"posterior": kind, "encoder": "cnn", "latent_dim": 4, "latent_stride": 4}
    vae: Any = build_vae(build_spec({}, {**options, "encoder.channels": (8, 8), "decoder.channels": (8, 8)}).model, facts, seed=0)
    vae.eval()
    z, own = torch.randn(20, 16, generator=torch.Generator().manual_seed(0)), vae.sample_latent(20)
    near = vae.posterior.nearest(z)
    assert torch.equal(decode_nearest(vae, z), decode(vae, near))
    assert not torch.equal(near, z)
    if kind != "residual_vq":  # its codes are found one by one
        assert torch.equal(vae.posterior.nearest(own), own)
        assert torch.equal(vae.posterior.nearest(near), near)
        assert ((near - z).square().sum(-1)[:, None] <= (own - z[:, None]).square().sum(-1) + 1e-5).all() or kind == "joint"
    if kind in ("categorical", "joint"):
        classes = near.view(20, 4, 4)[:, -2 if kind == "joint" else 0 :]
        assert torch.equal(classes.sum(1), torch.ones(20, 4))
        assert torch.equal(classes.argmax(1), z.view(20, 4, 4)[:, -classes.shape[1] :].argmax(1))
    if kind == "joint":
        assert torch.equal(near[:, :8], z[:, :8])


def test_pixelcnn_refuses_continuous_codes() -> None:
    with pytest.raises(UsageError, match="needs readable_codes, which the posterior 'residual_vq' does not provide") as error:
        build_spec({}, {"posterior": "residual_vq", "prior": "pixelcnn"})
    assert "use --posterior vq" in str(error.value.remedy)
