"""Checks that posteriors and priors sample from their densities and that these integrate to 1.

Densities are over D-dimensional real space. A posterior or prior without a density or on another space passes. A density that
is only known at its own samples is compared with them by importance weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vaekit.distributions import StandardNormal
from vaekit.interfaces import Capability, Posterior
from vaekit.testing.core import Candidate, check, expect_close
from vaekit.testing.densities import Source, arguments_of, noise_of, returns_log_probs, source_of, takes_one_dimension
from vaekit.testing.statistics import (
    NUM_DRAWS,
    LogDensity,
    expect_draws,
    expect_draws_with_log_probs,
    expect_independent,
    expect_joint_draws,
    expect_joint_mass,
    expect_mass,
    expect_mean,
    line_around,
)

NUM_POSTERIORS = 3
"""Number of images whose posteriors are sampled."""


@dataclass(frozen=True)
class Drawn:
    """Samples from a density over vectors: q(z|x) of an image, or p(z).

    Args:
        what: The name of the density in messages.
        density: The density.
        batched: Whether it has a batch dimension (of size 1), as posteriors do.
        draws: The samples, ``(N, D)``.
    """

    what: str
    density: Any
    batched: bool
    draws: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """Map vectors ``(M, D)`` to their log densities ``(M,)``."""
        value: Tensor = self.density.log_prob(z.unsqueeze(1) if self.batched else z)
        return value.flatten()

    def log_prob_of(self, dim: int) -> LogDensity:
        """Return the function that maps values ``(M,)`` of one dimension to their log densities ``(M,)``."""

        def log_density(points: Tensor) -> Tensor:
            z = self.draws.mean(0).repeat(len(points), 1)
            z[:, dim] = points
            value: Tensor = self.density.log_prob_per_dim(z.unsqueeze(1) if self.batched else z)
            return value[..., dim].flatten()

        return log_density


def drawn_of(candidate: Candidate, *, factorised: bool, latent_dim: int) -> Iterator[Drawn]:
    """Yield samples from p(z) or the posteriors of several images, if the density is factorised as requested."""
    if candidate.cls.space != "real":
        return
    source = source_of(candidate, latent_dim)
    if Capability.LOG_PROB not in source.provides or (Capability.FACTORISED in source.provides) != factorised:
        return
    with torch.no_grad():
        if not isinstance(source.part, Posterior):
            yield Drawn("p(z)", source(), False, source().rsample(noise_of(source, NUM_DRAWS)))
            return
        (params,) = arguments_of(source, NUM_POSTERIORS)
        for number, row in enumerate(params):
            q = source(row[None])
            yield Drawn(f"q(z|x) of image {number}", q, True, q.rsample(noise_of(source, NUM_DRAWS, 1)).squeeze(1))


def draws_with_log_probs(candidate: Candidate, *, latent_dim: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield samples ``(N, D)`` with their log densities ``(N,)``, of posteriors that know no other densities."""
    source = source_of(candidate, latent_dim)
    if source.part.space != "real" or Capability.LOG_PROB in source.provides:
        return
    if Capability.LOG_PROB_OF_DRAWS not in source.provides:
        return
    (params,) = arguments_of(source, NUM_POSTERIORS)
    with torch.no_grad():
        for number, row in enumerate(params):
            z, log_q = source(row[None]).rsample_and_log_prob(noise_of(source, NUM_DRAWS, 1))
            yield f"q(z|x) of image {number}", z.squeeze(1), log_q.squeeze(1)


@check("posterior")
def check_log_determinant(candidate: Candidate) -> None:
    """The density returned with a sample is that of its noise divided by the Jacobian determinant of the map to the sample.

    It is checked for default noise: standard normal, one number per latent.
    """
    for latent_dim in (1, 3) if takes_one_dimension(candidate) else (3,):
        source = source_of(candidate, latent_dim)
        part, own = source.part, type(source.part).draw_noise is Posterior.draw_noise
        if part.space != "real" or not own or Capability.LOG_PROB_OF_DRAWS not in source.provides:
            return
        params, noise = arguments_of(source)[0], noise_of(source, 6)
        if not returns_log_probs(source(params)):
            return

        def draw(e: Tensor, row: Tensor, source: Source = source) -> Tensor:
            z: Tensor = source(row[None]).rsample(e[None])[0]
            return z

        jacobians = [torch.autograd.functional.jacobian(partial(draw, row=r), e) for r, e in zip(params, noise, strict=True)]
        expected = StandardNormal(noise).log_prob(noise) - torch.linalg.slogdet(torch.stack(jacobians)).logabsdet
        stated = source(params).rsample_and_log_prob(noise)[1]
        what = f"log densities returned with samples of {latent_dim} dimensions, compared with autograd's log-determinant"
        expect_close(stated, expected, what, rtol=1e-7, atol=1e-7)


@check("posterior", "prior")
def check_density(candidate: Candidate) -> None:
    """The density integrates to 1: over one dimension if it is factorised, over two otherwise."""
    for drawn in drawn_of(candidate, factorised=True, latent_dim=1):
        expect_mass(drawn.log_prob_of(0), line_around(drawn.draws[:, 0]), f"the density of {drawn.what}")
    for drawn in drawn_of(candidate, factorised=False, latent_dim=2):
        expect_joint_mass(drawn.draws, drawn.log_prob, f"the density of {drawn.what}")


@check("posterior", "prior")
def check_draws(candidate: Candidate) -> None:
    """Samples follow the density: in each dimension if it is factorised, jointly otherwise.

    Samples from a factorised density are independent across dimensions, and their mean is ``mean``. The mean of other
    densities, such as flows, often has no closed form and is not compared. Densities that are only known at samples must be
    those of the samples.
    """
    for drawn in drawn_of(candidate, factorised=True, latent_dim=3):
        uniforms = [
            expect_draws(
                drawn.draws[:, dim],
                drawn.log_prob_of(dim),
                line_around(drawn.draws[:, dim]),
                f"samples of {drawn.what}, dimension {dim}, compared with the density",
            )
            for dim in range(3)
        ]
        expect_independent(torch.stack(uniforms, 1), f"sampled dimensions of {drawn.what}, which is factorised")
        expect_mean(
            drawn.draws, drawn.density.mean.view(3), f"the mean of samples of {drawn.what}, compared with its attribute mean"
        )
    for drawn in drawn_of(candidate, factorised=False, latent_dim=2):
        expect_joint_draws(drawn.draws, drawn.log_prob, f"samples of {drawn.what}, compared with the density")
    for what, z, log_q in draws_with_log_probs(candidate, latent_dim=2):
        expect_draws_with_log_probs(z, log_q, f"samples of {what}, compared with the densities returned with them")
