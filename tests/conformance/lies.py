"""Components that are wrong in silence, the check that catches each, and the sound ones that they are made of."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vaekit.components.conditions.label import Label
from vaekit.components.likelihoods.bce import BCE
from vaekit.components.likelihoods.gaussian import Gaussian as GaussianLikelihood
from vaekit.components.likelihoods.mse import MSE
from vaekit.components.likelihoods.negative_binomial import NegativeBinomial
from vaekit.components.likelihoods.poisson import Poisson
from vaekit.components.losses.kl import KL
from vaekit.components.posteriors.gaussian import Gaussian
from vaekit.components.priors.normal import Normal
from vaekit.data import Splits, TensorImages
from vaekit.distributions import DiagonalGaussian, StandardNormal, at_least_float32, kl_per_dim, register_kl, sum_event
from vaekit.distributions.counts import NegativeBinomialCounts, PoissonCounts, poisson_quantile
from vaekit.distributions.pixels import BernoulliPixels, GaussianPixels, SquaredErrorPixels
from vaekit.drawing.animation import Animation
from vaekit.drawing.grid import grid
from vaekit.drawing.picture import Picture
from vaekit.export.exporter import Exported, Exporter
from vaekit.export.parity import Parity, compare, torch_function
from vaekit.export.parts import part_of
from vaekit.export.staging import staged
from vaekit.interfaces import Aim, Backbone, Capability, Dataset, Loss, Posterior
from vaekit.training.logger import Logger

Shape = tuple[int, ...]
LOG_PROB, OF_DRAWS, FACTORISED = Capability.LOG_PROB, Capability.LOG_PROB_OF_DRAWS, Capability.FACTORISED


def posterior_of(density: type) -> type[Gaussian]:
    """Return a Gaussian posterior whose density is of another class."""

    class Lie(Gaussian):
        def forward(self, params: Tensor, model: Any = None) -> Any:
            return density(*super().forward(params))

    Lie.__name__ = density.__name__
    return Lie


def likelihood_of(base: type, density: type) -> type:
    """Return a likelihood whose density is of another class."""

    class Lie(base):  # type: ignore[misc]
        def forward(self, params: Tensor, model: Any = None) -> Any:
            return density(*super().forward(params))

    Lie.__name__ = density.__name__
    return Lie


# Encoders and decoders


class Sound(Backbone):
    """One linear layer, correct.

    Args:
        scale: Of the output.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, *, scale: float = 1.0) -> None:
        super().__init__(in_shape, out_shape)
        self.scale = scale
        self.linear = nn.Linear(torch.Size(in_shape).numel(), torch.Size(out_shape).numel())

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.linear(x.flatten(1)).unflatten(1, self.out_shape)


class Stranger(nn.Identity):
    """Not a backbone."""

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__()


class Undocumented(Sound):
    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__(in_shape, out_shape)


class Undescribed(Sound):
    """Does not describe its option."""

    def __init__(self, in_shape: Shape, out_shape: Shape, *, width: int = 1) -> None:
        super().__init__(in_shape, out_shape)


class Flat(Sound):
    """Leaves the output flat."""

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


class SquareOnly(Sound):
    """Fails on non-square images, too late."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + x.transpose(-1, -2) if x.shape[-1] > 1 else x)


class ImagesOnly(Sound):
    """Accepts any shape, and fails on all but images, too late."""

    def forward(self, x: Tensor) -> Tensor:
        num, _, _, _ = x.shape
        return super().forward(x).view(num, *self.out_shape)


class Idle(Sound):
    """Has a parameter that it does not use."""

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__(in_shape, out_shape)
        self.unused = nn.Parameter(torch.zeros(3))


class Centred(Sound):
    """Subtracts the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Noisy(Sound):
    """Adds noise in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1e-3 * torch.randn(())


class Counting(Sound):
    """Counts its calls in a buffer."""

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__(in_shape, out_shape)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Unsaved(Sound):
    """Omits a required value from its state."""

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__(in_shape, out_shape)
        self.register_buffer("shift", torch.randn(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift


class Single(Sound):
    """Computes in float32 for any input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


class Double(Sound):
    """Returns float64 for any input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).double()


class Stay(Sound):
    """Creates a CPU tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.ones(self.out_shape)


