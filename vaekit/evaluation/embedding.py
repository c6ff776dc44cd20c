"""Codes of examples, with statistics of their posteriors, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.data.batches import Batch, Batches
from vaekit.data.pixels import Array
from vaekit.distributions import Distribution, kl_per_dim
from vaekit.errors import DataError
from vaekit.interfaces import without_density
from vaekit.model.vae import VAE
from vaekit.streams import Streams

BATCH = 256
"""The default number of examples encoded at once."""
ROWS = 256
"""The number of rows whose noise is drawn together, whatever the size of a batch."""
DRAWS = 16
"""The number of samples used to estimate a KL without a closed form."""


@dataclass(frozen=True)
class Embedding:
    """Codes of N examples as arrays of NumPy; an array that does not apply to the model or its data is None.

    Grids of latents are flattened in the order (channel, row, column): ``z.reshape(-1, *vae.latent_shape)`` is the grid.

    Args:
        row: The position of each example in its split or file, int64 ``(N,)``.
        file: The name of its file, if each example is a file, ``(N,)``.
        label: The number of its class, int64 ``(N,)``.
        class_name: The name of its class, ``(N,)``.
        z: The codes, float32 ``(N, D)``: means of q(z|x), or samples. Images are reconstructed from the mean: the mean
            direction on a sphere, the centre in hyperbolic space, the probabilities of classes, the chosen entries of a codebook,
            the image of the base's mean under a flow, the means of layers given those before.
        std: The standard deviation of each latent in q(z|x), float32 ``(N, D)``, if it has a closed form. It has none on a
            sphere, in hyperbolic space, for flows and for layers; a single point has none either.
        kl: KL(q(z|x) ‖ p(z)) in nats, float32 ``(N,)``: in closed form, else the mean over `DRAWS` samples; None if the posterior
            or the prior has no density.
        kl_per_latent: The contribution of each latent, given those before it, float32 ``(N, D)``, as in ``evaluation.json``; None
            if the densities have no such terms. Latents that share one KL, as on a sphere, in a one-hot vector or in an entry
            of a codebook, each have an equal part.
    """

    row: Array
    file: Array | None
    label: Array | None
    class_name: Array | None
    z: Array
    std: Array | None
    kl: Array | None
    kl_per_latent: Array | None

    def __len__(self) -> int:
        return len(self.z)

    @property
    def columns(self) -> dict[str, Array]:
        """The available arrays by name."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: values for name, values in found.items() if values is not None}


def joined(parts: Sequence[Embedding]) -> Embedding:
    """Return the codes of several batches of one source as those of one."""
    columns: dict[str, Any] = dict.fromkeys(each.name for each in fields(Embedding))
    return Embedding(**columns | {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns})


@torch.no_grad()
def encode(vae: VAE, batches: Batches, streams: Streams, *, sample: bool = False) -> Iterator[tuple[Batch, Any, Tensor]]:
    """Yield batches of examples in order, their posteriors q(z|x), and their codes ``(B, D)``.

    Args:
        vae: The model, in eval mode, on the device of the batches.
        batches: Evaluation batches.
        streams: The source of randomness.
        sample: Whether codes are samples from q(z|x) instead of its means. It depends on the seed, the split and the row alone.
    """
    for batch in batches.epoch(0):
        q = vae.encode(batch.inputs, batch.y)
        noise = _noise(vae, streams, f"codes/{batches.split}", batch) if sample else None
        yield batch, q, q.mean if noise is None else q.rsample(noise)


@torch.no_grad()
def embed(vae: VAE, batches: Batches, streams: Streams, *, sample: bool = False) -> Iterator[Embedding]:
    """Yield the codes of examples in order, a batch at a time; up to rounding, they do not depend on the size of a batch.

    Args:
        vae: The model, in eval mode, on the device of the batches.
        batches: Evaluation batches.
        streams: The source of randomness.
        sample: Whether codes are samples from q(z|x) instead of its means; see `encode`.

    Raises:
        UsageError: The model is conditional, and the data have no labels.
        DataError: A value lies outside [0, 1], and the model's likelihood is one of values in [0, 1].
    """
    for batch, q, z in encode(vae, batches, streams, sample=sample):
        _check_support(vae, batch.inputs)
        places = batches.source.places(batch.index)
        kl, kl_per_latent = _kl(vae, q, batch, streams, batches.split)
        variance = getattr(q, "variance", None)
        yield Embedding(
            row=places["row"],
            file=places.get("file"),
            label=places.get("label"),
            class_name=places.get("class_name"),
            z=_array(z),
            std=None if variance is None else _array(variance.sqrt()),
            kl=None if kl is None else _array(kl),
            kl_per_latent=None if kl_per_latent is None else _array(kl_per_latent),
        )


def _kl(vae: VAE, q: Distribution, batch: Batch, streams: Streams, split: str) -> tuple[Tensor | None, Tensor | None]:
    """Return the KL of each example, ``(B,)``, and the contribution of each latent, ``(B, D)``, where they are defined."""
    if without_density(vae.posterior, vae.prior):
        return None, None
    closed = kl_per_dim(q, vae.prior(vae, vae.condition_on(batch.y)))
    if closed is not None:
        return closed.sum(-1), closed
    totals, terms = [], []
    for draw in range(DRAWS):  # one after another, as a prior may take much memory for each
        noise = _noise(vae, streams, f"kl/{split}/{draw}", batch)
        site = vae.trace_from(q, noise, batch.x, y=batch.y, decode=False).site
        totals.append(site.kl)
        terms.append(site.kl_per_latent)
        if not noise.any():  # all samples from a point are the same
            break
    return _mean(totals), _mean(terms)


def _mean(parts: Sequence[Tensor | None]) -> Tensor | None:
    found = [part for part in parts if part is not None]
    return torch.stack(found).mean(0) if found else None


def _noise(vae: VAE, streams: Streams, stream: str, batch: Batch) -> Tensor:
    """Return the noise that belongs to the rows of a batch, ``(B, D)``; it is drawn on the CPU, the same for every device."""
    rows, like = batch.index.cpu(), torch.zeros((), dtype=batch.inputs.dtype)
    first, last = int(rows[0]) // ROWS, int(rows[-1]) // ROWS
    blocks = [vae.posterior.draw_noise(ROWS, streams.generator(stream, block), like=like) for block in range(first, last + 1)]
    return torch.cat(blocks)[rows - first * ROWS].to(batch.inputs.device)


def _check_support(vae: VAE, x: Tensor) -> None:
    """Check that examples are in the range of the training data."""
    if vae.likelihood.support == "unit" and bool(((x < 0) | (x > 1)).any()):
        raise DataError(
            "the model was trained on values in [0, 1]",
            given=f"values from {x.min():.4g} to {x.max():.4g}",
            remedy="scale the data to the range of the training data",
        )


def _array(values: Tensor) -> Array:
    array: Array = values.cpu().numpy()
    return array
