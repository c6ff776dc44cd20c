"""Base class of priors that are zuko flows."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vaekit.distributions import StandardNormal
from vaekit.extras import import_extra
from vaekit.interfaces import Capability, Prior


class Form(NamedTuple):
    """The structure of a flow, without its weights.

    Args:
        flow: The class name in ``zuko.flows``: the prior's name in capitals.
        latent_dim: The number of latents.
        options: The options of the class.
    """

    flow: str
    latent_dim: int
    options: tuple[tuple[str, Any], ...]


class FlowPrior(Prior):
    """A zuko flow that maps latents to standard normal noise.

    Args:
        latent_dim: Number of latents.
        flow: The name of the flow's class.
        options: The options of the class.
    """

    provides: ClassVar[frozenset[Capability]] = frozenset({Capability.LOG_PROB})

    def __init__(self, latent_dim: int, flow: str, **options: Any) -> None:
        super().__init__(latent_dim)
        self.form = Form(flow, latent_dim, tuple(options.items()))
        place = torch.get_default_device()
        with torch.device("cpu"):  # its masks are computed from values
            built = network(self.form)
        self.flow = built.to(place)
        _directions_of(self.form)  # build it now, since this fails while torch traces a model

    def forward(self, model: Any = None, c: Tensor | None = None) -> FlowDensity:
        del model, c
        return FlowDensity(self.form, tuple(tensors_of(self.flow).values()))


def network(form: Form) -> nn.Module:
    """Build a flow that maps latents to standard normal noise."""
    flows = import_extra("zuko.flows", "flows", f"the prior {form.flow.lower()!r}")
    flow: nn.Module = getattr(flows, form.flow)(form.latent_dim, **dict(form.options))
    return flow


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a module by name."""
    return dict([*module.named_parameters(), *module.named_buffers()])


class _Directions(nn.Module):
    """Both directions of a flow."""

    def __init__(self, flow: Any) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, value: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        transform = self.flow.transform()
        noise, log_det = (transform.inv if inverse else transform).call_and_ladj(value)
        return noise, log_det


@cache
def _directions_of(form: Form) -> tuple[nn.Module, tuple[str, ...]]:
    """Return both directions of a flow, without weights, and the names of its tensors."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        directions = _Directions(network(form)).to("meta")
    return directions, tuple(tensors_of(directions))


def _apply(form: Form, inverse: bool, value: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    """Map values to noise, or noise to values if ``inverse``; also return the log determinant."""
    directions, names = _directions_of(form)
    given = dict(zip(names, tensors, strict=True))
    result: tuple[Tensor, Tensor] = functional_call(directions, given, (value,), {"inverse": inverse})
    return result


apply_flow = torch.compiler.allow_in_graph(_apply)
"""`_apply` as a single operation for torch.compile, which cannot trace zuko's lazy transforms."""


class FlowDensity(NamedTuple):
    """The density of ``f(noise)``, where f is invertible and the noise standard normal.

    Args:
        form: The structure of f.
        tensors: The parameters and buffers of f.
    """

    form: Form
    tensors: tuple[Tensor, ...]

    @property
    def mean(self) -> Tensor:
        """The image of zero noise, ``(D,)``; the mean has no closed form."""
        return self.rsample(self.tensors[0].new_zeros(self.form.latent_dim))

    def rsample(self, noise: Tensor) -> Tensor:
        """Map noise ``(*S, B, D)`` to latent vectors of the same shape."""
        z: Tensor = apply_flow(self.form, True, noise, *self.tensors)[0]
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log densities of ``(*S, B, D)``, ``(*S, B)``."""
        noise, log_det = apply_flow(self.form, False, value, *self.tensors)
        density: Tensor = StandardNormal(noise).log_prob(noise) + log_det
        return density