class Branching(Sound):
    """Branches on a value in Python."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if y.sum().item() > 0 else 2 * y


# Posteriors


class TwiceAsWide(DiagonalGaussian):
    """Samples are twice as wide as the density."""

    def rsample(self, noise: Tensor) -> Tensor:
        return super().rsample(2 * noise)


class OneNoise(DiagonalGaussian):
    """Samples with dependent dimensions under a factorised density."""

    def rsample(self, noise: Tensor) -> Tensor:
        return super().rsample(noise[..., :1].expand(noise.shape))


class Centre(DiagonalGaussian):
    """Claims a mean of 0."""

    @property
    def mean(self) -> Tensor:
        return torch.zeros_like(self.mu)


class TooHigh(DiagonalGaussian):
    """A density that is too high by a factor of 2."""

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        return super().log_prob_per_dim(value) + math.log(2)


class Underflowing(DiagonalGaussian):
    """The logarithm of a density that is 0 far away."""

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        return super().log_prob_per_dim(value).exp().log()


class Detached(DiagonalGaussian):
    """Samples from which no gradient reaches the variance, while log_prob has one."""

    def rsample(self, noise: Tensor) -> Tensor:
        return DiagonalGaussian(self.mu, self.logvar.detach()).rsample(noise)


class OwnBatch(DiagonalGaussian):
    """Scores that are centred over the batch, whose samples are not."""

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        scores = super().log_prob_per_dim(value)
        return scores - scores.mean(-2, keepdim=True) if scores.ndim > 1 else scores


class Remembering:
    """Returns the log density of its last sample for any value."""

    def __init__(self, mu: Tensor, logvar: Tensor) -> None:
        self.density, self.last = DiagonalGaussian(mu, logvar), None

    @property
    def mean(self) -> Tensor:
        return self.density.mu

    def rsample(self, noise: Tensor) -> Tensor:
        z = self.density.rsample(noise)
        self.last = self.density.log_prob_per_dim(z)
        return z

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        if self.last is not None and self.last.shape == value.shape:
            return self.last
        return self.density.log_prob_per_dim(value)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_prob_per_dim(value).sum(-1)

    def detach(self) -> Remembering:
        return Remembering(self.density.mu.detach(), self.density.logvar.detach())


class Attached(Remembering):
    """Claims to be detached, but is not."""

    def detach(self) -> Remembering:
        return self


class Wrapped(NamedTuple):
    """A density within a density, in truth."""

    inner: DiagonalGaussian

    @property
    def mean(self) -> Tensor:
        return self.inner.mu

    def rsample(self, noise: Tensor) -> Tensor:
        return self.inner.rsample(noise)

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        return self.inner.log_prob_per_dim(value)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.inner.log_prob(value)


class Nested(Gaussian):
    """A density within a density, in truth."""

    def forward(self, params: Tensor, model: Any = None) -> Any:
        return Wrapped(super().forward(params))


class Cupboard:
    """Contains tensors that it cannot detach."""

    def __init__(self, inner: DiagonalGaussian) -> None:
        self.mu, self.logvar = inner

    def __getattr__(self, name: str) -> Any:
        if name == "detach":
            raise AttributeError(name)
        return getattr(DiagonalGaussian(self.mu, self.logvar), name)


class Clinging(Gaussian):
    """A density within a density that cannot be detached."""

    def forward(self, params: Tensor, model: Any = None) -> Any:
        return Wrapped(Cupboard(super().forward(params)))  # type: ignore[arg-type]


class Doubled(Gaussian):
    """Returns float64 for any encoder output."""

    def forward(self, params: Tensor, model: Any = None) -> DiagonalGaussian:
        return DiagonalGaussian(*(each.double() for each in super().forward(params)))


class Linear(NamedTuple):
    """A joint Gaussian ``z = mu + A e``, correct."""

    mu: Tensor
    matrix: Tensor

    @property
    def mean(self) -> Tensor:
        return self.mu

    def rsample(self, noise: Tensor) -> Tensor:
        return self.mu + noise @ self.matrix.T

    def log_prob(self, value: Tensor) -> Tensor:
        noise = (value - self.mu) @ torch.linalg.inv(self.matrix).T
        return StandardNormal(torch.zeros_like(noise)).log_prob(noise) - self.matrix.logdet()


class Unnormalised(Linear):
    """Forgets the log-determinant."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + self.matrix.logdet()


class Lowered(Linear):
    """Understates the density by a factor that makes divergences negative."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) - 100


class Isotropic(Linear):
    """Samples with a correlation that the density lacks."""

    def log_prob(self, value: Tensor) -> Tensor:
        return Linear(self.mu, 1.5 * torch.eye(self.mu.shape[-1], dtype=self.mu.dtype)).log_prob(value)


def joint_of(density: type, capability: Capability = LOG_PROB) -> type[Posterior]:
    """Return a correlated posterior, declared as not factorised."""

    class Lie(Posterior):
        provides: ClassVar[frozenset[Capability]] = frozenset({capability})

        @property
        def param_shape(self) -> Shape:
            return (self.latent_dim,)

        def forward(self, params: Tensor, model: Any = None) -> Any:
            params = at_least_float32(params)
            matrix = 1.5 * torch.eye(self.latent_dim, dtype=params.dtype, device=params.device)
            return density(params, matrix + 0.9 * torch.ones_like(matrix).tril(-1))

    Lie.__name__ = density.__name__
    return Lie


class OfDraws(NamedTuple):
    """A joint Gaussian ``z = mu + A e`` that only knows the density of its own samples, correct."""

    mu: Tensor
    matrix: Tensor

    @property
    def mean(self) -> Tensor:
        return self.mu

    def rsample(self, noise: Tensor) -> Tensor:
        return self.rsample_and_log_prob(noise)[0]

    def rsample_and_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        return self.mu + noise @ self.matrix.T, StandardNormal(noise).log_prob(noise) - self.matrix.logdet()


class Undetermined(OfDraws):
    """Forgets the log-determinant."""

    def rsample_and_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        return super().rsample_and_log_prob(noise)[0], StandardNormal(noise).log_prob(noise)


class Folded(OfDraws):
    """Maps different noise to the same sample, like an unconstrained planar flow; the log-determinant is correct."""

    def rsample_and_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        bent = (2 * noise).tanh()
        log_det = (1 - 4 * (1 - bent.square())).abs().log().sum(-1)
        return self.mu + noise - 2 * bent, StandardNormal(noise).log_prob(noise) - log_det


class Averted(OfDraws):
    """Returns log densities with samples other than those of ``rsample``."""

    def rsample(self, noise: Tensor) -> Tensor:
        return super().rsample(-noise)


class OtherScores(DiagonalGaussian):
    """Returns log densities with samples that differ from ``log_prob``."""

    def rsample_and_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        z = self.rsample(noise)
        return z, self.log_prob(z) + 1


class Upside(DiagonalGaussian):
    """A density whose registered KL has the wrong sign."""


class Halved(DiagonalGaussian):
    """A density whose registered KL is half the true value."""


class Reversed(DiagonalGaussian):
    """A density whose registered KL is reversed."""


@register_kl(Upside, StandardNormal)
def _upside(q: Any, p: Any) -> Tensor:
    return -true_kl(q, p)


@register_kl(Halved, StandardNormal)
def _halved(q: Any, p: Any) -> Tensor:
    return 0.5 * true_kl(q, p)


@register_kl(Reversed, StandardNormal)
def _reversed(q: Any, p: Any) -> Tensor:
    zero = torch.zeros_like(q.mu)
    return true_kl(DiagonalGaussian(zero, zero), q)


def true_kl(q: Any, p: Any) -> Tensor:
    other = p if isinstance(p, StandardNormal) else DiagonalGaussian(*p)
    kl = kl_per_dim(DiagonalGaussian(*q), other)
    assert kl is not None
    return kl


# Priors


class ElsewhereNormal(StandardNormal):
    """Draws N(5, 9) under a density N(0, 1)."""

    def rsample(self, noise: Tensor) -> Tensor:
        return 5 + 3 * noise


class Elsewhere(Normal):
    """Draws N(5, 9) under a density N(0, 1)."""

    def forward(self, model: Any = None, c: Any = None) -> Any:
        return ElsewhereNormal(self.zero)


class Hidden(Normal):
    """Hides its density."""

    provides: ClassVar[frozenset[Capability]] = frozenset()


class OneOfTwo(NamedTuple):
    """A mixture of two Gaussians that draws from the first alone."""

    zero: Tensor

    @property
    def mean(self) -> Tensor:
        return self.zero

    def rsample(self, noise: Tensor) -> Tensor:
        return noise - 2

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        modes = torch.stack([-0.5 * (value - centre).square() for centre in (-2, 2)])
        return modes.logsumexp(0) - math.log(2) - 0.5 * math.log(2 * math.pi)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_prob_per_dim(value).sum(-1)


class Mixture(Normal):
    """A mixture of two Gaussians that draws from the first alone."""

    def forward(self, model: Any = None, c: Any = None) -> Any:
        return OneOfTwo(self.zero)


class Precise(Normal):
    """Samples in float64 because of a buffer."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.zero = self.zero.double()


