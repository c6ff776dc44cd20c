"""The base classes of components, one for each role.

The signature of ``__init__`` is the interface of a component. Positional parameters are its *wiring*: shapes and sizes supplied
by assembly, matched by name. Keyword-only parameters are its *options*, from which its spec and its command-line flags are
derived.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from vaekit.data.specs import Binarize
from vaekit.distributions import Density, Distribution
from vaekit.errors import UsageError
from vaekit.schema import ModelPart
from vaekit.trace import Trace

if TYPE_CHECKING:
    from vaekit.data.images import ImageReader
    from vaekit.data.sources import ImageSource, Splits

Shape = tuple[int, ...]


class Capability(StrEnum):
    """A property of a posterior or prior that a loss may require; plugins may declare others as plain strings."""

    LOG_PROB = "log_prob"
    """It has a density: ``log_prob`` is exact."""
    LOG_PROB_OF_DRAWS = "log_prob_of_draws"
    """Its density is known at its own samples: by ``rsample_and_log_prob``, or because it provides ``LOG_PROB``."""
    CODES = "codes"
    """Its latents are entries of a learned codebook; see `vaekit.distributions.Quantised`."""
    READABLE = "readable_codes"
    """Codes can be read exactly from its latents; see `vaekit.distributions.Vocabulary`."""
    FACTORISED = "factorised"
    """Its dimensions are independent: ``log_prob_per_dim`` is available."""
    VELOCITY = "velocity"
    """Its samples are the ends of paths along a velocity field; see `vaekit.distributions.VelocityFlow`."""


def knows_density_of_draws(posterior: Any) -> bool:
    """Whether the density of a posterior is known at its own samples, by either capability, for modules of any class."""
    return not {Capability.LOG_PROB, Capability.LOG_PROB_OF_DRAWS}.isdisjoint(posterior.provides)


def without_density(posterior: Any, prior: Any) -> str | None:
    """Return why there is neither a KL nor an ELBO: which of the two has no density; None if both have one."""
    if not knows_density_of_draws(posterior):
        return f"the posterior {posterior.kind!r} has no density"
    return None if Capability.LOG_PROB in prior.provides else f"the prior {prior.kind!r} has no density"


class Component:
    """The base class of all components."""

    kind: ClassVar[str]
    """The name under which the component is registered; set by the registry."""


class Module(Component, nn.Module, ABC):
    """The base class of components that are modules; they may have state that is learned without gradients."""

    learned: ClassVar[tuple[str, ...]] = ()
    """The names of the buffers that `next_state` replaces after each training step; they must be persistent."""
    examples: ClassVar[tuple[str, ...]] = ()
    """The names of `learned` buffers that hold training examples: they are excluded from the moving average of the weights
    (``--ema``), and `next_state` receives the images of the whole batch even if several processes share it."""
    num_initial: ClassVar[int] = 1024
    """The number of training images that `initial_state` requests; it receives fewer if there are fewer or if they are large."""

    def next_state(self, trace: Trace) -> Mapping[str, Tensor]:
        """Return the values of the `learned` buffers after a training step.

        This method is pure: it modifies nothing in place and draws no random numbers.

        Args:
            trace: The trace of the batch. If several processes share the batch, the trace of the whole batch, with latents,
                labels, ``log_likelihood`` and the likelihood's statistics, but without images unless the module has `examples`.
        """
        del trace
        return {}

    def initial_state(self, trace: Trace) -> Mapping[str, Tensor]:
        """Return initial values of the module's own parameters and buffers; default: those set by ``__init__``.

        Args:
            trace: The trace of up to `num_initial` training images, spread over the training set; more if another component
                requests more.
        """
        del trace
        return {}


class Backbone(Module):
    """A network from tensors to tensors, ``(B, *in_shape) -> (B, *out_shape)``, independent of densities.

    Subclasses are encoders (from examples to posterior parameters) and decoders (from latent vectors to likelihood parameters).

    Args:
        in_shape: The shape of one input, without the batch dimension.
        out_shape: The shape of one output, without the batch dimension.

    Example:
        >>> from math import prod
        >>> class Linear(Backbone):
        ...     def __init__(self, in_shape, out_shape):
        ...         super().__init__(in_shape, out_shape)
        ...         self.linear = nn.Linear(prod(in_shape), prod(out_shape))
        ...
        ...     def forward(self, x):
        ...         return self.linear(x.flatten(1)).unflatten(1, self.out_shape)
        >>> Linear((1, 28, 28), (2, 16))(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 2, 16])
    """

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, *in_shape)`` to ``(B, *out_shape)``."""


