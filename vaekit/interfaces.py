"""What a component is: the abstract base of each role.

Positional parameters of ``__init__`` are *wiring*, handed over at assembly and matched by name; keyword-only parameters are
the component's *options*, from which its spec and its command-line flags are derived.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vaekit.data.specs import Binarize
from vaekit.distributions import Density, Distribution
from vaekit.trace import Trace

if TYPE_CHECKING:
    from vaekit.data.sources import Splits

Shape = tuple[int, ...]


class Capability(StrEnum):
    """What a posterior or prior can do, and a loss may require."""

    LOG_PROB = "log_prob"
    """It has a density: ``log_prob`` is exact."""
    FACTORISED = "factorised"
    """Its dimensions are independent: ``log_prob_per_dim`` exists."""


class Component:
    """What all roles share."""

    kind: ClassVar[str]
    """The name it is registered under; the registry sets it."""


class Backbone(Component, nn.Module, ABC):
    """A network that maps tensors to tensors, ``(B, *in_shape) -> (B, *out_shape)``; it knows nothing of densities.

    Subclasses are encoders (image to posterior parameters) and decoders (latent vector to likelihood parameters).
    """

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, *in_shape)`` to ``(B, *out_shape)``."""


class Posterior(Component, nn.Module, ABC):
    """Turns the encoder's output into the density q(z|x)."""

    provides: ClassVar[frozenset[Capability]] = frozenset()

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    @property
    @abstractmethod
    def param_shape(self) -> Shape:
        """The shape that the encoder must emit for one example."""

    @abstractmethod
    def forward(self, params: Tensor) -> Distribution:
        """Map encoder outputs ``(B, *param_shape)`` to q(z|x); a `Density` where ``provides`` says so."""

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor) -> Tensor:
        """Draw the base noise that ``rsample`` maps to ``num`` latent vectors, ``(num, D)``, on the device of ``like``."""
        return torch.randn(num, self.latent_dim, generator=generator, device=like.device, dtype=like.dtype)


class Prior(Component, nn.Module, ABC):
    """The density p(z)."""

    provides: ClassVar[frozenset[Capability]] = frozenset()

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    @abstractmethod
    def forward(self) -> Distribution:
        """Return p(z); a `Density` where ``provides`` says so."""


class Likelihood(Component, nn.Module, ABC):
    """Turns the decoder's output into the density p(x|z)."""

    support: Literal["unit", "real"] = "real"
    """Pixels that it scores: ``unit`` refuses data outside [0, 1]."""
    continuous: ClassVar[bool] = True
    """Whether it is a density over real pixels (then integer data has bits per dimension), or a mass on binary ones."""
    normalised: ClassVar[bool] = True
    """Whether ``log_prob`` includes its constants; otherwise an ELBO is known up to a constant only."""

    def __init__(self, image_shape: Shape) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)

    @property
    def param_shape(self) -> Shape:
        """The shape that the decoder must emit for one example; by default that of an image."""
        return self.image_shape

    @abstractmethod
    def forward(self, params: Tensor) -> Density:
        """Map decoder outputs ``(*S, B, *param_shape)`` to p(x|z); its mean is the decoded image."""


Slot = Literal["reconstruction", "divergence"]


@dataclass(frozen=True)
class Declaration:
    """What a loss declares before it is built.

    Args:
        covers: Slots of the objective that it fills, so that the default term (−log p(x|z), KL) is not added.
        requires: What the posterior and the prior must provide.
    """

    covers: frozenset[Slot] = frozenset()
    requires: frozenset[Capability] = frozenset()


class Loss(Component, nn.Module, ABC):
    """A term of an objective: a function of a trace, in nats, one number per example."""

    covers: ClassVar[frozenset[Slot]] = frozenset()
    """Slots of the objective that it fills, so that the default term (−log p(x|z), KL) is not added."""
    requires: ClassVar[frozenset[Capability]] = frozenset()
    """What the posterior and the prior must provide."""
    batch_statistic: bool = False
    """Whether an example's value depends on the rest of the batch. Where processes share a batch, such a loss sees all of the
    batch's latents and labels, but no images."""

    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def declare(cls, options: Mapping[str, Any]) -> Declaration:
        """Return what the loss covers and requires with these options; override it where that depends on them."""
        del options
        return Declaration(cls.covers, cls.requires)

    @abstractmethod
    def forward(self, trace: Trace) -> Tensor:
        """Return the loss in nats, ``(B,)``, or a 0-d tensor for a statistic of the batch.

        Further numbers worth logging go into ``trace.metrics``.
        """


class Dataset(Component, ABC):
    """A named set of images."""

    default_likelihood: ClassVar[str] = "bce"
    """Likelihood used when none is asked for."""
    default_binarize: ClassVar[Binarize] = "none"
    """Binarisation used when none is asked for."""

    @abstractmethod
    def load(self) -> Splits:
        """Read the images: disjoint train, validation and test splits.

        Raises:
            DataError: The files are absent or unreadable; the message names the folder and how to fill it.
        """