class Unsaving(Normal):
    """Learns a buffer that is not saved."""

    learned = ("zero",)

    def next_state(self, trace: Any) -> Any:
        return {"zero": self.zero}


class Meddling(Normal):
    """Counts in place."""

    learned = ("count",)

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("count", torch.zeros(()))

    def next_state(self, trace: Any) -> Any:
        return {"count": self.count.add_(1).clone()}


class Misnaming(Meddling):
    """Holds examples in an undeclared buffer."""

    examples = ("counts",)

    def next_state(self, trace: Any) -> Any:
        return {"count": self.count + 1}


class Claiming(Normal):
    """Sets a buffer that does not exist."""

    def initial_state(self, trace: Any) -> Any:
        return {"mean": trace.z.mean(0)}


# Conditions


class Relative(Label):
    """Encodes the difference from the first label of the batch."""

    def forward(self, y: Tensor) -> Tensor:
        return super().forward(y) - super().forward(y[:1])


class Wider(Label):
    """Returns one value more than declared."""

    def forward(self, y: Tensor) -> Tensor:
        return torch.cat([super().forward(y), y[:, None].float()], 1)


# Likelihoods


class Loud(GaussianPixels):
    """Draws ``mean + 100 noise``."""

    def rsample(self, noise: Tensor) -> Tensor:
        return self.mean + 100 * noise


class OnePixel(GaussianPixels):
    """Samples all pixels from the noise of the first."""

    def rsample(self, noise: Tensor) -> Tensor:
        return super().rsample(noise[..., :1, :1, :1].expand(noise.shape))


class Fair(BernoulliPixels):
    """Tosses a fair coin, regardless of the mean."""

    def rsample(self, noise: Tensor) -> Tensor:
        return (noise < 0.5).to(self.logits.dtype).expand(self.logits.shape)


class Grey(BernoulliPixels):
    """Samples are the mean."""

    def rsample(self, noise: Tensor) -> Tensor:
        return self.mean.expand(noise.shape)


class Stepping(GaussianLikelihood):
    """Counts its steps in place."""

    learned = ("steps",)

    def __init__(self, data_shape: Shape) -> None:
        super().__init__(data_shape)
        self.register_buffer("steps", torch.zeros(1))
        self.steps: Tensor

    def next_state(self, trace: Any) -> dict[str, Tensor]:
        self.steps += 1
        return {"steps": self.steps.clone()}


class Underdispersed(NegativeBinomialCounts):
    """Samples Poisson counts with the same mean."""

    def rsample(self, noise: Tensor) -> Tensor:
        return poisson_quantile(self.mean, noise.select(-self.event_ndim - 1, 1))


class Unordered(PoissonCounts):
    """Omits the factorials."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + sum_event(torch.lgamma(value + 1) - value.log1p(), self.event_ndim)


class UnitVariance(SquaredErrorPixels):
    """Samples from a Gaussian of variance 1, although the squared error implies a variance of 1/2."""

    def rsample(self, noise: Tensor) -> Tensor:
        return self.mean + noise


class Drifting(SquaredErrorPixels):
    """Omits a "constant" that depends on the decoder's output."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + self.mean.sum((-1, -2, -3))