class Posterior(Module):
    """Maps the encoder's output to the approximate posterior q(z|x).

    Args:
        latent_dim: The number of latent dimensions D.

    Example:
        >>> from vaekit.distributions import DiagonalGaussian
        >>> class UnitVariance(Posterior):
        ...     provides = frozenset({Capability.LOG_PROB, Capability.FACTORISED})
        ...     param_shape = property(lambda self: (self.latent_dim,))
        ...
        ...     def forward(self, params, model=None):
        ...         return DiagonalGaussian(params, torch.zeros_like(params))
        >>> UnitVariance(16)(torch.zeros(5, 16)).log_prob(torch.zeros(5, 16)).shape
        torch.Size([5])
    """

    provides: ClassVar[frozenset[str]] = frozenset()
    """The capabilities of its distributions; losses are checked against them before data are read."""
    space: ClassVar[str] = "real"
    """The space of the codes: ``real`` vectors or, for example, a ``sphere``; the prior must have the same."""
    default_prior: ClassVar[str] = "normal"
    """The prior to use if none is chosen."""
    default_loss: ClassVar[str | None] = "kl"
    """The loss to add if no loss covers the divergence; None for posteriors without one."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if Capability.LOG_PROB in cls.provides:  # LOG_PROB implies the weaker capability
            cls.provides = cls.provides | {Capability.LOG_PROB_OF_DRAWS}

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    @property
    @abstractmethod
    def param_shape(self) -> Shape:
        """The shape of the encoder's output for one example."""

    @property
    def code_sizes(self) -> Shape:
        """The number of values of each code of a position, for discrete codes; otherwise empty."""
        return ()

    @abstractmethod
    def forward(self, params: Tensor, model: Any = None) -> Distribution:
        """Map encoder outputs ``(B, *param_shape)`` to q(z|x).

        It is a `Density` if ``provides`` includes ``LOG_PROB``, a `DensityOfDraws` if it only includes ``LOG_PROB_OF_DRAWS``.

        Args:
            params: The encoder's output.
            model: The model, for posteriors that depend on its prior or on other parts of it.
        """

    def decoder_input(self, z: Tensor) -> Tensor:
        """Map latents ``(..., D)`` to the decoder's input; default: unchanged.

        A space of small vectors scales them to a mean square of 1 per element, as networks expect.
        """
        return z

    def nearest(self, z: Tensor) -> Tensor:
        """Return the valid latents nearest to vectors ``(..., D)``, for pictures to decode; default: the vectors."""
        return z

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor) -> Tensor:
        """Draw the base noise that ``rsample`` maps to ``num`` latent vectors: standard normal, ``(num, D)``.

        Args:
            num: The number of latent vectors.
            generator: The source of randomness; default: torch's global generator.
            like: A tensor whose device and dtype the noise takes.
        """
        return torch.randn(num, self.latent_dim, generator=generator, device=like.device, dtype=like.dtype)


