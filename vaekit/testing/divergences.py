"""Checks of closed-form KL divergences registered with `vaekit.distributions.register_kl`."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from pydantic import ValidationError

from vaekit.distributions import kl_per_dim
from vaekit.errors import VaekitError
from vaekit.interfaces import Capability
from vaekit.roles import posteriors, priors
from vaekit.testing.core import Candidate, ConformanceError, check, expect, expect_close, expect_finite
from vaekit.testing.densities import Source, arguments_of, noise_of, source_of
from vaekit.testing.draws import NUM_POSTERIORS
from vaekit.testing.statistics import ERRORS, NUM_DRAWS, expect_mean
from vaekit.trace import Site

FEW_DRAWS = 2_000
"""The number of samples for pairs without a closed form, of whose divergence only the sign is checked."""


def pairs_of(candidate: Candidate) -> Iterator[tuple[str, Source, Source]]:
    """Pair a posterior with every registered prior, or a prior with every registered posterior, if both have densities.

    Components that cannot be built with default options are skipped.
    """
    others = priors if candidate.role == "posterior" else posteriors
    for kind in others.kinds():
        other = Candidate(others.role, kind)
        one, prior = (candidate, other) if candidate.role == "posterior" else (other, candidate)
        if one.cls.space != prior.cls.space or not prior.cls.requires <= one.cls.provides:
            continue
        try:
            q = source_of(one)
            p = source_of(prior, posterior=q.part)
        except (ConformanceError, VaekitError, ValidationError):
            continue
        if Capability.LOG_PROB_OF_DRAWS in q.provides and Capability.LOG_PROB in p.provides:
            yield f"KL(q || p) with the {others.role} {kind!r}", q, p


@check("posterior", "prior")
@torch.no_grad()
def check_kl(candidate: Candidate) -> None:
    """KL(q || p) equals the mean of log q - log p over samples from q; it is never negative, and 0 for q = p.

    A closed form is compared dimension by dimension. A posterior is paired with every registered prior, a prior with every
    registered posterior. One encoder output is zero, where q = p, or 0/0, is likely.
    """
    for what, posterior, prior in pairs_of(candidate):
        (params,) = arguments_of(posterior, NUM_POSTERIORS)
        params[0] = 0
        q, p = posterior(params), prior()
        closed = kl_per_dim(q, p)
        num_draws = NUM_DRAWS if closed is not None else FEW_DRAWS
        site = Site.drawn(q, noise_of(posterior, num_draws, NUM_POSTERIORS), p)
        z, sampled = site.z, site.log_q - site.log_p
        if closed is None:
            lowest = (sampled.mean(0) + ERRORS * sampled.std(0) / math.sqrt(num_draws)).min().item()
            expect(lowest >= 0, f"{what}, from log q - log p of samples", expected="0 or more", got=f"{lowest:.4g} at most")
            continue
        expect(closed.shape == params.shape[:1] + z.shape[-1:], f"the shape of {what}", expected="(B, D)", got=closed.shape)
        expect_finite(closed, what)
        lowest = closed.min().item()
        expect(lowest >= -1e-9, what, expected="0 or more", got=f"{lowest:.4g}")
        if Capability.FACTORISED in posterior.provides & prior.provides:
            sampled = q.log_prob_per_dim(z) - p.log_prob_per_dim(z)
            expect_mean(sampled, closed, f"log q - log p of samples, dimension by dimension, compared with {what}")
        else:
            expect_mean(sampled, closed.sum(-1), f"log q - log p of samples, compared with {what}")
        own = kl_per_dim(q, q)
        if own is not None:
            expect_close(own, torch.zeros_like(own), "KL(q || q)", rtol=0, atol=1e-9)
