"""The trace of a forward pass: the input of losses, evaluation and pictures.

Shapes: ``B`` examples, ``D`` latent dimensions, ``*S`` sample dimensions (none by default, ``(K,)`` for K samples).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from torch import Tensor, nn

from vaekit.distributions import Density, Distribution, conditional_log_probs, kl_per_dim, rsample_and_log_prob
from vaekit.errors import UsageError


@dataclass
class Site:
    """A latent variable in a trace; see `drawn`.

    Args:
        z: Samples, ``(*S, B, D)``.
        q: The posterior q(z|x).
        p: The prior p(z).
        has_density: Whether the posterior declares a density, at least at its own samples.
    """

    z: Tensor
    q: Distribution
    p: Distribution
    has_density: bool = True
    _log_q: Tensor | None = field(default=None, repr=False)
    _kl_per_dim: Tensor | None = field(default=None, repr=False)

    @classmethod
    def drawn(cls, q: Distribution, noise: Tensor, p: Distribution, *, has_density: bool = True) -> Site:
        """Map noise ``(*S, B, D)`` to samples of q, and store their densities if q returns them together."""
        z, log_q = rsample_and_log_prob(q, noise) if has_density else (q.rsample(noise), None)
        return cls(z, q, p, has_density, log_q)

    @property
    def log_q(self) -> Tensor:
        """``log q(z|x)``, ``(*S, B)``.

        Raises:
            TypeError: The posterior declares no density.
        """
        if not self.has_density:
            raise TypeError(f"{type(self.q).__name__} has no density, hence no log q(z|x) and no importance weights")
        if self._log_q is None:
            self._log_q = cast("Density", self.q).log_prob(self.z)
        return self._log_q

    @property
    def log_p(self) -> Tensor:
        """``log p(z)``, ``(*S, B)``."""
        return cast("Density", self.p).log_prob(self.z)

    @property
    def kl_per_dim(self) -> Tensor | None:
        """``KL(q_d || p_d)`` in closed form, ``(B, D)``; None if no closed form per dimension is known."""
        if self._kl_per_dim is None:
            self._kl_per_dim = kl_per_dim(self.q, self.p)
        return self._kl_per_dim

    @property
    def kl_per_latent(self) -> Tensor | None:
        """The contribution of each latent to the KL, given the preceding ones, ``(B, D)``.

        It is ``kl_per_dim`` if known, else estimated from the samples; None if a density does not decompose over latents.
        """
        if self.kl_per_dim is not None or not self._has_densities:
            return self.kl_per_dim
        log_q, log_p = (conditional_log_probs(density, self.z) for density in (self.q, self.p))
        if log_q is None or log_p is None:
            return None
        terms = log_q - log_p
        return terms if terms.ndim == 2 else terms.flatten(0, -3).mean(0)

    @property
    def kl(self) -> Tensor | None:
        """``KL(q || p)`` per example, ``(B,)``: in closed form if known, else ``log q - log p`` averaged over samples.

        None if the posterior or the prior has no density.
        """
        if self.kl_per_dim is not None:
            return self.kl_per_dim.sum(-1)
        if not self._has_densities:
            return None
        return mean_over_samples(self.log_q - self.log_p)

    @property
    def _has_densities(self) -> bool:
        return self.has_density and hasattr(self.p, "log_prob")

    def detach(self) -> Site:
        """Return a copy of this latent variable detached from its graph."""
        log_q = None if self._log_q is None else self._log_q.detach()
        return Site(self.z.detach(), detached(self.q), detached(self.p), self.has_density, log_q)


class Elsewhere:
    """A placeholder for images that a trace does not have: accessing any attribute raises an error.

    Several processes share a batch, so none has all images, or the images were encoded in advance.
    """

    def __getattr__(self, name: str) -> Any:
        raise UsageError(
            "a batch statistic has access only to latents, labels and draws if several processes share a batch",
            given=f"{name!r} of the images or the likelihood",
            expected="trace.sites, trace.y and trace.draws",
            remedy="train in one process",
        )

    def detach(self) -> Elsewhere:
        return self


@dataclass
class Trace:
    """A forward pass: the data, the latent sites, and the likelihood given the latents.

    Args:
        x: The images that the likelihood scores, ``(B, C, H, W)``.
        sites: The latent variables.
        decoded: The density p(x|z) over images, ``(*S, B, C, H, W)``; default: latents are decoded on first access of
            `likelihood`.
        y: Labels, ``(B,)``, or None.
        num_data: The number of images in the dataset, for losses that estimate aggregates.
        epoch: The (fractional) number of passes over the data so far, a 0-d tensor; infinite for the schedules' final values.
        model: The model that made the trace, with its parameters as the player sees them.
        metrics: Additional numbers that losses log, each ``(B,)`` or 0-d.
        draws: The losses' own noise by loss name, each ``(B, ...)``; see `vaekit.Loss.draw_noise`.
        whole: The trace of the whole batch if this one covers only the part of a process: latents, labels, draws and the
            likelihood's statistics, but no images.

    Example:
        >>> encoder = vaekit.encoders.get("mlp")((1, 28, 28), (2, 16))
        >>> trace = vaekit.VAE(encoder, vaekit.decoders.get("mlp")((16,), (1, 28, 28)))(torch.rand(5, 1, 28, 28))
        >>> trace.z.shape, trace.kl.shape, trace.log_likelihood.shape, trace.reconstruction.shape
        (torch.Size([5, 16]), torch.Size([5]), torch.Size([5]), torch.Size([5, 1, 28, 28]))
    """

    x: Tensor
    sites: tuple[Site, ...]
    decoded: Density | None = None
    y: Tensor | None = None
    num_data: int | None = None
    epoch: Tensor | None = None
    model: Any = None
    metrics: dict[str, Tensor] = field(default_factory=dict)
    draws: Mapping[str, Tensor] = field(default_factory=dict)
    whole: Trace | None = None
    _log_likelihood: Tensor | None = field(default=None, repr=False)
    _statistics: Tensor | None = field(default=None, repr=False)
    _of_means: Tensor | None = field(default=None, repr=False)

    @property
    def site(self) -> Site:
        """The latent variable of a model with exactly one."""
        (site,) = self.sites
        return site

    @property
    def z(self) -> Tensor:
        return self.site.z

    @property
    def likelihood(self) -> Density:
        """The density p(x|z) over images, ``(*S, B, C, H, W)``."""
        if self.decoded is None:
            self.decoded = cast("Density", self.model.likelihood_of(self.z, self.model.condition_on(self.y)))
        return self.decoded

    @property
    def reconstruction(self) -> Tensor:
        """The mean image of p(x|z), ``(*S, B, C, H, W)``, in the range of the data."""
        return self.likelihood.mean

    @property
    def reconstruction_of_means(self) -> Tensor:
        """The mean image of p(x|z) for the posterior's mean z, ``(B, C, H, W)``: a deterministic reconstruction."""
        if self._of_means is None:
            self._of_means = self.model.decode(self.sites[0].q.mean, self.y)
        return self._of_means

    @property
    def log_likelihood(self) -> Tensor:
        """``log p(x|z)`` in nats, ``(*S, B)``."""
        if self._log_likelihood is None:
            self._log_likelihood = self.likelihood.log_prob(self.x)
        return self._log_likelihood

    @property
    def statistics(self) -> Tensor | None:
        """The statistics from which the likelihood learns without gradients, ``(B, ...)``; see `vaekit.Likelihood.statistics`."""
        if self._statistics is None and self.model is not None and not isinstance(self.x, Elsewhere):
            self._statistics = self.model.likelihood.statistics(self.likelihood, self.x)
        return self._statistics

    @property
    def kl(self) -> Tensor | None:
        """The sum of the KL over all sites, ``(B,)``; None if a posterior declares no density."""
        total: Tensor | None = None
        for site in self.sites:
            kl = site.kl
            if kl is None:
                return None
            total = kl if total is None else total + kl
        return total

    @property
    def log_weight(self) -> Tensor:
        """``log p(x|z) + log p(z) - log q(z|x)``, ``(*S, B)``.

        Raises:
            TypeError: A posterior declares no density.

        References:
            Burda et al. (2016), "Importance Weighted Autoencoders", ICLR, arXiv:1509.00519, equation 8.
        """
        weight = self.log_likelihood
        for site in self.sites:
            weight = weight + site.log_p - site.log_q
        return weight

    def detach(self) -> Trace:
        """Return a copy of this trace detached from its graph; latents are decoded first."""
        sites = tuple(site.detach() for site in self.sites)
        whole = None if self.whole is None else self.whole.detach()
        own = None if self._statistics is None else self._statistics.detach()
        p = detached(self.likelihood)
        return replace(
            self, sites=sites, decoded=p, metrics={}, whole=whole, _log_likelihood=None, _statistics=own, _of_means=None
        )


def mean_over_samples(values: Tensor) -> Tensor:
    """Average ``(*S, B)`` over the sample dimensions."""
    return values if values.ndim == 1 else values.flatten(0, -2).mean(0)


def detached(value: Any) -> Any:
    """Detach the tensors of a density, in nested tuples, lists and dicts and in objects with a method ``detach``.

    Raises:
        TypeError: An object contains tensors and has no method ``detach``.
    """
    if isinstance(value, tuple | list):
        parts = [detached(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {key: detached(part) for key, part in value.items()}
    if hasattr(value, "detach"):
        return value.detach()
    if not isinstance(value, nn.Module) and any(isinstance(part, Tensor) for part in getattr(value, "__dict__", {}).values()):
        raise TypeError(f"{type(value).__name__} contains tensors and cannot be detached: not a named tuple, no `detach`")
    return value


__all__ = ["Site", "Trace", "detached", "mean_over_samples"]