class Forgetful(GaussianPixels):
    """Omits a constant."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + 1


class Recalling(GaussianPixels):
    """Scores its last sample instead of the given image."""

    drawn: ClassVar[dict[int, Tensor]] = {}

    def rsample(self, noise: Tensor) -> Tensor:
        self.drawn[id(self)] = super().rsample(noise)
        return self.drawn[id(self)]

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(self.drawn.get(id(self), value))


class Deaf(GaussianPixels):
    """Scores images correctly, with half the gradient."""

    def log_prob(self, value: Tensor) -> Tensor:
        half = GaussianPixels(self.mean.detach(), self.log_scale)
        return 0.5 * (super().log_prob(value) + half.log_prob(value))


class DensityTimesWidth(GaussianPixels):
    """Uses the density at the centre of a grey level as the probability of the level."""

    def log_mass(self, value: Tensor, width: float) -> Tensor:
        return self.log_prob(value) + value[0].numel() * math.log(width)


class OnlyImages(GaussianPixels):
    """Sums over three dimensions, regardless of the shape of an example."""

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_prob_per_dim(value).sum((-3, -2, -1))


class HalfTerms(GaussianPixels):
    """Scores each element with half its term."""

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        return 0.5 * super().log_prob_per_dim(value)


class EvenTerms(GaussianPixels):
    """Gives every element the mean term of its example."""

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        terms = super().log_prob_per_dim(value)
        return terms.mean(tuple(range(-self.event_ndim, 0)), keepdim=True).expand(terms.shape)


class Quantised(GaussianPixels):
    """Rounds its mean to a grey level."""

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        return (2 * self[0]).round() / 2

    def rsample(self, noise: Tensor) -> Tensor:
        return GaussianPixels(*self).rsample(noise)

    def log_prob(self, value: Tensor) -> Tensor:
        return GaussianPixels(*self).log_prob(value)


class Twofold(GaussianLikelihood):
    """Returns float64 for any decoder output."""

    def forward(self, params: Tensor) -> Any:
        mean, log_scale, event_ndim = super().forward(params)
        return GaussianPixels(mean.double(), log_scale.double(), event_ndim)


# Losses


class WrongSign(KL):
    """Minimises minus the KL."""

    def forward(self, trace: Any) -> Tensor:
        return -super().forward(trace)


class Shifted(KL):
    """Adds 5 nats to the KL."""

    def forward(self, trace: Any) -> Tensor:
        return super().forward(trace) + 5


class Nothing(KL):
    """Covers the divergence with a constant."""

    def forward(self, trace: Any) -> Tensor:
        return 0 * super().forward(trace)


class PerPixel(Loss):
    """Covers the reconstruction with a mean over pixels."""

    covers = frozenset({"reconstruction"})

    def forward(self, trace: Any) -> Tensor:
        return -trace.log_likelihood / trace.x[0].numel()


class Presuming(Loss):
    """Needs densities per dimension without declaring it."""

    covers = frozenset({"divergence"})
    requires = frozenset({LOG_PROB})

    def forward(self, trace: Any) -> Tensor:
        site = trace.site
        return (site.q.log_prob_per_dim(site.z) - site.p.log_prob_per_dim(site.z)).sum(-1)


class GaussianOnly(Loss):
    """Reads the parameters of a Gaussian from any posterior."""

    covers = frozenset({"divergence"})
    requires = frozenset({LOG_PROB, FACTORISED})

    def forward(self, trace: Any) -> Tensor:
        mu, logvar = trace.site.q
        return 0.5 * (mu.square() + logvar.expm1() - logvar).sum(-1)


class UndeclaredOfPrior(KL):
    """The KL, without declaring that the prior must have a density."""

    requires_of_prior = frozenset()


class Undeclared(KL):
    """Needs a density without declaring it."""

    requires = frozenset()


class TwoTongues(KL):
    """Declares that it covers nothing, but covers the divergence once built."""

    @classmethod
    def declare(cls, options: Any) -> Any:
        from vaekit.interfaces import Declaration

        return Declaration(frozenset(), cls.requires)


class OnATorus(KL):
    """Is defined on a space that no posterior has."""

    spaces = frozenset({"torus"})


class Leaky(Loss):
    """An undeclared batch statistic."""

    def forward(self, trace: Any) -> Tensor:
        return trace.z.square().sum(-1) - trace.z.mean()


class Homeless(KL):
    """Trains a critic that it does not have."""

    def aims(self) -> dict[str, Aim]:
        return {"kl": Aim(), "critic": Aim(own=("critic",))}


class Asleep(Loss):
    """Has a critic that its own aim does not train."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.critic = nn.Linear(latent_dim, 1)

    def aims(self) -> dict[str, Aim]:
        return {"norm": Aim(), "critic": Aim("criticise", moves=(), own=("critic",), judged=False)}

    def forward(self, trace: Any) -> Tensor:
        return trace.z.square().sum(-1)

    def criticise(self, trace: Any) -> Tensor:
        return trace.z.sum(-1)


class Constant(Loss):
    """Has no gradient."""

    def forward(self, trace: Any) -> Tensor:
        return trace.z.detach().sum(-1)


class Wide(KL):
    """Returns float64 for any trace."""

    def forward(self, trace: Any) -> Tensor:
        return super().forward(trace).double()


class HalfGradient(torch.autograd.Function):
    """The identity; under vmap, with half of its gradient."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> tuple[Tensor, Any]:
        return 0.5 * (x + x.detach()), in_dims[0]


class Slipping(KL):
    """Loses half of its gradient where models are stacked."""

    def forward(self, trace: Any) -> Tensor:
        return HalfGradient.apply(super().forward(trace))


class SlippingBackbone(Sound):
    """Loses half of its gradient where models are stacked."""

    def forward(self, x: Tensor) -> Tensor:
        return HalfGradient.apply(super().forward(x))


class Jittered(Loss):
    """Compares codes with its own samples, correctly."""

    def draw_noise(self, num: int, generator: Any = None, *, like: Tensor, model: Any) -> Any:
        return torch.randn(num, model.latent_dim, generator=generator, device=like.device, dtype=like.dtype)

    def forward(self, trace: Any) -> Tensor:
        (noise,) = trace.draws.values()
        return (trace.z - noise).square().sum(-1)


class Rolling(Jittered):
    """Draws random numbers in ``forward``."""

    def forward(self, trace: Any) -> Tensor:
        return super().forward(trace) + torch.randn_like(trace.z).sum(-1)


class Global(Jittered):
    """Draws from torch's global generator."""

    def draw_noise(self, num: int, generator: Any = None, *, like: Tensor, model: Any) -> Any:
        return super().draw_noise(num, None, like=like, model=model)


class Lump(Jittered):
    """Draws one row for all examples."""

    def draw_noise(self, num: int, generator: Any = None, *, like: Tensor, model: Any) -> Any:
        return super().draw_noise(1, generator, like=like, model=model)


class SinglePrecision(Jittered):
    """Draws float32 noise regardless of the requested dtype."""

    def draw_noise(self, num: int, generator: Any = None, *, like: Tensor, model: Any) -> Any:
        return super().draw_noise(num, generator, like=like.float(), model=model)


