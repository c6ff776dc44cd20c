"""What is exported: a trained model, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vaekit.specs.models import RunSpec
from vaekit.streams import Streams

if TYPE_CHECKING:
    from vaekit.model.vae import VAE

WIDTH = 3.0
"""Half of a latent's suggested range, in standard deviations."""


@dataclass(frozen=True)
class Latent:
    """A latent dimension: how its codes are distributed over data, all posteriors together, and what it carries.

    Args:
        mean: Of the codes.
        std: Their standard deviation.
        kl: KL divergence of the posterior from the prior, in nats per image; None where it is not known.
    """

    mean: float
    std: float
    kl: float | None

    @property
    def range(self) -> tuple[float, float]:
        """Values worth trying: three standard deviations either way."""
        return self.mean - WIDTH * self.std, self.mean + WIDTH * self.std


@dataclass(frozen=True)
class Trained:
    """A trained model and what is known of it.

    Args:
        vae: The model, in eval mode on the CPU.
        spec: What it was trained with.
        versions: Of vaekit, torch and the components, when it was trained.
        latents: Its latent dimensions.
    """

    vae: VAE
    spec: RunSpec
    versions: Mapping[str, Any]
    latents: tuple[Latent, ...]

    def prior_codes(self, num: int) -> Tensor:
        """Return draws from the prior, ``(num, D)``, always the same ones."""
        noise = torch.randn(num, self.vae.latent_dim, generator=Streams(0).generator("export/prior"))
        with torch.no_grad():
            codes: Tensor = self.vae.prior().rsample(noise)
        return codes

    def posterior_codes(self, num: int) -> Tensor:
        """Return codes distributed as those of data, dimension by dimension, ``(num, D)``, always the same ones."""
        noise = torch.randn(num, self.vae.latent_dim, generator=Streams(0).generator("export/posterior"))
        mean, std = (torch.tensor([getattr(latent, name) for latent in self.latents]) for name in ("mean", "std"))
        return mean + std * noise


def latents_of(vae: VAE, evaluation: Mapping[str, Any] | None) -> tuple[Latent, ...]:
    """Return a model's latents as an evaluation describes them; without one, as the prior does."""
    if evaluation is not None and "latent_mean" in evaluation:
        mean, std = evaluation["latent_mean"], evaluation["latent_std"]
        kl = evaluation.get("kl_per_latent", [None] * vae.latent_dim)
    else:
        with torch.no_grad():
            codes = vae.prior().rsample(torch.randn(4096, vae.latent_dim, generator=Streams(0).generator("export/latents")))
        mean, std = ([round(value, 1) + 0.0 for value in values.tolist()] for values in (codes.mean(0), codes.std(0)))
        kl = [None] * vae.latent_dim
    return tuple(Latent(*values) for values in zip(mean, std, kl, strict=True))
