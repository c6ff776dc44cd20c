"""The input of exporters: a trained model and the information about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from vaekit.evaluation.detection import Threshold
from vaekit.specs.models import RunSpec
from vaekit.streams import Streams

if TYPE_CHECKING:
    from vaekit.model.vae import VAE

WIDTH = 3.0
"""Half the width of a latent's suggested range, in standard deviations."""


@dataclass(frozen=True)
class Latent:
    """A latent dimension: the distribution of its codes over the data (the aggregate posterior), and the information it carries.

    Args:
        mean: The mean of the codes.
        std: The standard deviation of the codes.
        kl: The KL divergence of the posterior from the prior, in nats per image; None if unknown.
    """

    mean: float
    std: float
    kl: float | None

    @property
    def range(self) -> tuple[float, float]:
        """The range of values worth trying: three standard deviations on either side of the mean."""
        return self.mean - WIDTH * self.std, self.mean + WIDTH * self.std


class Scaling(NamedTuple):
    """How codes become numbers of mean 0 and standard deviation 1, as diffusion models expect: ``(z - shift) * scale``.

    The names in files are those of diffusers, which applies them in the same order.

    Args:
        shift: The shift factor, the mean of the codes.
        scale: The scaling factor, 1 over their standard deviation; 1 if they are constant.

    References:
        Rombach et al. (2022), "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR, arXiv:2112.10752, appendix G.
    """

    shift: float
    scale: float

    @classmethod
    def of(cls, latents: Sequence[Latent]) -> Scaling:
        """Return the scaling of all numbers of several latents: their variance is the mean variance plus that of the means."""
        mean = fmean(latent.mean for latent in latents)
        variance = fmean(latent.std**2 + (latent.mean - mean) ** 2 for latent in latents)
        return cls(mean, 1 / math.sqrt(variance) if variance > 0 else 1.0)


@dataclass(frozen=True)
class Trained:
    """A trained model and the information about it.

    Args:
        vae: The model, on the CPU and in eval mode.
        spec: The spec that it was trained with.
        versions: The versions of vaekit, torch and the components that it was trained with.
        latents: Its latent dimensions.
        class_names: The names of the classes of its data, if these have labels.
        threshold: The score above which an example is anomalous, if one is stored with the run.
    """

    vae: VAE
    spec: RunSpec
    versions: Mapping[str, Any]
    latents: tuple[Latent, ...]
    class_names: tuple[str, ...] | None = None
    threshold: Threshold | None = None

    @property
    def scaling(self) -> Scaling:
        """The scaling of all numbers of the codes together."""
        return Scaling.of(self.latents)

    @property
    def channel_scalings(self) -> tuple[Scaling, ...] | None:
        """The scaling of each channel of a grid of latents; None if they form a vector."""
        channels, *sides = self.vae.latent_shape
        size = math.prod(sides)
        return tuple(Scaling.of(self.latents[size * i : size * (i + 1)]) for i in range(channels)) if sides else None

    def prior_codes(self, num: int) -> Tensor:
        """Return samples from the prior, ``(num, D)``; they are always the same."""
        return self.vae.sample_latent(num, generator=Streams(0).generator("export/prior"))

    def posterior_codes(self, num: int) -> Tensor:
        """Return codes whose dimensions are distributed like those of the data, ``(num, D)``; they are always the same."""
        noise = torch.randn(num, self.vae.latent_dim, generator=Streams(0).generator("export/posterior"))
        mean, std = (torch.tensor([getattr(latent, name) for latent in self.latents]) for name in ("mean", "std"))
        return mean + std * noise


def latents_of(vae: VAE, evaluation: Mapping[str, Any] | None) -> tuple[Latent, ...]:
    """Return the latents of a model, with statistics from an evaluation or, if there is none, from the prior."""
    if evaluation is not None and "latent_mean" in evaluation:
        mean, std = evaluation["latent_mean"], evaluation["latent_std"]
        kl = evaluation.get("kl_per_latent", [None] * vae.latent_dim)
    else:
        codes = vae.sample_latent(4096, generator=Streams(0).generator("export/latents"))
        mean, std = ([round(value, 1) + 0.0 for value in values.tolist()] for values in (codes.mean(0), codes.std(0)))
        kl = [None] * vae.latent_dim
    return tuple(Latent(*values) for values in zip(mean, std, kl, strict=True))
