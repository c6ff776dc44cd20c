"""Densities over examples, returned by likelihoods. A pixel is any element of an example, even if it is not an image.

The last ``event_ndim`` dimensions form an example: 1 for tables, 2 for signals, 3 for images, 4 for volumes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.nn import functional as F

from vaekit.distributions.density import sum_event
from vaekit.distributions.gaussian import LOG_2PI

EXACT = 40.0
"""The logit above which softplus is the identity, also in double precision."""
BLOCK = 2**17
"""The number of pixels that are scored at once without gradients on a CPU: half a megabyte, so that its cache holds them."""


class BernoulliPixels(NamedTuple):
    """Independent Bernoulli pixels, parametrised by logits; the cross-entropy is finite for every finite logit."""

    logits: Tensor
    event_ndim: int = 3

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(self.logits)

    def rsample(self, noise: Tensor) -> Tensor:
        """Compare the mean with uniform noise. Binary pixels have no reparameterised gradient."""
        return (noise < self.mean).to(self.logits.dtype)

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        """Return ``x·l - softplus(l)``: a log-likelihood on binary pixels, a negative cross-entropy on grey ones."""
        return -self.cross_entropy(value)

    def log_prob(self, value: Tensor) -> Tensor:
        logits = self.logits
        if torch.is_grad_enabled() or not logits.is_cpu or logits.ndim <= self.event_ndim or torch.compiler.is_compiling():
            return -sum_event(self.cross_entropy(value), self.event_ndim)
        size = max(1, BLOCK * len(logits) // max(1, logits.numel()))
        pairs = zip(logits.split(size), value.expand(logits.shape).split(size), strict=True)
        return torch.cat([self._log_prob_in_place(*pair) for pair in pairs])

    def _log_prob_in_place(self, logits: Tensor, value: Tensor) -> Tensor:
        """Return `log_prob` of some logits without gradients, twice as fast on a CPU as torch's cross-entropy.

        The logarithm of ``1 + exp(-|l|)`` is as exact in a sum over pixels as ``log1p``, which takes three times as long.
        """
        softplus = logits.abs().neg_().exp_().add_(1).log_().add_(logits.clamp_min(0))
        rows = softplus.sub_(value * logits).sum(-1, keepdim=True)
        return -rows.sum(tuple(range(-self.event_ndim, 0)), dtype=torch.float64).to(logits.dtype)

    def cross_entropy(self, value: Tensor) -> Tensor:
        """Return ``softplus(l) - x·l`` of each pixel."""
        logits = self.logits
        if is_batchedtensor(logits):  # vmap would split the kernel below into many, which take five times as long
            return F.softplus(logits, threshold=EXACT) - value * logits
        value = value if value.shape == logits.shape else value.expand(logits.shape)
        return F.binary_cross_entropy_with_logits(logits, value, reduction="none")


LEVEL = 1.0 / 255.0
"""The distance between the grey levels of 8-bit images in [0, 1]."""
FAR = 1e4
"""A finite stand-in for infinity, whose gradient would be NaN."""


def standardised_edges(value: Tensor, width: float, location: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends of the interval of each grey level in [0, 1], relative to a location and scale.

    The intervals of the lowest and highest levels extend to infinity.
    """
    lower = torch.where(value < width / 2, -FAR, value - width / 2)
    upper = torch.where(value > 1 - width / 2, FAR, value + width / 2)
    scale = torch.exp(-log_scale)
    return (lower - location) * scale, (upper - location) * scale


