"""The evidence lower bound of a data set, its two halves, and how many latents carry information."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor

from vaekit.data.batches import Batch
from vaekit.evaluation.metrics import METRICS
from vaekit.interfaces import Likelihood
from vaekit.model.objective import Inputs, Objective
from vaekit.streams import Streams

ACTIVE_VARIANCE = 0.01
"""A latent is active where the variance of its posterior mean over the data exceeds this.

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
    reduce: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict,
) -> dict[str, float | list[float]]:
    """Evaluate the objective at its schedules' final values, with codes sampled from the posterior.

    Noise is a function of the seed, the split and the batch's number, so two evaluations of one model agree exactly.

    Args:
        objective: The model and its losses; put back into the mode that it was in.
        batches: Evaluation batches; every example weighs the same, whatever the size of its batch.
        streams: The run's random streams.
        split: Name of the split, which seeds the noise.
        reduce: Adds sums by name over the processes that evaluate together, each some of the images.

    Returns:
        The numbers of the table in `vaekit.evaluation.metrics` that the model has, and every further term of the objective.
    """
    vae, device = objective.vae, objective.vae.device
    training = objective.training
    objective.eval()
    exact = torch.float32 if device.type == "mps" else torch.float64
    final = torch.tensor(math.inf, device=device)
    sums: dict[str, Tensor] = {}

    def add(name: str, value: Tensor) -> None:
        sums[name] = sums[name] + value if name in sums else value

    for batch in batches:
        size = batch.x.shape[0]
        if size == 0:  # a process may have no part in the last batch
            continue
        generator = streams.generator(f"evaluation/{split}", batch.step, device)
        noise = batch.share(partial(vae.posterior.draw_noise, generator=generator, like=batch.inputs))
        total, terms, trace = objective.evaluate(Inputs(batch.inputs, batch.x, noise, final, batch.y))
        for name, value in (terms | {"loss": total}).items():
            add(name, value.to(exact) * size)
        site = trace.sites[0]
        mean = site.q.mean.to(exact)
        add("mean", mean.sum(0))
        add("mean_square", mean.square().sum(0))
        code = site.z.to(exact)
        add("code", code.sum(0))
        add("code_square", code.square().sum(0))
        if site.kl_per_dim is not None:
            add("kl_per_latent", site.kl_per_dim.to(exact).sum(0))
        for metric in METRICS.values():
            if metric.measure is not None and (values := metric.measure(trace)) is not None:
                add(metric.key, values.to(exact).sum(0))
        add("count", torch.full((), size, device=device, dtype=exact))
    objective.train(training)

    sums = reduce(sums)
    count = sums.pop("count")
    mean, mean_square = sums.pop("mean") / count, sums.pop("mean_square") / count
    code, code_square = sums.pop("code") / count, sums.pop("code_square") / count
    results: dict[str, float | list[float]] = {
        name: (value / count).tolist() if value.ndim else (value / count).item() for name, value in sums.items()
    }
    if "kl" in sums:
        results["elbo"] = -((sums["reconstruction"] + sums["kl"]) / count).item()
    results["active_units"] = int((mean_square - mean.square() > ACTIVE_VARIANCE).sum().item())
    results["latent_mean"], results["latent_std"] = code.tolist(), (code_square - code.square()).clamp(min=0).sqrt().tolist()
    return results


def meaning_of_elbo(likelihood: Likelihood, *, binary: bool) -> str:
    """Say what the numbers called ELBO are for this likelihood, on binary pixels or others."""
    if not likelihood.continuous:
        return "lower bound of log p(x), nats" if binary else "cross-entropy on grey values, not a log-likelihood"
    if not likelihood.normalised:
        return "lower bound of log p(x) up to a constant, nats"
    return "lower bound of the log density of pixels in [0, 1], nats"


def bits_per_dim(elbo: float, num_pixels: int) -> float:
    """Convert a bound on the log density of 8-bit pixels scaled to [0, 1] into bits per dimension.

    The probability of a grey level is taken as the density at its centre times the width of a level, 1/255: accurate while the
    density's scale is above one level, which the learned scales' bound ensures.
    """
    return -elbo / (num_pixels * math.log(2.0)) + math.log2(255.0)