class Prior(Module):
    """The prior p(z).

    Args:
        latent_dim: The number of latent dimensions D.

    Example:
        >>> from vaekit.distributions import DiagonalGaussian
        >>> class LearnedMean(Prior):
        ...     provides = frozenset({Capability.LOG_PROB, Capability.FACTORISED})
        ...
        ...     def __init__(self, latent_dim):
        ...         super().__init__(latent_dim)
        ...         self.mu = nn.Parameter(torch.zeros(latent_dim))
        ...
        ...     def forward(self, model=None, c=None):
        ...         return DiagonalGaussian(self.mu, torch.zeros_like(self.mu))
        >>> LearnedMean(16)().log_prob(torch.zeros(5, 16)).shape
        torch.Size([5])
    """

    provides: ClassVar[frozenset[str]] = frozenset()
    """The capabilities of its distribution; losses are checked against them before data are read."""
    space: ClassVar[str] = "real"
    """The space of the codes; the posterior must have the same."""
    requires: ClassVar[frozenset[str]] = frozenset()
    """The capabilities that the posterior must provide."""
    fitted_by: ClassVar[str] = "prior_nll"
    """The loss that fits it to the codes of a trained model; see `vaekit.fit_prior`."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    @abstractmethod
    def forward(self, model: Any = None, c: Tensor | None = None) -> Distribution:
        """Return p(z) or p(z|c), a `Density` if ``provides`` includes ``LOG_PROB``.

        Args:
            model: The model, for priors that depend on other parts of it, such as the encoder.
            c: The output of the condition, ``(B, E)``; None for unconditional models.
        """

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, temperature: float = 1.0) -> Tensor:
        """Draw the base noise that ``rsample`` maps to ``num`` latent vectors: standard normal, ``(num, D)``.

        Args:
            num: The number of latent vectors.
            generator: The source of randomness; default: torch's global generator.
            like: A tensor whose device and dtype the noise takes.
            temperature: A factor for the noise; values below 1 give more typical, less varied latent vectors.
        """
        return temperature * torch.randn(num, self.latent_dim, generator=generator, device=like.device, dtype=like.dtype)


class Condition(Module):
    """Maps labels to vectors c, an additional input of the encoder, the decoder and, if it uses them, the prior.

    The model is then p(x, z|c). Networks need no changes: c is appended to latent vectors and, as additional channels, to data.

    Args:
        num_classes: The number of classes K.

    Example:
        >>> class Parity(Condition):
        ...     size = 1
        ...
        ...     def forward(self, y):
        ...         return (y % 2).float().unsqueeze(-1)
        >>> Parity(10)(torch.tensor([3, 4]))
        tensor([[1.],
                [0.]])
    """

    def __init__(self, num_classes: int = 0) -> None:
        super().__init__()
        self.num_classes = num_classes

    @property
    @abstractmethod
    def size(self) -> int:
        """The size E of c; 0 for unconditional models."""

    @abstractmethod
    def forward(self, y: Tensor) -> Tensor:
        """Map labels ``(B,)``, integers from 0 to K - 1, to ``(B, E)``."""


Scores = Literal["density", "levels", "binary", "counts"]


class Likelihood(Module):
    """Maps the decoder's output to the likelihood p(x|z).

    Args:
        data_shape: The shape of one example.

    Example:
        >>> from vaekit.distributions import GaussianPixels, at_least_float32
        >>> class UnitVariance(Likelihood):
        ...     def forward(self, params):
        ...         mean = at_least_float32(params)
        ...         return GaussianPixels(mean, torch.zeros_like(mean), len(self.data_shape))
        >>> UnitVariance((1, 28, 28))(torch.zeros(5, 1, 28, 28)).log_prob(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5])
    """

    support: Literal["unit", "real"] = "real"
    """The pixel values that it can score: all real numbers or only [0, 1] (``unit``); other data are rejected."""
    scores: ClassVar[Scores] = "density"
    """What ``log_prob`` is: a density of real-valued pixels, or the probability of 8-bit grey ``levels`` (k / 255), of
    ``binary`` pixels or of ``counts`` (non-negative integers). Other data are rejected, except for grey pixels in place of
    binary ones. Bits per dimension are reported for levels, and for 8-bit images under a
    `vaekit.distributions.QuantisedDensity`."""
    normalised: ClassVar[bool] = True
    """Whether ``log_prob`` includes its normalising constant; if not, the ELBO is only known up to a constant."""
    factorised: ClassVar[bool] = False
    """Whether p(x|z) is a `vaekit.distributions.FactorisedDensity`, which can ignore missing values."""

    def __init__(self, data_shape: Shape) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)

    @property
    def param_shape(self) -> Shape:
        """The shape of the decoder's output for one example; default: that of the example."""
        return self.data_shape

    @abstractmethod
    def forward(self, params: Tensor) -> Density:
        """Map decoder outputs ``(*S, B, *param_shape)`` to p(x|z), whose mean is the decoded example."""

    def encoder_input(self, x: Tensor) -> Tensor:
        """Map examples to the encoder's input, of the same shape; default: unchanged. NaN (a missing value) stays NaN."""
        return x

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor) -> Tensor:
        """Draw the base noise that ``rsample`` maps to ``num`` examples; default: one number per element.

        It is standard normal for densities and uniform on [0, 1) for probabilities.

        Args:
            num: The number of examples.
            generator: The source of randomness; default: torch's global generator.
            like: A tensor whose device and dtype the noise takes.
        """
        draw = torch.randn if self.scores == "density" else torch.rand
        return draw(num, *self.data_shape, generator=generator, device=like.device, dtype=like.dtype)

    def statistics(self, p: Density, x: Tensor) -> Tensor | None:
        """Return statistics per example, ``(B, ...)``, for `next_state`; None (the default) if it needs none.

        They are available as ``trace.statistics``, even for a batch that several processes share, whose trace has no images.

        Args:
            p: p(x|z), as `forward` returned it.
            x: The examples, ``(B, *data_shape)``; NaN is a missing value.
        """
        del p, x
        return None


