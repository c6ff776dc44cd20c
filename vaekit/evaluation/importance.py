"""The log-likelihood of images, estimated by importance sampling from the posterior."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from vaekit.data import Batch
from vaekit.errors import UsageError
from vaekit.interfaces import without_density
from vaekit.model.vae import VAE
from vaekit.streams import Streams

CHUNK_NUMBERS = 2**24
"""The number of pixels in all channels decoded at once on a GPU: 16,384 MNIST images on an H100 are 16 times as fast as 1,024."""


def estimate_batch(
    vae: VAE, batch: Batch, draw: Callable[[int, int], Tensor], *, samples: int, step: int
) -> tuple[Tensor, Tensor]:
    """Return estimates of ``log p(x)`` for the images of a batch, and their effective sample sizes, each ``(B,)``.

    Args:
        vae: The model.
        batch: The images.
        draw: Returns the base noise of samples: ``draw(k, num)`` that of the ``num`` samples from the k-th on, ``(num, B, D)``.
        samples: The number of importance samples K.
        step: The number of samples decoded at once.
    """
    exact = torch.float32 if vae.device.type == "mps" else torch.float64
    q = vae.encode(batch.inputs, batch.y)
    first = second = None  # running log sum w and log sum w^2
    for done in range(0, samples, step):
        log_w = vae.trace_from(q, draw(done, min(step, samples - done)), batch.x, y=batch.y).log_weight.to(exact)
        sums = torch.logsumexp(log_w, 0), torch.logsumexp(2 * log_w, 0)
        first = sums[0] if first is None else torch.logaddexp(first, sums[0])
        second = sums[1] if second is None else torch.logaddexp(second, sums[1])
    assert first is not None
    assert second is not None
    return first - math.log(samples), torch.exp(2 * first - second)


@torch.no_grad()
def log_likelihood(
    vae: VAE, batches: Iterable[Batch], streams: Streams, *, samples: int, split: str = "test", chunk: int | None = None
) -> dict[str, float]:
    """Estimate ``log p(x)`` by ``log (1/K) sum_k p(x|z_k) p(z_k) / q(z_k|x)``, a lower bound in expectation.

    Each image is encoded once, images and samples are decoded together, and the logarithm of the sum is accumulated, so memory is
    bounded by ``chunk`` decoded images.

    Args:
        vae: The model, which is evaluated in eval mode.
        batches: Evaluation batches.
        streams: The random streams of the run; the noise is a function of the seed, the split, the batches and ``chunk``.
        samples: The number of importance samples K.
        split: The name of the split, which seeds the noise.
        chunk: The maximum number of images decoded at once; default: on a CPU, 2,048, or 1,024 if they have more than 1,024
            pixels; on a GPU, as many as `CHUNK_NUMBERS` allows.

    Returns:
        ``log_likelihood`` in nats per image, its ``standard_error`` over images, ``effective_samples`` (the mean over images of
        ``1 / sum w^2``, with normalised weights w) and ``samples``.

    Raises:
        UsageError: The posterior or the prior has no density.

    References:
        Burda et al. (2016), "Importance Weighted Autoencoders", ICLR, arXiv:1509.00519, equation 8.
    """
    if reason := without_density(vae.posterior, vae.prior):
        raise UsageError(f"log p(x) cannot be estimated, since {reason}")
    if chunk is None:
        num_pixels = math.prod(vae.data_shape)
        on_cpu = 2048 if num_pixels <= 1024 else 1024
        chunk = on_cpu if vae.device.type == "cpu" else max(1024, CHUNK_NUMBERS // num_pixels)
    training = vae.training
    vae.eval()
    estimates: list[Tensor] = []
    effective: list[Tensor] = []
    for number, batch in enumerate(batches):
        size, inputs, stream = len(batch.x), batch.inputs, f"importance/{split}/{number}"

        def draw(done: int, num: int, size: int = size, inputs: Tensor = inputs, stream: str = stream) -> Tensor:
            generator = streams.generator(stream, done, vae.device)
            noise: Tensor = vae.posterior.draw_noise(num * size, generator, like=inputs).unflatten(0, (num, size))
            return noise

        estimate, ess = estimate_batch(vae, batch, draw, samples=samples, step=max(1, chunk // size))
        estimates.append(estimate)
        effective.append(ess)
    vae.train(training)
    values = torch.cat(estimates)
    return {
        "log_likelihood": values.mean().item(),
        "standard_error": (values.std() / math.sqrt(len(values))).item(),
        "effective_samples": torch.cat(effective).mean().item(),
        "samples": samples,
    }
