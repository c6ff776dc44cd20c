from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from vaekit.data.facts import Facts
from vaekit.export.trained import Latent, Trained, latents_of
from vaekit.model.assembly import build_vae
from vaekit.model.vae import VAE
from vaekit.specs.options import build_spec

TINY = {
    "mlp": {"hidden": (24,)},
    "cnn": {"channels": (8, 8), "hidden": (16,)},
    "bilinear": {"channels": (8, 8), "hidden": (16,)},
    "resnet": {"channels": (8, 8)},
}


def build(shape: tuple[int, ...] = (1, 9, 7), *, encoder: str = "mlp", decoder: str = "mlp", **options: Any) -> Trained:
    tiny = {
        f"{role}.{name}": value
        for role, kind in (("encoder", encoder), ("decoder", decoder))
        for name, value in TINY.get(kind, {}).items()
    }
    spec = build_spec({}, {"encoder": encoder, "decoder": decoder, "latent_dim": 3, **tiny, **options})
    vae = build_vae(spec.model, Facts(data_shape=shape), seed=0).eval().requires_grad_(False)
    latents = tuple(Latent(0.1 * i, 1.0 + 0.1 * i, 2.0 - i) for i in range(vae.latent_dim))
    return Trained(vae, spec, {"vaekit": "0.1.0", "torch": "2.9", "components": {}}, latents)


@pytest.fixture(scope="session")
def make() -> Callable[..., Trained]:
    """Make a small untrained model, exported like a trained one."""
    return build


@pytest.fixture(scope="session")
def of_decoder() -> Callable[[nn.Module], Trained]:
    """Make a model with a given decoder, from 3 latents to 1×4×4 images."""

    def of_decoder(decoder: nn.Module) -> Trained:
        decoder.in_shape, decoder.out_shape = (3,), (1, 4, 4)  # type: ignore[assignment]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            vae = (
                VAE(nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Unflatten(1, (2, 3))), decoder).eval().requires_grad_(False)
            )
        return Trained(vae, build_spec({}, {"latent_dim": 3}), {}, latents_of(vae, None))

    return of_decoder


class BranchesOnBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 16)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        image = self.linear(z).unflatten(1, (1, 4, 4))
        return 2 * image if z.shape[0] == 1 else image


@pytest.fixture
def branching(of_decoder: Callable[[nn.Module], Trained]) -> Trained:
    """A model whose decoder treats a batch of one differently."""
    return of_decoder(BranchesOnBatch())