Slot = Literal["reconstruction", "divergence"]


@dataclass(frozen=True)
class Declaration:
    """The declaration of a loss before it is built.

    Args:
        covers: The slots of the objective that the loss fills, which replaces their default terms (−log p(x|z), KL).
        requires: The capabilities that the posterior must provide.
        requires_of_prior: The capabilities that the prior must provide.
        spaces: The spaces of codes on which the loss is defined; None for any.
    """

    covers: frozenset[Slot] = frozenset()
    requires: frozenset[str] = frozenset()
    requires_of_prior: frozenset[str] = frozenset()
    spaces: frozenset[str] | None = None


def required_of_prior(requires: frozenset[str]) -> frozenset[str]:
    """Return what a prior must provide if the posterior must provide ``requires``: the same, but at any value.

    Samples come from the posterior, so a density that is only known at its own samples does not suffice for a prior.
    """
    draws = {Capability.LOG_PROB_OF_DRAWS}
    return requires - draws | {Capability.LOG_PROB} if requires & draws else requires


MODEL_PARTS: tuple[ModelPart, ...] = get_args(ModelPart)
INFERENCE, GENERATION = ("encoder", "posterior"), ("decoder", "prior", "likelihood", "condition")
"""The parts of q(z|x) and of p(x, z); a condition, used by both, belongs to the latter."""


@dataclass(frozen=True)
class Optim:
    """Settings of an optimiser (AdamW) that override those of the run; None keeps the run's setting.

    Args:
        lr: The peak learning rate.
        betas: The decay rates of the two moments.
        eps: The term added to the denominator of a step.
        weight_decay: The decoupled weight decay of matrices and kernels.
    """

    lr: float | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    weight_decay: float | None = None


@dataclass(frozen=True)
class Aim:
    """An objective of a loss, and the parameters with respect to which it is minimised.

    Args:
        method: The method of the loss that computes the value from a trace.
        moves: The parts of the model trained by it; the others are fixed while it is evaluated.
        own: The loss's own networks (attribute names) that are trained by this aim, and only by aims that name them.
        optim: The optimiser settings of these parameters.
        judged: Whether it is part of the reported objective, which selects the best epoch.
    """

    method: str = "forward"
    moves: tuple[str, ...] = MODEL_PARTS
    own: tuple[str, ...] = ()
    optim: Optim = Optim()
    judged: bool = True


