"""Small models of every component, for tests that iterate over the registries."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vaekit import roles
from vaekit.interfaces import Capability, required_of_prior
from vaekit.nn.features import ARCHITECTURES, NetworkName
from vaekit.registry import Registry

PARTS: tuple[Registry[Any], ...] = (
    roles.encoders,
    roles.decoders,
    roles.posteriors,
    roles.priors,
    roles.likelihoods,
    roles.conditions,
    roles.losses,
)
"""The registries of the parts of a model and its objective."""


def fitting_posterior(role: str, kind: str) -> str:
    """Return a posterior compatible with a prior or loss: the default one if possible."""
    same = [kind] if role == "prior" and kind in roles.posteriors else []
    for posterior in ("gaussian", *same, *roles.posteriors.kinds()):
        cls = roles.posteriors.get(posterior)
        if role == "prior" and roles.priors.get(kind).space == cls.space:
            return posterior
        if role == "loss" and roles.losses.get(kind).requires <= cls.provides:
            return posterior
    return "gaussian"


def fitting_prior(role: str, kind: str) -> dict[str, str]:
    """Return the choice of a learnable prior for a loss that trains nothing else; none for other components."""
    if role != "loss":
        return {}
    cls = roles.losses.get(kind)
    spec = roles.losses.spec(kind)(**small(roles.losses, kind))
    aims = roles.losses.build(spec, latent_dim=2, data_shape=(1, 8, 6), num_classes=3).aims()
    alone = bool(aims) and all(aim.moves == ("prior",) and not aim.own for aim in aims.values())
    required = required_of_prior(cls.requires) if cls.requires_of_prior is None else cls.requires_of_prior
    fitting = (prior for prior in ("mixture", *roles.priors.kinds()) if required <= roles.priors.get(prior).provides)
    return {"prior": next(fitting)} if alone else {}


def fitting_loss(role: str, kind: str) -> dict[str, str]:
    """Return the choice of the loss that fits a prior without a density; none for other components."""
    without = role == "prior" and Capability.LOG_PROB not in roles.priors.get(kind).provides
    return {"loss": roles.priors.get(kind).fitted_by} if without else {}


@cache
def random_weights(network: NetworkName = "efficientnet_lite0", seed: int = 0) -> str:
    """Return a file of random weights of a feature network without its classifier, written once per process."""
    folder = tempfile.mkdtemp(prefix="vaekit-weights-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.device("meta"):
        state = ARCHITECTURES[network].build().state_dict()
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in state.items():
        if not name.startswith(ARCHITECTURES[network].classifier) and tensor.is_floating_point():
            scale = (2 / tensor[0].numel()) ** 0.5 if tensor.ndim == 4 else 0.1
            noise = scale * torch.randn(tensor.shape, generator=generator)
            weights[name] = noise if tensor.ndim == 4 or name.endswith(("bias", "mean")) else 1 + noise.abs()
    file = Path(folder) / f"{network}.safetensors"
    save_file(weights, file)
    return str(file)


OPTIONS: dict[str, Any | Callable[[], Any]] = {
    "hidden": (8,),
    "channels": (4, 8),
    "mode": "offline",
    "num_codes": 8,
    "num_exemplars": 8,
    "transforms": 2,
    "num_bounds": 2,
    "num_samples": 3,
    "num_stages": 2,
    "width": 8,
    "bins": 16,
    "steps": 3,
    "weights": random_weights,
}
"""Values of options, or functions that return them."""


def small(registry: Registry[Any], kind: str) -> dict[str, Any]:
    """Return options that make a component small and offline, if it has them."""
    found = {name: value for name, value in OPTIONS.items() if name in registry.spec(kind).model_fields}
    if kind == "ldm":
        found["channels"] = (4, 8, 8)  # it halves between stages: twice, as for a latent stride of 4
    return {name: value() if callable(value) else value for name, value in found.items()}


def small_parts(chosen: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of a run that choose components by role and make them small."""
    registries = {registry.role: registry for registry in roles.REGISTRIES}
    parts = {f"{role}.{name}": value for role, kind in chosen.items() for name, value in small(registries[role], kind).items()}
    return {**chosen, **parts}
