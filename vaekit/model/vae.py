"""The VAE: an encoder and a decoder, with a posterior, a prior and a likelihood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from vaekit.data.pixels import UNIT, Range
from vaekit.distributions import Density, DiagonalGaussian, Distribution, FactorisedDensity, Observed
from vaekit.errors import UsageError
from vaekit.interfaces import Capability, Likelihood, Posterior, Prior, Shape
from vaekit.roles import likelihoods, posteriors, priors
from vaekit.trace import Elsewhere, Site, Trace


class VAE(nn.Module):
    """A variational autoencoder assembled from parts.

    ``x -> encoder -> posterior q(z|x) -> z -> decoder -> likelihood p(x|z)``, with a prior p(z). Images are ``(B, C, H, W)``, by
    default in [0, 1], latent vectors ``(B, D)``; tables, signals and volumes take the place of images in their own shapes. Any
    module that maps tensors to tensors can be the encoder or the decoder.

    Args:
        encoder: Maps ``(B, C, H, W)`` to ``(B, *posterior.param_shape)``.
        decoder: Maps ``(B, D)`` to ``(B, *likelihood.param_shape)``.
        posterior: The posterior; default: a diagonal Gaussian with the decoder's latent size.
        prior: The prior; default: a standard normal.
        likelihood: The likelihood; default: Bernoulli pixels (``bce``) with the decoder's output shape.
        value_range: The lowest and highest pixel values of the data, which pictures show as black and white.
        missing: Whether NaN in the data is a missing number, which the likelihood leaves out; the encoder must accept it.

    Raises:
        UsageError: The parts do not fit together, or a default needs a shape that the decoder does not declare.

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
        value_range: Range = UNIT,
        missing: bool = False,
    ) -> None:
        super().__init__()
        if posterior is None:
            (latent_dim,) = _shape_of(decoder, "in_shape", "posterior=")
            posterior = posteriors.get("gaussian")(latent_dim)
        if likelihood is None:
            likelihood = likelihoods.get("bce")(_shape_of(decoder, "out_shape", "likelihood="))
        if prior is None:
            prior = priors.get("normal")(posterior.latent_dim)
        for name, module, attribute, expected in (
            ("encoder", encoder, "in_shape", likelihood.data_shape),
            ("encoder", encoder, "out_shape", posterior.param_shape),
            ("decoder", decoder, "in_shape", (posterior.latent_dim,)),
            ("decoder", decoder, "out_shape", likelihood.param_shape),
            ("prior", prior, "latent_dim", posterior.latent_dim),
        ):
            given = getattr(module, attribute, expected)
            if given != expected:
                raise UsageError(f"the {name}'s {attribute} does not match the other parts", given=given, expected=expected)
        self.encoder, self.decoder, self.value_range = encoder, decoder, value_range
        self.posterior, self.prior, self.likelihood = posterior, prior, likelihood
        self.missing = missing
        self.chunk: int | None = None
        """The number of examples that the networks process at once, for large batches in evaluation; None for whole batches."""

    @property
    def latent_dim(self) -> int:
        """The number of latent dimensions D."""
        return self.posterior.latent_dim

    @property
    def data_shape(self) -> Shape:
        """The shape of an image, ``(C, H, W)``."""
        return self.likelihood.data_shape

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    # Images to latents

    def encode(self, x: Tensor) -> Any:  # any Distribution: the posterior determines what it unpacks into
        """Return q(z|x) for images ``(B, C, H, W)``; a diagonal Gaussian can be unpacked: ``mu, logvar = vae.encode(x)``.

        Raises:
            UsageError: The images do not have the shape that the model expects, or are not floating-point.
        """
        return self.posterior(self._params_of(x))

    def _params_of(self, x: Tensor) -> Tensor:
        """Return the posterior's parameters, the output of the encoder for images."""
        if x.shape[1:] != self.data_shape or not x.is_floating_point():
            raise UsageError(
                "the model cannot encode these images",
                given=f"{x.dtype} of shape {tuple(x.shape)}",
                expected=f"floating-point values of shape (B, {', '.join(map(str, self.data_shape))})",
            )
        return self._in_chunks(self.encoder, x)

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
        """Return ``z = mu + exp(logvar / 2) * noise``, with standard normal noise ``(*S, B, D)``; default: newly drawn."""
        if noise is None:
            noise = torch.randn(mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
        return DiagonalGaussian(mu, logvar).rsample(noise)

    def encode_to_latent(self, x: Tensor, noise: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """Return one sample z ~ q(z|x) for each image, ``(B, D)``; for the mean, use ``vae.encode(x).mean``."""
        if noise is None:
            noise = self.posterior.draw_noise(x.shape[0], generator, like=x)
        q: Distribution = self.encode(x)
        return q.rsample(noise)

    # Latents to images

    def likelihood_of(self, z: Tensor) -> Density:
        """Return p(x|z) for latent vectors ``(*S, B, D)``.

        Raises:
            UsageError: There is no batch dimension, or the last dimension is not the latent size.
        """
        if z.shape[-1] != self.latent_dim or z.ndim < 2:
            raise UsageError(
                "the model cannot decode these latent vectors",
                given=f"shape {tuple(z.shape)}",
                expected=f"shape (B, {self.latent_dim})",
            )
        params = self._in_chunks(self.decoder, z.flatten(0, -2))
        params = params if z.ndim == 2 else params.unflatten(0, z.shape[:-1])
        p: Density = self.likelihood(params)
        return Observed(cast("FactorisedDensity", p), len(self.data_shape)) if self.missing else p

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean images of p(x|z), ``(*S, B, C, H, W)``, for latent vectors ``(*S, B, D)``."""
        return self.likelihood_of(z).mean

    def to_unit(self, images: Tensor) -> Tensor:
        """Map images from the data's range to [0, 1], to be shown; values outside it are clipped."""
        low, high = self.value_range
        return ((images - low) / (high - low)).clamp(0, 1)

    def from_unit(self, images: Tensor) -> Tensor:
        """Map images from [0, 1] to the data's range."""
        low, high = self.value_range
        return low + (high - low) * images

    # Both

    def forward(
        self,
        x: Tensor,
        noise: Tensor | None = None,
        *,
        target: Tensor | None = None,
        y: Tensor | None = None,
        num_data: int | None = None,
        epoch: Tensor | None = None,
        generator: torch.Generator | None = None,
        gather: Callable[[Tensor, int], Tensor] | None = None,
    ) -> Trace:
        """Encode, sample and decode; return the trace, from which losses and pictures are computed.

        Args:
            x: The images to encode, ``(B, C, H, W)``.
            noise: The base noise of the posterior's samples, ``(*S, B, D)``; default: newly drawn, for one sample per image.
            target: The images that the likelihood scores; default: ``x``.
            y: Labels, ``(B,)``, stored in the trace.
            num_data: The size of the dataset, stored in the trace.
            epoch: The time for schedules, stored in the trace.
            generator: The source of the noise if it is drawn.
            gather: A function that joins the parts of a tensor from all processes along the batch dimension, for ``trace.whole``.
        """
        if noise is None:
            noise = self.posterior.draw_noise(x.shape[0], generator, like=x)
        params = self._params_of(x)
        target = x if target is None else target
        trace = self.trace_from(self.posterior(params), noise, target, y=y, num_data=num_data, epoch=epoch)
        if gather is not None:
            sites = (self._site(self.posterior(gather(params, 0)), gather(noise, -2)),)
            absent: Any = Elsewhere()
            trace.whole = Trace(absent, sites, absent, None if y is None else gather(y, 0), num_data, epoch, self)
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
    ) -> Trace:
        """Sample and decode; return the trace. This is the second half of `forward`, for many samples of images encoded once.

        Args:
            q: The posterior q(z|x), from `encode`.
            noise: The base noise, ``(*S, B, D)``.
            x: The images that the likelihood scores, ``(B, C, H, W)``.
            y: Labels, ``(B,)``, stored in the trace.
            num_data: The size of the dataset, stored in the trace.
            epoch: The time for schedules, stored in the trace.
        """
        site = self._site(q, noise)
        return Trace(x=x, sites=(site,), likelihood=self.likelihood_of(site.z), y=y, num_data=num_data, epoch=epoch, model=self)

    def _site(self, q: Distribution, noise: Tensor) -> Site:
        return Site(z=q.rsample(noise), q=q, p=self.prior(), has_density=Capability.LOG_PROB in self.posterior.provides)

    @torch.no_grad()
    def sample(self, num: int = 1, *, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Return the mean images of ``num`` draws from the prior, ``(num, C, H, W)``.

        Args:
            num: The number of images.
            temperature: A factor on the prior's base noise; below 1, draws are more typical and less varied.
            generator: The source of randomness, on the model's device.
        """
        like = next(self.parameters())
        return self.decode(self.prior.sample(num, generator, like=like, temperature=temperature))

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the images decoded from the posterior means, ``(B, C, H, W)``."""
        return self.decode(self.encode(x).mean)


def _shape_of(decoder: nn.Module, attribute: str, argument: str) -> Shape:
    shape = getattr(decoder, attribute, None)
    if not isinstance(shape, tuple):
        raise UsageError(
            f"{type(decoder).__name__} does not declare its {attribute}",
            expected=f"an attribute {attribute}, as set by vaekit.Backbone, or an explicit {argument}",
        )
    return shape
