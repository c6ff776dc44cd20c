"""The evidence lower bound (ELBO) on a dataset, its two terms, and the number of active latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from vaekit.data.batches import Batch
from vaekit.data.pixels import UNIT, Range
from vaekit.distributions import LEVEL, QuantisedDensity
from vaekit.evaluation.metrics import METRICS
from vaekit.interfaces import Likelihood
from vaekit.model.objective import Objective
from vaekit.streams import Streams
from vaekit.trace import Trace, mean_over_samples

ACTIVE_VARIANCE = 0.01
"""A latent is active if the variance of its posterior mean over the data exceeds this.

References:
    Burda et al. (2016), "Importance Weighted Autoencoders", ICLR, arXiv:1509.00519, section 5.2.
"""


@torch.no_grad()
def evaluate(
    objective: Objective,
    batches: Iterable[Batch],
    streams: Streams,
    *,
    split: str,
    quantised: bool = False,
    pixels: bool = False,
    chunk: int | None = None,
    reduce: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict,
) -> dict[str, float | list[float]]:
    """Evaluate the objective at the final values of its schedules, with codes sampled from the posterior.

    The noise is a function of the seed, the split and the batch number, so repeated evaluations of a model agree exactly.

    Args:
        objective: The model and its losses; its train or eval mode is restored afterwards.
        batches: Evaluation batches; all examples have the same weight, regardless of batch size.
        streams: The random streams of the run.
        split: The name of the split, which seeds the noise.
        quantised: Whether the images have 256 grey levels, for which bits per dimension are computed if the likelihood allows.
        pixels: Whether the data are images of grey levels or colours in [0, 1], for which PSNR and SSIM are computed.
        chunk: The number of images that the networks process at once; default: a batch.
        reduce: A function that adds up named sums across the processes that share the images.

    Returns:
        The metrics of `vaekit.evaluation.metrics` that apply to the model, and all other terms of the objective.
    """
    with _evaluating(objective, chunk):
        sums = _sums(objective, batches, streams, split, quantised=quantised, pixels=pixels)
    sums = reduce(sums)
    count = sums.pop("count")
    mean, mean_square = sums.pop("mean") / count, sums.pop("mean_square") / count
    code, code_square = sums.pop("code") / count, sums.pop("code_square") / count
    results: dict[str, float | list[float]] = {
        name: (value / count).tolist() if value.ndim else (value / count).item() for name, value in sums.items()
    }
    if "elbo" in sums:
        square = results.pop("elbo_square")
        spread = max(square - results["elbo"] ** 2, 0.0)  # type: ignore[operator]
        results["elbo_standard_error"] = math.sqrt(spread / max(count.item() - 1, 1))
    results["active_units"] = int((mean_square - mean.square() > ACTIVE_VARIANCE).sum().item())
    results["latent_mean"], results["latent_std"] = code.tolist(), (code_square - code.square()).clamp(min=0).sqrt().tolist()
    return results


@contextmanager
def _evaluating(objective: Objective, chunk: int | None) -> Iterator[None]:
    """Evaluate an objective within the context, its networks on ``chunk`` images at once."""
    training, before = objective.training, objective.vae.chunk
    objective.eval()
    objective.vae.chunk = chunk
    try:
        yield
    finally:
        objective.train(training)
        objective.vae.chunk = before


def _sums(
    objective: Objective, batches: Iterable[Batch], streams: Streams, split: str, *, quantised: bool, pixels: bool
) -> dict[str, Tensor]:
    """Return the sums over images of everything that `evaluate` averages."""
    vae, device = objective.vae, objective.vae.device
    exact = torch.float32 if device.type == "mps" else torch.float64
    final = torch.tensor(math.inf, device=device)
    sums: dict[str, Tensor] = {}

    def add(name: str, value: Tensor) -> None:
        sums[name] = sums[name] + value if name in sums else value

    for batch in batches:
        size = batch.x.shape[0]
        if size == 0:  # a process may have no share of the last batch
            continue
        inputs = objective.inputs_of(batch, streams, batch.step, epoch=final, split=split)
        _, terms, trace = objective.evaluate(inputs)
        for name, value in terms.items():
            add(name, value.to(exact) * size)
        if trace.kl is not None:
            bound = (mean_over_samples(trace.log_likelihood) - trace.kl).to(exact)
            add("elbo", bound.sum())
            add("elbo_square", bound.square().sum())
            log_mass = _log_mass(vae.likelihood, trace, exact) if quantised else None
            if log_mass is not None:
                add("bits_per_dim", (trace.kl - mean_over_samples(log_mass)).sum() / (batch.x[0].numel() * math.log(2.0)))
        site = trace.sites[0]
        mean = site.q.mean.to(exact)
        add("mean", mean.sum(0))
        add("mean_square", mean.square().sum(0))
        code = site.z[(0,) * len(objective.samples)].to(exact)
        add("code", code.sum(0))
        add("code_square", code.square().sum(0))
        if site.kl_per_latent is not None:
            add("kl_per_latent", site.kl_per_latent.to(exact).sum(0))
        for metric in METRICS.values():
            if metric.measure is None or (metric.of_pixels and not pixels):
                continue
            if (values := metric.measure(trace)) is not None:
                add(metric.key, values.to(exact).sum(0))
        add("count", torch.full((), size, device=device, dtype=exact))
    return sums


def meaning_of_elbo(likelihood: Likelihood, *, binary: bool, value_range: Range = UNIT, missing: bool = False) -> str:
    """Describe what the ELBO means for this likelihood, on binary or other pixels, some of which may be missing."""
    x, pixels = ("known x", "known pixels") if missing else ("x", "pixels")
    if likelihood.scores in ("levels", "counts") or (likelihood.scores == "binary" and binary):
        return f"lower bound of log p({x}), nats"
    if likelihood.scores == "binary":
        return "cross-entropy on grey values, not a log-likelihood"
    if not likelihood.normalised:
        return f"lower bound of log p({x}) up to a constant, nats"
    low, high = value_range
    return f"lower bound of the log density of {pixels} in [{low:.4g}, {high:.4g}], nats"


def _log_mass(likelihood: Likelihood, trace: Trace, dtype: torch.dtype) -> Tensor | None:
    """Return the log probability of 8-bit images, ``(*S, B)``; None if the likelihood does not provide it."""
    if likelihood.scores == "levels":
        return trace.log_likelihood.to(dtype)
    if not isinstance(trace.likelihood, QuantisedDensity):
        return None
    exact: QuantisedDensity = tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, trace.likelihood)
    return exact.log_mass(trace.x.to(dtype), LEVEL)
