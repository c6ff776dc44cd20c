"""The VAE: encoder, decoder, posterior, prior and likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from vaekit.data.pixels import UNIT, Range
from vaekit.distributions import Curved, Density, DiagonalGaussian, Distribution, FactorisedDensity, Observed
from vaekit.errors import UsageError
from vaekit.interfaces import Condition, Likelihood, Posterior, Prior, Shape, knows_density_of_draws
from vaekit.roles import conditions, likelihoods, posteriors, priors
from vaekit.trace import Elsewhere, Site, Trace


class VAE(nn.Module):
    """A variational autoencoder assembled from parts.

    ``x -> encoder -> posterior q(z|x) -> z -> decoder -> likelihood p(x|z)``, with a prior p(z). Images have the shape ``(B, C,
    H, W)``, with values in [0, 1] by default, and latent vectors ``(B, D)``; tables, signals and volumes have their own shapes.
    Any module from tensors to tensors can be the encoder or the decoder.

    With a condition, which maps labels to vectors c, these become q(z|x, c), p(x|z, c) and, if the prior uses c, p(z|c): the
    encoder receives c as E additional channels, the decoder as E additional latents. If ``latent_shape`` has several
    dimensions, the networks see latents of that shape, such as a grid ``(C, H, W)``; everywhere else, latents are vectors of
    size D.

    Args:
        encoder: Maps ``(B, C + E, H, W)`` to ``(B, *posterior.param_shape)``.
        decoder: Maps ``(B, D + E)`` to ``(B, *likelihood.param_shape)``.
        posterior: The posterior; default: a diagonal Gaussian with the decoder's latent size.
        prior: The prior; default: a standard normal.
        likelihood: The likelihood; default: Bernoulli pixels (``bce``) with the decoder's output shape.
        condition: The condition; default: none.
        latent_shape: The shape of latents in the networks; default: a vector.
        value_range: The lowest and highest pixel values of the data, which pictures show as black and white.
        missing: Whether NaN in the data marks missing values, which the likelihood ignores; the encoder must accept NaN.

    Raises:
        UsageError: The parts are incompatible, or a default needs a shape that the decoder does not declare.

    Example:
        >>> from vaekit.components.encoders.mlp import MLP as Encoder
        >>> from vaekit.components.decoders.mlp import MLP as Decoder
        >>> vae = VAE(Encoder((1, 28, 28), (2, 16)), Decoder((16,), (1, 28, 28)))
        >>> mu, logvar = vae.encode(torch.rand(5, 1, 28, 28))
        >>> vae.decode(vae.reparameterize(mu, logvar)).shape
        torch.Size([5, 1, 28, 28])
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        posterior: Posterior | None = None,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        condition: Condition | None = None,
        latent_shape: Shape | None = None,
        value_range: Range = UNIT,
        missing: bool = False,
    ) -> None:
        super().__init__()
        condition = condition or conditions.get("none")()
        if posterior is None:
            (width,) = _shape_of(decoder, "in_shape", "posterior=")
            posterior = posteriors.get("gaussian")(width - condition.size)
        if likelihood is None:
            likelihood = likelihoods.get("bce")(_shape_of(decoder, "out_shape", "likelihood="))
        if prior is None:
            prior = priors.get("normal")(posterior.latent_dim)
        self.latent_shape = (posterior.latent_dim,) if latent_shape is None else tuple(latent_shape)
        for name, module, attribute, expected in (
            ("encoder", encoder, "in_shape", widened(likelihood.data_shape, condition.size)),
            ("encoder", encoder, "out_shape", params_shape(posterior, self.latent_shape)),
            ("decoder", decoder, "in_shape", widened(self.latent_shape, condition.size)),
            ("decoder", decoder, "out_shape", likelihood.param_shape),
            ("prior", prior, "latent_dim", posterior.latent_dim),
        ):
            given = getattr(module, attribute, expected)
            if given != expected:
                raise UsageError(f"the {name}'s {attribute} does not match the other parts", given=given, expected=expected)
        self.encoder, self.decoder, self.value_range = encoder, decoder, value_range
        self.posterior, self.prior, self.likelihood, self.condition = posterior, prior, likelihood, condition
        self.missing = missing
        self.chunk: int | None = None
        """The number of examples to process at once for large batches in evaluation; None for whole batches."""

    @property
    def latent_dim(self) -> int:
        """The number of latent dimensions D."""
        return self.posterior.latent_dim

    @property
    def data_shape(self) -> Shape:
        """The shape of an example, such as ``(C, H, W)`` for images."""
        return self.likelihood.data_shape

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    def condition_on(self, y: Tensor | None) -> Tensor | None:
        """Return the vectors c of labels, ``(B, E)``; None if the model is unconditional.

        Args:
            y: Labels, ``(B,)``; unconditional models ignore them.

        Raises:
            UsageError: The model is conditional, and there are no labels.
        """
        if self.condition.size == 0:
            return None
        if y is None:
            raise UsageError(
                f"the model is conditional on {self.condition.kind!r}, but no labels are given",
                expected="labels y, one per example",
            )
        c: Tensor = self.condition(y)
        return c

    # Images to latents

    def encode(self, x: Tensor, y: Tensor | None = None) -> Any:  # any Distribution; the posterior determines which
        """Return q(z|x) for images ``(B, C, H, W)``; a diagonal Gaussian can be unpacked: ``mu, logvar = vae.encode(x)``.

        Args:
            x: The images.
            y: Their labels, ``(B,)``, which conditional models need.

        Raises:
            UsageError: The images have an unexpected shape or are not floating-point, or labels are missing.
        """
        return self.posterior_of(x, self.condition_on(y))

    def posterior_of(self, x: Tensor, c: Tensor | None = None) -> Any:
        """Return q(z|x, c) for images and, if the model is conditional, their vectors c, ``(B, E)``."""
        return self.posterior(self.params_of(x, c), self)

    def params_of(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Return the posterior's parameters, ``(B, *posterior.param_shape)``: the output of the encoder for images."""
        if x.shape[1:] != self.data_shape or not x.is_floating_point():
            raise UsageError(
                "the model cannot encode these images",
                given=f"{x.dtype} of shape {tuple(x.shape)}",
                expected=f"floating-point values of shape (B, {', '.join(map(str, self.data_shape))})",
            )
        params = self._in_chunks(self.encoder, appended(self.likelihood.encoder_input(x), c))
        return params if len(self.latent_shape) == 1 else params.reshape(-1, *self.posterior.param_shape)

    def _in_chunks(self, network: nn.Module, inputs: Tensor) -> Tensor:
        outputs: Tensor
        if self.chunk is None or len(inputs) <= self.chunk:
            outputs = network(inputs)
        else:
            outputs = torch.cat([network(part) for part in inputs.split(self.chunk)])
        return outputs

    def reparameterize(
        self, mu: Tensor, logvar: Tensor, noise: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return ``z = mu + exp(logvar / 2) * noise``, with standard normal noise ``(*S, B, D)``; default: new noise."""
        if noise is None:
            noise = torch.randn(mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
        return DiagonalGaussian(mu, logvar).rsample(noise)

    def encode_to_latent(
        self,
        x: Tensor,
        noise: Tensor | None = None,
        *,
        y: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return one sample z ~ q(z|x) for each image, ``(B, D)``; for the mean, use ``vae.encode(x).mean``."""
        if noise is None:
            noise = self.posterior.draw_noise(x.shape[0], generator, like=x)
        q: Distribution = self.encode(x, y)
        return q.rsample(noise)

    # Latents to images

    def likelihood_of(self, z: Tensor, c: Tensor | None = None) -> Density:
        """Return p(x|z, c) for latent vectors ``(*S, B, D)`` and, if the model is conditional, vectors c, ``(B, E)``.

        Raises:
            UsageError: The batch dimension is missing, or the last dimension is not the latent size.
        """
        if z.shape[-1] != self.latent_dim or z.ndim < 2:
            raise UsageError(
                "the model cannot decode these latent vectors",
                given=f"shape {tuple(z.shape)}",
                expected=f"shape (B, {self.latent_dim})",
            )
        codes = self.posterior.decoder_input(z).flatten(0, -2)
        codes = codes if len(self.latent_shape) == 1 else codes.unflatten(-1, self.latent_shape)
        c = c if c is None or z.ndim == 2 else c.expand(*z.shape[:-1], -1).flatten(0, -2)
        params = self._in_chunks(self.decoder, appended(codes, c))
        params = params if z.ndim == 2 else params.unflatten(0, z.shape[:-1])
        p: Density = self.likelihood(params)
        return Observed(cast("FactorisedDensity", p), len(self.data_shape)) if self.missing else p

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the means of p(x|z), ``(*S, B, C, H, W)``, for latent vectors ``(*S, B, D)``.

        Args:
            z: The latent vectors.
            y: Labels, ``(B,)``, which conditional models need.
        """
        return self.likelihood_of(z, self.condition_on(y)).mean

    def nearest(self, z: Tensor) -> Tensor:
        """Return the valid codes nearest to vectors ``(…, D)``, for example if codes are discrete or on a sphere."""
        z, prior = self.posterior.nearest(z), self.prior(self, self.condition_on(self.classes_in_turn(1)))
        return prior.project(z) if isinstance(prior, Curved) else z

    def to_unit(self, images: Tensor) -> Tensor:
        """Map images from the data's range to [0, 1] for display; values outside are clipped."""
        low, high = self.value_range
        return ((images - low) / (high - low)).clamp(0, 1)

    def from_unit(self, images: Tensor) -> Tensor:
        """Map images from [0, 1] to the data's range."""
        low, high = self.value_range
        return low + (high - low) * images

    # Both

    def forward(
        self,
        x: Tensor | None,
        noise: Tensor | None = None,
        *,
        params: Tensor | None = None,
        target: Tensor | None = None,
        y: Tensor | None = None,
        num_data: int | None = None,
        epoch: Tensor | None = None,
        generator: torch.Generator | None = None,
        draws: Mapping[str, Tensor] | None = None,
        gather: Callable[[Tensor, int], Tensor] | None = None,
        decode: bool = True,
    ) -> Trace:
        """Encode, sample and decode; return the trace, the input of losses and pictures.

        Args:
            x: The images to encode, ``(B, C, H, W)``; None if ``params`` are given and the trace needs no images.
            noise: The base noise of the posterior samples, ``(*S, B, D)``; default: new noise for one sample per image.
            params: The posterior's parameters, as `params_of` returns them; default: computed from ``x``.
            target: The images that the likelihood scores; default: ``x``.
            y: Labels, ``(B,)``, which conditional models need; stored in the trace.
            num_data: The size of the dataset, stored in the trace.
            epoch: The time for schedules, stored in the trace.
            generator: The source of randomness for new noise.
            draws: The noise of losses by kind, each ``(B, ...)``, stored in the trace.
            gather: A function that concatenates the parts of a tensor from all processes along the batch dimension, for
                ``trace.whole``.
            decode: Whether to decode immediately, or only on first access of the likelihood.
        """
        absent: Any = Elsewhere()
        if params is None:
            assert x is not None
            params = self.params_of(x, self.condition_on(y))
        if noise is None:
            noise = self.posterior.draw_noise(len(params), generator, like=params if x is None else x)
        target = x if target is None else target
        target = absent if target is None else target
        draws, q = draws or {}, self.posterior(params, self)
        trace = self.trace_from(q, noise, target, y=y, num_data=num_data, epoch=epoch, draws=draws, decode=decode)
        if gather is not None:
            y = None if y is None else gather(y, 0)
            site = self._site(self.posterior(gather(params, 0), self), gather(noise, -2), self.condition_on(y))
            draws = {kind: gather(draw, 0) for kind, draw in draws.items()}
            own = None if type(self.likelihood).statistics is Likelihood.statistics else trace.statistics
            learned = None if own is None else gather(own.detach(), 0)
            trace.whole = Trace(absent, (site,), absent, y, num_data, epoch, self, draws=draws, _statistics=learned)
        return trace

    def trace_from(
        self,
        q: Distribution,
        noise: Tensor,
        x: Tensor,
        *,
        y: Tensor | None = None,
        num_data: int | None = None,
        epoch: Tensor | None = None,
        draws: Mapping[str, Tensor] | None = None,
        decode: bool = True,
    ) -> Trace:
        """Sample and decode; return the trace: the second half of `forward`, for many samples of already encoded images.

        Args:
            q: The posterior q(z|x), from `encode`.
            noise: The base noise, ``(*S, B, D)``.
            x: The images that the likelihood scores, ``(B, C, H, W)``.
            y: Labels, ``(B,)``, which conditional models need; stored in the trace.
            num_data: The size of the dataset, stored in the trace.
            epoch: The time for schedules, stored in the trace.
            draws: The noise of losses by kind, each ``(B, ...)``, stored in the trace.
            decode: Whether to decode immediately, or only on first access of the likelihood.
        """
        c = self.condition_on(y)
        site = self._site(q, noise, c)
        p = self.likelihood_of(site.z, c) if decode else None
        return Trace(x, (site,), p, y=y, num_data=num_data, epoch=epoch, model=self, draws=draws or {})

    def _site(self, q: Distribution, noise: Tensor, c: Tensor | None) -> Site:
        return Site.drawn(q, noise, self.prior(self, c), has_density=knows_density_of_draws(self.posterior))

    @torch.no_grad()
    def sample(
        self,
        num: int = 1,
        *,
        y: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the decoded means of ``num`` prior samples, ``(num, C, H, W)``.

        Args:
            num: The number of images.
            y: Their labels, ``(num,)``, for conditional models; default: every class in turn.
            temperature: A factor for the prior's base noise; values below 1 give more typical, less varied samples.
            generator: The source of randomness, on the model's device.
        """
        y = self.classes_in_turn(num) if y is None else y
        return self.decode(self.sample_latent(num, y=y, temperature=temperature, generator=generator), y)

    @torch.no_grad()
    def sample_latent(
        self,
        num: int = 1,
        *,
        y: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw ``num`` latent vectors from the prior, ``(num, D)``; arguments as in `sample`."""
        noise = self.prior.draw_noise(num, generator, like=next(self.parameters()), temperature=temperature)
        c = self.condition_on(self.classes_in_turn(num) if y is None else y)
        z: Tensor = self.prior(self, c).rsample(noise)
        return z

    def classes_in_turn(self, num: int) -> Tensor | None:
        """Return labels 0, 1, 2, …, cycling through the classes, ``(num,)``; None if the model is unconditional."""
        if self.condition.size == 0:
            return None
        return torch.arange(num, device=self.device) % self.condition.num_classes

    @torch.no_grad()
    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the images decoded from the posterior means, ``(B, C, H, W)``; conditional models need labels ``(B,)``."""
        return self.decode(self.encode(x, y).mean, y)


def widened(shape: Shape, more: int) -> Shape:
    """Return a shape whose first dimension is larger by ``more``."""
    return (shape[0] + more, *shape[1:])


def appended(x: Tensor, c: Tensor | None) -> Tensor:
    """Append vectors c ``(N, E)`` to tensors ``(N, C, ...)``, as E additional channels that are constant over positions.

    With P positions, they are divided by the square root of P, so that the appended values have the norm of c: otherwise, they
    would dominate the input of a fully connected layer. On digits, this cost the default model 5.6 nats of its ELBO.
    """
    if c is None:
        return x
    positions = x.shape[2:]
    channels = c.to(x.dtype).view(*c.shape, *(1 for _ in positions)).expand(*c.shape, *positions)
    return torch.cat([x, channels / math.sqrt(math.prod(positions))], 1)


def params_shape(posterior: Posterior, latent_shape: Shape) -> Shape:
    """Return the shape of the encoder's output, the posterior's parameters.

    For a grid, it is ``(K, C, *sides)``, with K parameters per latent.

    Raises:
        UsageError: The latents form a grid, but the posterior does not have a fixed number of parameters per latent.
    """
    if len(latent_shape) == 1:
        return posterior.param_shape
    *leading, last = posterior.param_shape
    if last != posterior.latent_dim:
        raise UsageError(
            f"the posterior {posterior.kind!r} does not support grids of latents",
            given=f"parameters of shape {posterior.param_shape}",
            expected=f"a last dimension of {posterior.latent_dim}, the number of latents",
        )
    return (math.prod(leading), *latent_shape)


def _shape_of(decoder: nn.Module, attribute: str, argument: str) -> Shape:
    shape = getattr(decoder, attribute, None)
    if not isinstance(shape, tuple):
        raise UsageError(
            f"{type(decoder).__name__} does not declare its {attribute}",
            expected=f"an attribute {attribute}, as set by vaekit.Backbone, or an explicit {argument}",
        )
    return shape