def mirrored(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return intervals [a, b], mirrored to the left tail if they are right of 0, since CDFs are accurate there."""
    right = a > 0
    return torch.where(right, -b, a), torch.where(right, -a, b)


class GaussianPixels(NamedTuple):
    """Independent Gaussian pixels with log standard deviation ``log_scale``, broadcast against ``mean``."""

    mean: Tensor
    log_scale: Tensor
    event_ndim: int = 3

    def rsample(self, noise: Tensor) -> Tensor:
        return self.mean + torch.exp(self.log_scale) * noise

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        return -0.5 * self.deviance(value)

    def log_prob(self, value: Tensor) -> Tensor:
        return -0.5 * sum_event(self.deviance(value), self.event_ndim)

    def deviance(self, value: Tensor) -> Tensor:
        """Return ``-2 log p`` of each pixel."""
        scaled = (value - self.mean) * torch.exp(-self.log_scale)
        return scaled.square() + (LOG_2PI + 2.0 * self.log_scale)

    def log_mass(self, value: Tensor, width: float) -> Tensor:
        """Return the log probability of grey levels ``width`` apart, a difference of the distribution function, ``(*S, B)``."""
        a, b = mirrored(*standardised_edges(value, width, self.mean, self.log_scale))
        upper = torch.special.log_ndtr(b)
        return sum_event(upper + torch.log1p(-torch.exp(torch.special.log_ndtr(a) - upper)), self.event_ndim)


class SquaredErrorPixels(NamedTuple):
    """``-log p(x|z) = sum (x - mean)^2``: a Gaussian with variance 1/2, up to a constant of ``log(pi)/2`` per pixel."""

    mean: Tensor
    event_ndim: int = 3

    def rsample(self, noise: Tensor) -> Tensor:
        return self.mean + math.sqrt(0.5) * noise

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        return -(value - self.mean).square()

    def log_prob(self, value: Tensor) -> Tensor:
        return -sum_event((value - self.mean).square(), self.event_ndim)


class LaplacePixels(NamedTuple):
    """Independent Laplace pixels with log scale ``log_scale`` (mean absolute deviation), broadcast against ``mean``."""

    mean: Tensor
    log_scale: Tensor
    event_ndim: int = 3

    def rsample(self, noise: Tensor) -> Tensor:
        """Map standard normal noise to the Laplace quantiles of the same probability; finite for any noise in float32."""
        magnitude = -(math.log(2.0) + torch.special.log_ndtr(-noise.abs()))  # -log P(|n| > |noise|), where 1 - erf underflows
        deviation: Tensor = torch.exp(self.log_scale) * torch.sign(noise) * magnitude
        return self.mean + deviation

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        return -self.cost(value)

    def log_prob(self, value: Tensor) -> Tensor:
        return -sum_event(self.cost(value), self.event_ndim)

    def cost(self, value: Tensor) -> Tensor:
        """Return ``-log p`` of each pixel."""
        scaled = (value - self.mean).abs() * torch.exp(-self.log_scale)
        return scaled + (math.log(2.0) + self.log_scale)

    def log_mass(self, value: Tensor, width: float) -> Tensor:
        """Return the log probability of grey levels ``width`` apart, a difference of the distribution function, ``(*S, B)``."""
        a, b = mirrored(*standardised_edges(value, width, self.mean, self.log_scale))
        left = b.clamp(max=0) - math.log(2.0) + torch.log(-torch.expm1(a - b.clamp(max=0)))
        across = torch.log(-0.5 * (torch.expm1(-b.clamp(min=0)) + torch.expm1(a)))
        return sum_event(torch.where(b > 0, across, left), self.event_ndim)


class AbsoluteErrorPixels(NamedTuple):
    """``-log p(x|z) = sum |x - mean|``: Laplace pixels with a scale of 1, up to a constant of ``log(2)`` per pixel."""

    mean: Tensor
    event_ndim: int = 3

    def rsample(self, noise: Tensor) -> Tensor:
        return LaplacePixels(self.mean, torch.zeros_like(self.mean), self.event_ndim).rsample(noise)

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        return -(value - self.mean).abs()

    def log_prob(self, value: Tensor) -> Tensor:
        return -sum_event((value - self.mean).abs(), self.event_ndim)


class DiscretizedLogisticPixels(NamedTuple):
    """Independent 8-bit pixels: logistic variables rounded to the nearest grey level in [0, 1].

    Args:
        location: The location, ``(*S, B, *event)``.
        log_scale: The log scale, broadcast against it; at least one grey level.
        event_ndim: The number of dimensions of an example.

    References:
        Salimans et al. (2017), "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other
            Modifications", ICLR, arXiv:1701.05517, equation 2.
    """

    location: Tensor
    log_scale: Tensor
    event_ndim: int = 3

    @property
    def mean(self) -> Tensor:
        """The mean of the variable clipped to [0, 1]; rounding changes it by less than 1e-4 for scales of at least one level."""
        scale = torch.exp(self.log_scale)
        return scale * (F.softplus(self.location / scale) - F.softplus((self.location - 1) / scale))

    def rsample(self, noise: Tensor) -> Tensor:
        """Map uniform noise to grey levels, without a reparameterised gradient."""
        variable = self.location + torch.exp(self.log_scale) * torch.logit(noise)
        levels: Tensor = (variable.clamp(0, 1) / LEVEL).round() * LEVEL
        return levels.detach()

    def log_prob_per_dim(self, value: Tensor) -> Tensor:
        """Return log probabilities of grey levels, from ``s(b) - s(a) = s(b) s(-a) (1 - exp(a - b))`` for the sigmoid s."""
        a, b = standardised_edges(value, LEVEL, self.location, self.log_scale)
        return F.logsigmoid(b) + F.logsigmoid(-a) + torch.log(-torch.expm1(a - b))

    def log_prob(self, value: Tensor) -> Tensor:
        return sum_event(self.log_prob_per_dim(value), self.event_ndim)
