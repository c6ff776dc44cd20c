"""The parts of a model that can be exported, each a deterministic function of one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vaekit.errors import ExportError
from vaekit.interfaces import Shape
from vaekit.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaekit.export.trained import Trained
    from vaekit.interfaces import Posterior
    from vaekit.model.vae import VAE

PartName = Literal["decoder", "encoder", "autoencoder"]
NUM_EXAMPLES = 64
"""The number of inputs on which a part is compared."""
MISSING = 0.25
"""The share of numbers that are missing from the inputs of an encoder for which numbers may be."""


class Decoder(nn.Module):
    """Maps latent vectors ``(B, D)`` to mean images ``(B, C, H, W)``, clipped to the data's range."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.decoder, self.likelihood = vae.decoder, vae.likelihood
        self.limits = None if vae.likelihood.support == "unit" else vae.value_range

    def forward(self, latent: Tensor) -> Tensor:
        image: Tensor = self.likelihood(self.decoder(latent)).mean
        return image if self.limits is None else image.clamp(*self.limits)


class Encoder(nn.Module):
    """Maps images ``(B, C, H, W)`` to the mean of q(z|x) and its log-variance, if it has one, each ``(B, D)``."""

    def __init__(self, encoder: nn.Module, posterior: Posterior) -> None:
        super().__init__()
        self.encoder, self.posterior = encoder, posterior

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return moments(self.posterior(self.encoder(image)))


def moments(q: Any) -> tuple[Tensor, ...]:
    """Return the mean of a posterior and its log-variance, if it has one."""
    return (q.mean, q.logvar) if hasattr(q, "logvar") else (q.mean,)


class Autoencoder(nn.Module):
    """Maps images to the images decoded from their posterior means, clipped to the data's range."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.to_latent = Encoder(vae.encoder, vae.posterior)
        self.to_image = Decoder(vae)

    def forward(self, image: Tensor) -> Tensor:
        reconstruction: Tensor = self.to_image(self.to_latent(image)[0])
        return reconstruction


@dataclass(frozen=True)
class Port:
    """A named input or output, with the shape of one example."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Part:
    """A part of a model, ready to be exported.

    Args:
        name: The name of the part.
        module: The function, in eval mode.
        input: Its input.
        outputs: Its outputs.
        reference: Computes the same by the model's own methods.
        examples: Inputs for comparison, alternating between prior and posterior.
    """

    name: PartName
    module: nn.Module
    input: Port
    outputs: tuple[Port, ...]
    reference: Callable[[Tensor], Tensor | tuple[Tensor, ...]]
    examples: Tensor

    def expected(self, inputs: Tensor) -> list[Tensor]:
        """Return the outputs of the reference for a batch."""
        with torch.no_grad():
            result = self.reference(inputs)
        return [result] if isinstance(result, Tensor) else list(result)


def part_of(trained: Trained, name: PartName) -> Part:
    """Return a part of a trained model.

    Raises:
        ExportError: The part fails, or its outputs have the wrong shape or are not finite.
    """
    vae, half = trained.vae, NUM_EXAMPLES // 2
    latent = Port("latent", (vae.latent_dim,))
    image = Port("image", vae.data_shape)
    codes = torch.stack([trained.prior_codes(half), trained.posterior_codes(half)], 1).flatten(0, 1)

    def decode(z: Tensor) -> Tensor:
        return vae.decode(z).clamp(*vae.value_range)

    def reconstruct(x: Tensor) -> Tensor:
        return vae.reconstruct(x).clamp(*vae.value_range)

    def encode(x: Tensor) -> tuple[Tensor, ...]:
        return moments(vae.encode(x))

    decoder = Part("decoder", Decoder(vae).eval(), latent, (image,), decode, codes)
    _check(decoder)
    if name == "decoder":
        return decoder
    [decoded] = decoder.expected(codes)
    images = decoded.clone()
    images[1::2] = vae.from_unit(torch.rand(images[1::2].shape, generator=Streams(0).generator("export/images")))
    if vae.missing:
        images[torch.rand(images.shape, generator=Streams(0).generator("export/missing")) < MISSING] = torch.nan
    if name == "autoencoder":
        outputs: tuple[Port, ...] = (Port("reconstruction", vae.data_shape),)
        part = Part(name, Autoencoder(vae).eval(), image, outputs, reconstruct, images)
    else:
        encoder = Encoder(vae.encoder, vae.posterior).eval()
        with torch.no_grad():
            num_outputs = len(encode(images[:2]))
        outputs = tuple(Port(each, latent.shape) for each in ("mean", "log_variance")[:num_outputs])
        part = Part(name, encoder, image, outputs, encode, images)
    _check(part)
    return part


def _check(part: Part) -> None:
    for num in (1, 2):
        inputs = part.examples[:num]
        try:
            outputs = part.expected(inputs)
        except Exception as error:
            raise ExportError(
                f"the {part.name} fails on {num} example{'s' * (num > 1)}: {type(error).__name__}: {error}",
                given=f"inputs of shape {tuple(inputs.shape)}",
            ) from error
        for port, output in zip(part.outputs, outputs, strict=True):
            if tuple(output.shape) != (num, *port.shape):
                raise ExportError(
                    f"the {part.name} returns a shape other than the declared one",
                    given=f"{port.name} of shape {tuple(output.shape)} for {num} example{'s' * (num > 1)}",
                    expected=f"({num}, {', '.join(map(str, port.shape))})",
                    remedy="correct the component or its out_shape",
                )
            if not output.isfinite().all():
                raise ExportError(f"the {part.name} returns NaN or infinite values", given=f"in {port.name}")