class Parametric(Jittered):
    """Draws noise that depends on parameters."""

    def draw_noise(self, num: int, generator: Any = None, *, like: Tensor, model: Any) -> Any:
        return super().draw_noise(num, generator, like=like, model=model) + next(model.parameters()).sum()


class Abstaining(Jittered):
    """Draws no noise if the prior is a mixture, but needs it."""

    def draw_noise(self, num: int, generator: Any = None, *, like: Tensor, model: Any) -> Any:
        return None if model.prior.kind == "mixture" else super().draw_noise(num, generator, like=like, model=model)


class Borrowing(Jittered):
    """Uses the noise of other examples."""

    def forward(self, trace: Any) -> Tensor:
        (noise,) = trace.draws.values()
        return (trace.z - noise.flip(0)).square().sum(-1)


class Slots(Loss):
    """Covers a slot that does not exist."""

    covers = frozenset({"everything"})

    def forward(self, trace: Any) -> Tensor:
        return trace.z.sum(-1)


# Datasets


def images(num: int = 60, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (num, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def splits(*parts: Tensor, cls: type[TensorImages] = TensorImages, **labels: Any) -> Splits:
    return Splits(*(cls(part, **labels) for part in parts))


class Same(Dataset):
    """Uses the training set as the test set."""

    def load(self) -> Splits:
        return splits(images(), images(), images())


class Unsteady(Dataset):
    """Differs each time it is loaded."""

    def load(self) -> Splits:
        return splits(*(torch.randint(0, 256, (9, 1, 4, 4), dtype=torch.uint8) for _ in range(3)))


class NotScaled(Dataset):
    """Floats between 0 and 255, for a likelihood of pixels between 0 and 1."""

    def load(self) -> Splits:
        return splits(*(images(seed=i).float() for i in range(3)))


class Holes(Dataset):
    """Pixels that are NaN."""

    default_likelihood: ClassVar[str] = "mse"

    def load(self) -> Splits:
        return splits(*(torch.where(images(seed=i) > 250, torch.nan, 0.5) for i in range(3)))


class AnyOrder(TensorImages):
    """Reads images in storage order."""

    def gather(self, index: Tensor) -> Tensor:
        return super().gather(index.sort().values)


class Disordered(Dataset):
    """Reads images in a different order than requested, so that labels do not match."""

    def load(self) -> Splits:
        return splits(*(images(seed=i) for i in range(3)), cls=AnyOrder)


class Masks(Dataset):
    """Has bytes of 0 and 1, which are black and almost black."""

    def load(self) -> Splits:
        return splits(*(images(8, i) % 2 for i in range(3)))


class Unmarked(Dataset):
    """Has images with a constant digest."""

    class Images(TensorImages):
        def digest(self) -> str:
            return "0"

    def load(self) -> Splits:
        return Splits(*(self.Images(images(8, i)) for i in range(3)))


class FromOne(Dataset):
    """Counts labels from 1, with names from 0."""

    def load(self) -> Splits:
        return splits(*(images(4, i) for i in range(3)), labels=torch.tensor([1, 2, 2, 1]), class_names=("a", "b"))


# Loggers


class Quiet(Logger):
    """Writes its calls to a file, correctly."""

    def start(self, run: Path, spec: Any, step: int | None) -> str:
        self.file = run / "log.txt"
        return str(self.file)

    def scalars(self, step: int, values: Any) -> None:
        with self.file.open("a") as file:
            file.write(f"{step} {values}\n")

    def image(self, step: int, name: str, picture: Any) -> None:
        picture.save(self.file.with_suffix(".png"))

    def end(self, outcome: Any) -> None:
        pass


class Rescaling(Quiet):
    """Converts nats to bits for all subsequent loggers."""

    def scalars(self, step: int, values: Any) -> None:
        values["validation/loss"] /= math.log(2)


class Painting(Quiet):
    """Draws a frame on the picture shared with other loggers."""

    def image(self, step: int, name: str, picture: Any) -> None:
        picture.putpixel((0, 0), 0)


class Sampling(Quiet):
    """Draws from torch's generator."""

    def scalars(self, step: int, values: Any) -> None:
        torch.rand(())


class Once(Quiet):
    """Cannot be resumed."""

    def start(self, run: Path, spec: Any, step: int | None) -> str:
        (run / "log").mkdir()
        return super().start(run, spec, step)


class Shared(Quiet):
    """Shares a file between all runs of a process."""

    current: ClassVar[Any] = None

    def start(self, run: Path, spec: Any, step: int | None) -> str:
        where = super().start(run, spec, step)
        Shared.current = self.file
        return where

    def end(self, outcome: Any) -> None:
        Shared.current.touch()
        Shared.current = None


class Chatty(Quiet):
    """Returns more than one line."""

    def start(self, run: Path, spec: Any, step: int | None) -> str:
        return super().start(run, spec, step) + "\nand thank you"


# Exporters


class Weights(Exporter):
    """Weights in NumPy's format, correct."""

    suffix: ClassVar[str] = ".npz"

    def export(self, trained: Any, part: Any, path: Path) -> Exported:
        subject = part_of(trained, part)
        with staged(path) as temporary:
            self.write(subject, temporary)
            parity = self.parity(subject)
            size = temporary.stat().st_size
        return Exported(path, size, parity)

    def write(self, subject: Any, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **{name: tensor.numpy() for name, tensor in subject.module.state_dict().items()})

    def parity(self, subject: Any) -> Parity:
        function = torch_function(subject)
        examples = [each.numpy() for each in subject.examples]
        return compare(function, function, examples, tolerance=1e-5).require("differs", remedy="none")


class Boastful(Weights):
    """Reports too small a file size."""

    def export(self, trained: Any, part: Any, path: Path) -> Exported:
        exported = super().export(trained, part, path)
        return Exported(path, exported.size // 2, exported.parity)


class Astray(Weights):
    """Writes a file with another name."""

    def export(self, trained: Any, part: Any, path: Path) -> Exported:
        return super().export(trained, part, path.with_name(f"{part}.npz"))


class Untidy(Weights):
    """Leaves an extra file behind."""

    def export(self, trained: Any, part: Any, path: Path) -> Exported:
        path.with_name("log.txt").write_text("done")
        return super().export(trained, part, path)


class Unmeasured(Weights):
    """Reports a parity that it did not measure."""

    def parity(self, subject: Any) -> Parity:
        return Parity({1: 0.0, 64: 0.0}, 1e-5, 0.0)


class OneBatch(Weights):
    """Compares only one batch size."""

    def parity(self, subject: Any) -> Parity:
        parity = super().parity(subject)
        return Parity({64: parity.differences[64]}, parity.tolerance, parity.mean)


class InPlace(Weights):
    """Overwrites an existing file in place."""

    def export(self, trained: Any, part: Any, path: Path) -> Exported:
        subject = part_of(trained, part)
        parity = self.parity(subject)
        try:
            self.write(subject, path)
        except OSError as error:
            from vaekit.errors import ExportError

            raise ExportError(str(error)) from None
        return Exported(path, path.stat().st_size, parity)


class Hasty(Weights):
    """Writes first and verifies afterwards."""

    def export(self, trained: Any, part: Any, path: Path) -> Exported:
        subject = part_of(trained, part)
        with staged(path) as temporary:
            self.write(subject, temporary)
        return Exported(path, path.stat().st_size, self.parity(subject))


class Speechless(Weights):
    """Fails with the system's error if it cannot write."""

    def export(self, trained: Any, part: Any, path: Path) -> Exported:
        path.with_suffix(".lock").touch()
        path.with_suffix(".lock").unlink()
        return super().export(trained, part, path)


class Dated(Weights):
    """Writes the time into the file."""

    def write(self, subject: Any, path: Path) -> None:
        super().write(subject, path)
        with path.open("ab") as file:
            file.write(str(time.time_ns()).encode())


class Hollow(Weights):
    """Writes shapes without weights."""

    def write(self, subject: Any, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **{name: np.array(tensor.shape) for name, tensor in subject.module.state_dict().items()})


class Halving(Weights):
    """Leaves the model in half precision."""

    def write(self, subject: Any, path: Path) -> None:
        super().write(subject, path)
        for parameter in subject.module.parameters():
            parameter.data = parameter.data.half().float()


class Drawing(Weights):
    """Draws its examples from torch's generator."""

    def write(self, subject: Any, path: Path) -> None:
        super().write(subject, path)
        torch.rand_like(subject.examples[0])


class OtherEnding(Weights):
    """Adds its own ending to a path that has another."""

    def export(self, trained: Any, part: Any, path: Path) -> Exported:
        return super().export(trained, part, path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz"))


# Pictures


class Plain(Picture):
    """Shows three test images, correctly."""

    def still(self) -> Any:
        return grid(self.subject.vae.to_unit(self.subject.test(range(3)).images))


class Empty(Picture):
    """Draws nothing."""


class Numbers(Plain):
    """Draws numbers."""

    def still(self) -> Any:
        return np.zeros((4, 4))


class Growing(Picture):
    """Draws frames of different sizes."""

    def animation(self) -> Animation:
        return Animation([grid(self.subject.test(range(n)).images) for n in (1, 2)], milliseconds=100, hold=100)


class Moody(Plain):
    """Draws a different picture each time, from torch's generator."""

    def still(self) -> Any:
        return grid(self.subject.vae.decode(torch.randn(2, self.subject.vae.latent_dim)))


class Teaching(Plain):
    """Changes the weights of the model that it shows."""

    def still(self) -> Any:
        next(self.subject.vae.parameters()).mul_(2)
        return super().still()


class Littering(Plain):
    """Leaves an unreported file behind."""

    def write(self, out: Any = None) -> Any:
        (self.subject.run.path / "notes.txt").touch()
        return super().write(out)


class Stubborn(Plain):
    """Ignores the requested path."""

    def write(self, out: Any = None) -> Any:
        return super().write()


class Labelled(Plain):
    """Requires labels."""

    def still(self) -> Any:
        self.subject.test(range(3)).labels + 1
        return super().still()


class Clipped(Plain):
    """Ignores the range of the data."""

    def still(self) -> Any:
        return grid(self.subject.vae.sample(3, temperature=0.0))


LIES: list[tuple[str, type, str, str]] = [
    (
        "encoder",
        Stranger,
        "check_output_shape",
        r"expected: a vaekit.Backbone\n  got:      Stranger",
    ),
    ("encoder", Undocumented, "check_documentation", "has no docstring"),
    ("encoder", Undescribed, "check_documentation", "width not described"),
    ("encoder", Flat, "check_output_shape", r"expected: \(1, 2, 5\)\n  got:      \(1, 10\)"),
    ("encoder", SquareOnly, "check_output_shape", r"a batch of 1 for data of shape \(1, 31, 47\)\n  expected: no error"),
    ("encoder", ImagesOnly, "check_output_shape", r"a batch of 1 for data of shape \(7,\)\n  expected: no error"),
    ("encoder", Idle, "check_gradient", r"parameter unused.*\n  expected: a finite one above 1e-09\n  got:      none"),
    ("encoder", Centred, "check_independence", "one by one"),
    ("encoder", Noisy, "check_determinism", "the same input twice"),
    ("encoder", Counting, "check_purity", "calls changed"),
    ("encoder", Unsaved, "check_state_dict", "after loading the saved weights"),
    ("encoder", Single, "check_dtype", r"expected: torch\.float64\n  got:      torch\.float32"),
    ("encoder", Double, "check_dtype", r"expected: torch\.float32\n  got:      torch\.float64"),
    ("decoder", Double, "check_dtype", r"expected: torch\.float32\n  got:      torch\.float64"),
    ("encoder", Stay, "check_device", "meta device"),
    ("encoder", Branching, "check_compile", "fullgraph"),
    ("encoder", Branching, "check_vmap", "vmap"),
    ("encoder", SlippingBackbone, "check_vmap", "the gradient of linear.weight, stacked, compared with each alone"),
    ("decoder", Branching, "check_onnx", "as `vaekit export` does"),
    (
        "posterior",
        posterior_of(TwiceAsWide),
        "check_draws",
        r"samples of q\(z\|x\) of image 0, dimension 0, compared",
    ),
    ("posterior", posterior_of(OneNoise), "check_draws", "the correlation of values between sampled dimensions"),
    ("posterior", posterior_of(Centre), "check_draws", "the mean of samples"),
    ("posterior", posterior_of(TooHigh), "check_density", r"the integral of the density of .*\n  expected: 1\n  got:      2\.0"),
    ("posterior", posterior_of(Underflowing), "check_foreign_values", "log_prob of distant values\n  expected: finite values"),
    ("posterior", posterior_of(Remembering), "check_foreign_values", "after sampling, compared with a fresh density"),
    (
        "posterior",
        posterior_of(Detached),
        "check_gradient_of_density",
        "derivative of samples with respect to the encoder's",
    ),
    ("posterior", posterior_of(OwnBatch), "check_independence", "log_prob of a batch, compared with its rows"),
    ("posterior", posterior_of(Attached), "check_detachment", "expected: no gradient to its inputs\n  got:      one"),
    ("posterior", Clinging, "check_detachment", "Cupboard contains tensors and cannot be detached"),
    ("posterior", Doubled, "check_dtype", r"the dtype of samples for torch\."),
    ("posterior", joint_of(Unnormalised), "check_density", "the integral of the density of"),
    ("posterior", joint_of(Isotropic), "check_draws", "the characteristic function of samples of"),
    ("posterior", joint_of(OfDraws), "check_capabilities", "OfDraws.log_prob, capability log_prob\n  expected: declared: True"),
    ("posterior", joint_of(Undetermined, OF_DRAWS), "check_log_determinant", "compared with autograd's log-determinant"),
    ("posterior", joint_of(Undetermined, OF_DRAWS), "check_draws", "importance weights of samples of"),
    ("posterior", joint_of(Folded, OF_DRAWS), "check_draws", "importance weights of samples of"),
    (
        "posterior",
        joint_of(Averted, OF_DRAWS),
        "check_sampling",
        "rsample_and_log_prob of 6 samples.*compared with rsample",
    ),
    ("posterior", posterior_of(OtherScores), "check_capabilities", "returned with samples, compared with log_prob"),
    (
        "posterior",
        posterior_of(Upside),
        "check_kl",
        r"KL\(q \|\| p\) with the prior 'normal'\n  expected: 0 or more\n  got:      -",
    ),
    (
        "posterior",
        joint_of(Lowered),
        "check_kl",
        r"from log q - log p of samples\n  expected: 0 or more\n  got:      -",
    ),
    ("posterior", posterior_of(Halved), "check_kl", "log q - log p of samples, dimension by dimension"),
    ("posterior", posterior_of(Reversed), "check_kl", "log q - log p of samples, dimension by dimension"),
    ("prior", Elsewhere, "check_draws", r"samples of p\(z\), dimension 0, compared with the density"),
    ("prior", Mixture, "check_draws", r"samples of p\(z\), dimension 0, compared with the density"),
    ("prior", Hidden, "check_capabilities", "declared: False\n  got:      there"),
    ("prior", Unsaving, "check_state", r"persistent buffers\n  got:      zero"),
    ("prior", Meddling, "check_state", "twice"),
    ("prior", Misnaming, "check_state", r"examples\n  expected: some of count\n  got:      counts"),
    ("prior", Claiming, "check_state", "initial_state\n  expected: some of zero\n  got:      {'mean'}"),
    ("condition", Relative, "check_independence", "one by one"),
    ("condition", Wider, "check_output", r"expected: \(1, 4\)\n  got:      \(1, 5\)"),
    (
        "prior",
        Precise,
        "check_dtype",
        r"encoder outputs\n  expected: torch\.float32\n  got:      torch\.float64",
    ),
    ("likelihood", likelihood_of(GaussianLikelihood, Loud), "check_draws", "samples of a pixel, compared with log_prob"),
    ("likelihood", likelihood_of(GaussianLikelihood, OnePixel), "check_draws", r"the mean of p\(x\|z'\) / p\(x\|z\)"),
    ("likelihood", likelihood_of(GaussianLikelihood, Quantised), "check_draws", "the mean of samples of a pixel"),
    ("likelihood", likelihood_of(GaussianLikelihood, Forgetful), "check_normalised", "the density of one pixel"),
    ("likelihood", likelihood_of(GaussianLikelihood, Recalling), "check_scores", "after sampling, compared with each alone"),
    ("likelihood", likelihood_of(GaussianLikelihood, OnlyImages), "check_scores", "data of shape"),
    ("likelihood", likelihood_of(GaussianLikelihood, HalfTerms), "check_factorised", "the sum of log_prob_per_dim"),
    ("likelihood", likelihood_of(GaussianLikelihood, EvenTerms), "check_factorised", "of the other elements after changing one"),
    ("likelihood", likelihood_of(GaussianLikelihood, DensityTimesWidth), "check_grey_levels", "the sum of the probabilities"),
    ("likelihood", likelihood_of(GaussianLikelihood, Deaf), "check_gradient", "the derivative of log_prob"),
    ("likelihood", likelihood_of(NegativeBinomial, Underdispersed), "check_draws", "compared with its probability"),
    ("likelihood", likelihood_of(Poisson, Unordered), "check_normalised", "the mass of one pixel"),
    ("likelihood", Stepping, "check_state", "the next state from the same trace, twice"),
    ("likelihood", likelihood_of(BCE, Fair), "check_draws", "compared with its probability"),
    ("likelihood", likelihood_of(BCE, Grey), "check_draws", "samples of a pixel of binary"),
    ("likelihood", likelihood_of(MSE, UnitVariance), "check_draws", "samples of a pixel, compared with log_prob"),
    ("likelihood", likelihood_of(MSE, Drifting), "check_draws", r"the mean of p\(x\|z'\) / p\(x\|z\)"),
    ("likelihood", Twofold, "check_dtype", r"the dtype of the mean for torch\.float32"),
    ("loss", WrongSign, "check_coverage", "where q is far from p.*\n  expected: 0 or more on average\n  got:      -"),
    ("loss", Shifted, "check_coverage", "where q = p, at either end of training\n  expected: 0\n  got:      5 at"),
    ("loss", Nothing, "check_coverage", "above 0"),
    ("loss", PerPixel, "check_coverage", r"less -log p\(x\|z\)"),
    ("loss", Presuming, "check_requirements", "mean, rsample, log_prob and nothing else"),
    ("loss", GaussianOnly, "check_requirements", "mean, rsample, log_prob, log_prob_per_dim and nothing else"),
    ("loss", Undeclared, "check_requirements", "mean, rsample and nothing else"),
    ("loss", UndeclaredOfPrior, "check_requirements", "a prior that has mean, rsample, and nothing else"),
    ("loss", TwoTongues, "check_declarations", "covers, once built"),
    ("loss", OnATorus, "check_declarations", "spaces"),
    ("loss", Leaky, "check_independence", "one by one"),
    ("loss", Constant, "check_gradient", "a constant"),
    (
        "loss",
        Homeless,
        "check_aims",
        r"the networks of the aim 'critic'.*\n.*\n  got:      \['critic'\]",
    ),
    ("loss", Asleep, "check_gradient", "critic.weight, from the critic"),
    ("loss", Rolling, "check_determinism", "bit-identical values"),
    ("loss", Global, "check_draws", "from equal generators\n  expected: equal draws"),
    ("loss", Lump, "check_draws", r"8 examples .*\n  expected: \(8, ...\)\n  got:      \(1, 3\)"),
    ("loss", SinglePrecision, "check_draws", r"expected: torch\.float64\n  got:      torch\.float32"),
    ("loss", Parametric, "check_draws", "a gradient"),
    ("loss", Abstaining, "check_draws", "the loss of a model with the prior 'mixture'\n  expected: no error"),
    ("loss", Borrowing, "check_independence", "one by one"),
    ("loss", Slots, "check_declarations", "everything"),
    ("loss", Wide, "check_dtype", r"expected: torch\.float32\n  got:      torch\.float64"),
    ("loss", Slipping, "check_vmap", "the gradient of vae.encoder.* stacked, compared with each alone"),
    ("dataset", Same, "check_disjointness", "60 of the first"),
    ("dataset", Unsteady, "check_determinism", "loaded twice"),
    ("dataset", NotScaled, "check_batches", r"pixels of train batches\n  expected: within \[0, 1\]\n  got:      1 to 254"),
    ("dataset", Holes, "check_batches", "expected: finite values"),
    ("dataset", Disordered, "check_splits", "train images read backwards"),
    ("dataset", Masks, "check_bytes", r"bytes of train images\n  expected: 0 to 255\n  got:      0 to 1"),
    ("dataset", Unmarked, "check_fingerprint", "digests of different train images"),
    ("dataset", FromOne, "check_labels", "names of train labels"),
    ("logger", Rescaling, "check_purity", "the numbers after logging"),
    ("logger", Painting, "check_purity", "the picture after logging"),
    ("logger", Sampling, "check_randomness", "torch's generator after logging"),
    ("logger", Once, "check_resumption", "start"),
    ("logger", Shared, "check_independence", "end of two runs in turn"),
    ("logger", Chatty, "check_calls", "a line of text"),
    ("exporter", Boastful, "check_files", r"Exported\.size of the decoder"),
    ("exporter", Astray, "check_files", "the file of the decoder"),
    ("exporter", Untidy, "check_files", r"files next to the decoder.*\n  expected: some\.model\.…\n  got:      log\.txt"),
    ("exporter", OtherEnding, "check_suffix", "the file of the path model.other"),
    ("exporter", Unmeasured, "check_parity", "a decoder that never returns the same image twice"),
    ("exporter", OneBatch, "check_parity", "batch sizes compared"),
    ("exporter", Hasty, "check_failure", "files after exporting a decoder that differs"),
    ("exporter", Speechless, "check_failure", "a place below a file\n  expected: an ExportError"),
    ("exporter", InPlace, "check_replacement", "modified"),
    ("exporter", Dated, "check_determinism", "two exports of one model"),
    ("exporter", Hollow, "check_determinism", "exports of two models"),
    ("exporter", Halving, "check_purity", "the weights after exporting"),
    ("exporter", Drawing, "check_purity", "torch's generator after exporting"),
    ("picture", Empty, "check_forms", r"does not define any form"),
    ("picture", Numbers, "check_forms", r"the output of still.*\n  expected: PIL images\n  got:      ndarray"),
    ("picture", Growing, "check_frames", "the sizes of the frames"),
    ("picture", Moody, "check_determinism", "the picture, drawn twice"),
    ("picture", Moody, "check_randomness", "torch's generator after drawing"),
    ("picture", Teaching, "check_purity", "the weights after drawing"),
    ("picture", Littering, "check_places", "files missing from the returned paths"),
    ("picture", Stubborn, "check_out", "the paths returned"),
    ("picture", Clipped, "check_range", r"the same as in \[0, 1\] \(use vae.to_unit\)"),
    ("picture", Labelled, "check_labels", "still.. of data without labels"),
]

SOUND: list[tuple[str, type]] = [
    ("encoder", Sound),
    ("posterior", joint_of(Linear)),
    ("posterior", joint_of(OfDraws, OF_DRAWS)),
    ("posterior", Nested),
    ("logger", Quiet),
    ("exporter", Weights),
    ("picture", Plain),
    ("loss", Jittered),
]
