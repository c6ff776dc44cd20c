"""Checks that posteriors and priors draw from their densities, and that these integrate to 1.

Densities are over the real space of D dimensions. A posterior or prior that declares none, or that is on another space, passes. A
density that is known at its own draws only is compared with the draws by importance weights.
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
from vaekit.testing.densities import Source, arguments_of, noise_of, source_of, states_draws, takes_one_dimension
from vaekit.testing.statistics import (
    NUM_DRAWS,
    LogDensity,
    expect_draws,
    expect_independent,
    expect_joint_draws,
    expect_joint_mass,
    expect_mass,
    expect_mean,
    expect_stated_draws,
    line_around,
)

NUM_POSTERIORS = 3
"""Images whose posteriors are drawn from."""


@dataclass(frozen=True)
class Drawn:
    """Draws from one density over vectors: q(z|x) of one image, or p(z).

    Args:
        what: The name of the density in messages.
        density: The density.
        batched: Whether it has a batch dimension, of one image, as a posterior's has.
        draws: ``(N, D)``.
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
    """Yield draws from p(z), or from the posteriors of several images, if the density is factorised or not as requested."""
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


def stated_of(candidate: Candidate, *, latent_dim: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield draws ``(N, D)`` and the densities stated with them, ``(N,)``, of posteriors that know no others."""
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
    """The density that is stated with a draw is that of its noise, divided by the Jacobian determinant of the map to the draw.

    It is checked where the noise is the default: standard normal, one number for each latent.
    """
    for latent_dim in (1, 3) if takes_one_dimension(candidate) else (3,):
        source = source_of(candidate, latent_dim)
        part, own = source.part, type(source.part).draw_noise is Posterior.draw_noise
        if part.space != "real" or not own or Capability.LOG_PROB_OF_DRAWS not in source.provides:
            return
        params, noise = arguments_of(source)[0], noise_of(source, 6)
        if not states_draws(source(params)):
            return

        def draw(e: Tensor, row: Tensor, source: Source = source) -> Tensor:
            z: Tensor = source(row[None]).rsample(e[None])[0]
            return z

        jacobians = [torch.autograd.functional.jacobian(partial(draw, row=r), e) for r, e in zip(params, noise, strict=True)]
        expected = StandardNormal(noise).log_prob(noise) - torch.linalg.slogdet(torch.stack(jacobians)).logabsdet
        stated = source(params).rsample_and_log_prob(noise)[1]
        what = f"log densities that are stated with draws of {latent_dim} dimensions, against the log-determinant by autograd"
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
    """Draws follow the density: in each dimension if it is factorised, jointly otherwise.

    Draws from a factorised density are independent across dimensions, and their mean is ``mean``. The mean of a density that is
    not factorised, such as a flow's, often has no closed form and is not compared. Densities that are known at draws only must be
    those with which the draws occur.
    """
    for drawn in drawn_of(candidate, factorised=True, latent_dim=3):
        uniforms = [
            expect_draws(
                drawn.draws[:, dim],
                drawn.log_prob_of(dim),
                line_around(drawn.draws[:, dim]),
                f"draws of {drawn.what}, dimension {dim}, against the density",
            )
            for dim in range(3)
        ]
        expect_independent(torch.stack(uniforms, 1), f"draws of the dimensions of {drawn.what}, which is factorised")
        expect_mean(
            drawn.draws, drawn.density.mean.view(3), f"the mean of draws of {drawn.what}, against what it says is its mean"
        )
    for drawn in drawn_of(candidate, factorised=False, latent_dim=2):
        expect_joint_draws(drawn.draws, drawn.log_prob, f"draws of {drawn.what}, against the density")
    for what, z, log_q in stated_of(candidate, latent_dim=2):
        expect_stated_draws(z, log_q, f"draws of {what}, against the densities that are stated with them")