class Loss(Module):
    """A term of the objective: a function of a trace that returns a value per example, in nats.

    A loss that plays against the model or trains only some of its parts declares this in `aims`.

    Example:
        >>> from vaekit.distributions import BernoulliPixels, DiagonalGaussian, StandardNormal
        >>> from vaekit.trace import Site
        >>> class MeanPenalty(Loss):
        ...     def forward(self, trace):
        ...         return trace.site.q.mean.square().sum(-1)
        >>> x, q = torch.zeros(5, 1, 28, 28), DiagonalGaussian(torch.ones(5, 16), torch.zeros(5, 16))
        >>> MeanPenalty()(Trace(x, (Site(q.mean, q, StandardNormal(torch.zeros(16))),), BernoulliPixels(x)))
        tensor([16., 16., 16., 16., 16.])
    """

    covers: ClassVar[frozenset[Slot]] = frozenset()
    """The slots of the objective that the loss fills, which replaces their default terms (−log p(x|z), KL)."""
    requires: ClassVar[frozenset[str]] = frozenset()
    """The capabilities that the posterior must provide."""
    requires_of_prior: ClassVar[frozenset[str] | None] = None
    """The capabilities that the prior must provide; default: the same, see `required_of_prior`."""
    spaces: ClassVar[frozenset[str] | None] = None
    """The spaces of codes on which the loss is defined, such as ``real``; default: any."""
    samples: Shape | None = ()
    """The sample dimensions ``*S`` of the codes that the loss requests, such as ``(K,)``; None if it accepts any. By default, a
    loss receives one sample per image, without a sample dimension."""
    batch_statistic: bool = False
    """Whether the value of an example depends on the rest of the batch. If several processes share a batch, such a loss
    receives the latents and labels of the whole batch, but no images. It does not support gradient accumulation
    (``--accumulate``)."""

    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def declare(cls, options: Mapping[str, Any]) -> Declaration:
        """Return what the loss covers and requires; override this if it depends on the options."""
        del options
        of_prior = required_of_prior(cls.requires) if cls.requires_of_prior is None else cls.requires_of_prior
        return Declaration(cls.covers, cls.requires, of_prior, cls.spaces)

    @classmethod
    def pinned(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return options to fix when training starts, so that the spec determines the run; default: none.

        A loss that reads a file returns its digest here, as an option that is checked when the loss is built.
        """
        del options
        return {}

    def aims(self) -> Mapping[str, Aim]:
        """Return what the loss minimises, by term name; by default, `forward` with respect to the whole model.

        Parameters moved by the same aims share an optimiser. A critic, for example, is trained by an aim that names it in
        ``own`` and moves no part of the model. The loss's own networks that no aim names are trained with the model.
        """
        return {}

    def draw_noise(self, num: int, generator: torch.Generator | None = None, *, like: Tensor, model: Any) -> Tensor | None:
        """Draw the loss's own base noise for ``num`` examples, ``(num, ...)``, available as ``trace.draws[kind]``.

        A loss that needs random numbers must draw them here, so that a step depends only on its seed and number.

        Args:
            num: The number of examples.
            generator: The source of randomness; default: torch's global generator.
            like: A tensor whose device and dtype the noise takes.
            model: The model, for noise that depends on it.

        Returns:
            The noise, one row per example; None (the default) if the loss needs none with this model.
        """
        del num, generator, like, model
        return None

    def noise_of(self, trace: Trace) -> Tensor:
        """Return the noise that `draw_noise` drew for a trace, ``(B, ...)``.

        Raises:
            UsageError: The trace has none.
        """
        if self.kind not in trace.draws:
            priors = ", ".join(type(site.p).__name__ for site in trace.sites)
            raise UsageError(
                f"the loss {self.kind!r} needs its own noise, but the trace has none",
                given=f"draws of {', '.join(trace.draws) or 'no loss'}; the prior {priors}",
                expected=f"noise under {self.kind!r} in trace.draws",
                remedy=f'call the model with draws={{"{self.kind}": loss.draw_noise(len(x), like=x, model=model)}}',
            )
        return trace.draws[self.kind]

    @abstractmethod
    def forward(self, trace: Trace) -> Tensor:
        """Return the loss in nats: ``(B,)``, or a 0-d tensor for a statistic of the batch.

        Store additional metrics to log in ``trace.metrics``.
        """


class Dataset(Component, ABC):
    """A source of examples, split into train, validation and test sets.

    Example:
        >>> from vaekit.data import TensorImages, split_source
        >>> class Noise(Dataset):
        ...     def load(self):
        ...         images = torch.randint(256, (1000, 1, 28, 28), dtype=torch.uint8)
        ...         return split_source(TensorImages(images), validation=0.1, test=0.1)
        >>> len(Noise().load().train)
        800
    """

    default_encoder: ClassVar[str] = "mlp"
    """The encoder to use if none is chosen; the decoder defaults to the same name."""
    default_latent_dim: ClassVar[int | None] = None
    """The number of latents to use if none is chosen; None for vaekit's default."""
    default_likelihood: ClassVar[str | Mapping[str, Any]] = "bce"
    """The likelihood to use if none is chosen: its name, or a mapping with ``kind`` and options."""
    default_binarize: ClassVar[Binarize] = "none"
    """The binarisation to use if none is chosen."""
    reader: ImageReader | None = None
    """The reader of its image files, if any; the user's own files are read with the same range of pixel values."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """The suffixes of the files that its option ``path`` may name, in lower case; an empty one stands for folders."""

    @abstractmethod
    def load(self) -> Splits:
        """Read the examples and return disjoint train, validation and test splits.

        Raises:
            DataError: Files are missing or unreadable; the message names the folder and explains how to get the files.
        """

    def stored(self) -> Mapping[str, ImageSource]:
        """Return the examples in the order in which they are stored, by split; all are ``train`` if they are not split.

        Default: the splits of `load`.

        Raises:
            DataError: The files are missing or unreadable.
        """
        return self.load().parts
