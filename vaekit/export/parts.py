"""The parts of a model that can be exported, each a deterministic function of tensors."""

from __future__ import annotations

from copy import copy
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vaekit.data.binarize import binarize
from vaekit.errors import ExportError
from vaekit.evaluation.scores import SCORES, error_map, numbers_of, score_of, trace_of_means
from vaekit.interfaces import Shape
from vaekit.model.vae import appended
from vaekit.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vaekit.data.pixels import Array
    from vaekit.evaluation.detection import Threshold
    from vaekit.export.trained import Trained
    from vaekit.model.vae import VAE

PartName = Literal["decoder", "encoder", "autoencoder", "scorer"]
NUM_EXAMPLES = 64
"""The number of inputs on which a part is compared."""
CLEAR = 1e-3
"""The distance of an example's score from the threshold, relative to the score, beyond which rounding does not matter."""
MISSING = 0.25
"""The share of missing values in the example inputs of an encoder that allows them."""


class Decoder(nn.Module):
    """Maps latents and, if the model is conditional, labels to mean images ``(B, C, H, W)``, clipped to the data's range."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.decoder, self.likelihood, self.condition = vae.decoder, vae.likelihood, vae.condition
        self.decoder_input = vae.posterior.decoder_input  # a method, so that the posterior's weights are not exported
        self.limits = None if vae.likelihood.support == "unit" else vae.value_range

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        c = None if label is None else self.condition(label)
        image: Tensor = self.likelihood(self.decoder(appended(self.decoder_input(latent), c))).mean
        return image if self.limits is None else image.clamp(*self.limits)


class Encoder(nn.Module):
    """Maps images ``(B, C, H, W)`` to the mean of q(z|x) and its log-variance, if it has one; conditional models need labels."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = copy(vae)
        self.vae._modules = {**vae._modules, "decoder": None}  # it is not exported

    def forward(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        found = moments(self.vae.encode(image, label))
        return tuple(each.unflatten(-1, self.vae.latent_shape) for each in found)


def moments(q: Any) -> tuple[Tensor, ...]:
    """Return the mean of a posterior and its log-variance, if it has one."""
    return (q.mean, q.logvar) if hasattr(q, "logvar") else (q.mean,)


class Autoencoder(nn.Module):
    """Maps images to the images decoded from their posterior means, clipped to the data's range."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.to_latent, self.to_image = Encoder(vae), Decoder(vae)

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        reconstruction: Tensor = self.to_image(self.to_latent(image, label)[0], label)
        return reconstruction


class Scorer(nn.Module):
    """Maps images to their scores ``(B,)``, maps of errors, whether they are anomalous, and scores in [0, 1].

    The code is the mean of q(z|x), so the scores are those of `vaekit.Run.score` with ``deterministic=True``.

    Args:
        vae: The model.
        threshold: The threshold, and the score to which it applies.
        binarize: Whether grey pixels are compared with 1/2 first.
    """

    def __init__(self, vae: VAE, threshold: Threshold, *, binarize: bool) -> None:
        super().__init__()
        self.vae, self.threshold, self.binarize = vae, threshold, binarize

    def forward(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, ...]:
        image = binarize(image, None) if self.binarize else image
        trace = trace_of_means(self.vae, image, label)
        error = error_map(image, trace.reconstruction)
        numbers = numbers_of(trace) | {"squared_error": error.flatten(1).sum(1)}
        score = score_of(self.threshold.score, numbers)
        return score, error, score > self.threshold.value, self.threshold.normalised(score)


@dataclass(frozen=True)
class Port:
    """A named input or output, with the shape and type of one example."""

    name: str
    shape: Shape
    type: Literal["float32", "int64", "bool"] = "float32"


@dataclass(frozen=True)
class Part:
    """A part of a model, ready to be exported.

    Args:
        name: The name of the part.
        module: The function, in eval mode.
        inputs: Its inputs.
        outputs: Its outputs.
        reference: Computes the same by the model's own methods.
        examples: A batch of each input for comparison, alternating between prior and posterior.
        about: Further information for applications, as plain data for the metadata.
        units: The unit of each output, relative to which it is compared; 1 where there is none.
    """

    name: PartName
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    reference: Callable[..., Tensor | tuple[Tensor, ...]]
    examples: tuple[Tensor, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    units: tuple[float, ...] = ()

    def expected(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of the reference for a batch."""
        with torch.no_grad():
            result = self.reference(*inputs)
        return [result] if isinstance(result, Tensor) else list(result)


def part_of(trained: Trained, name: PartName) -> Part:
    """Return a part of a trained model.

    Raises:
        ExportError: The part fails, or its outputs have the wrong shape or are not finite.
    """
    vae, half = trained.vae, NUM_EXAMPLES // 2
    latent = Port("latent", vae.latent_shape)
    image = Port("image", vae.data_shape)
    codes = torch.stack([trained.prior_codes(half), trained.posterior_codes(half)], 1).view(-1, *vae.latent_shape)
    labels = vae.classes_in_turn(NUM_EXAMPLES)
    more = () if labels is None else (labels,)
    ports = () if labels is None else (Port("label", (), "int64"),)

    def decode(z: Tensor, y: Tensor | None = None) -> Tensor:
        return vae.decode(z.reshape(len(z), -1), y).clamp(*vae.value_range)

    def reconstruct(x: Tensor, y: Tensor | None = None) -> Tensor:
        return vae.reconstruct(x, y).clamp(*vae.value_range)

    def encode(x: Tensor, y: Tensor | None = None) -> tuple[Tensor, ...]:
        return tuple(each.reshape(-1, *vae.latent_shape) for each in moments(vae.encode(x, y)))

    decoder = Part("decoder", Decoder(vae).eval(), (latent, *ports), (image,), decode, (codes, *more))
    _check(decoder)
    if name == "decoder":
        return decoder
    [decoded] = decoder.expected(decoder.examples)
    images = decoded.clone()
    images[1::2] = vae.from_unit(torch.rand(images[1::2].shape, generator=Streams(0).generator("export/images")))
    if vae.missing:
        images[torch.rand(images.shape, generator=Streams(0).generator("export/missing")) < MISSING] = torch.nan
    if name == "autoencoder":
        outputs: tuple[Port, ...] = (Port("reconstruction", vae.data_shape),)
        part = Part(name, Autoencoder(vae).eval(), (image, *ports), outputs, reconstruct, (images, *more))
    elif name == "scorer":
        part = _scorer(trained, (image, *ports), (images, *more))
    else:
        encoder = Encoder(vae).eval()
        with torch.no_grad():
            num_outputs = len(encoder(*(each[:2] for each in (images, *more))))
        outputs = tuple(Port(each, latent.shape) for each in ("mean", "log_variance")[:num_outputs])
        part = Part(name, encoder, (image, *ports), outputs, encode, (images, *more))
    _check(part)
    return part


def _scorer(trained: Trained, inputs: tuple[Port, ...], examples: tuple[Tensor, ...]) -> Part:
    """Return the scorer of a trained model.

    Raises:
        ExportError: The model has no threshold that a scorer can apply.
    """
    threshold, vae = trained.threshold, trained.vae
    remedy = "choose one: vaekit score RUN --deterministic --quantile 0.95"
    if threshold is None:
        raise ExportError("a scorer needs a threshold, and none is stored with the run", remedy=remedy)
    known = {"elbo", "reconstruction", "kl", "squared_error"}
    if not threshold.deterministic or threshold.score not in known:
        raise ExportError(
            "a scorer does not sample and sees only the image, so it cannot apply the threshold of the run",
            given=f"{threshold.score}{', deterministic' if threshold.deterministic else ', from samples'}",
            expected=f"a deterministic score: {', '.join(sorted(known))}",
            remedy=remedy,
        )
    scorer = Scorer(vae, threshold, binarize=trained.spec.data.binarize == "threshold").eval()
    positions = vae.data_shape if len(vae.data_shape) == 1 else vae.data_shape[1:]
    outputs = Port("score", ()), Port("map", positions), Port("is_anomaly", (), "bool"), Port("normalised_score", ())
    with torch.no_grad():
        scores = scorer(*examples)[0]
    clear = (scores - threshold.value).abs() > CLEAR * scores.abs().clamp(min=1)
    if clear.any():  # examples so close to the threshold that rounding decides cannot be compared
        chosen = clear.nonzero().squeeze(1)
        examples = tuple(each[chosen[torch.arange(NUM_EXAMPLES) % len(chosen)]] for each in examples)
    about = {
        **{key: value for key, value in asdict(threshold).items() if key not in {"samples", "background"}},
        "meaning": SCORES[threshold.score].meaning,
        "map": "squared error of each position, summed over channels",
        "is_anomaly": "score > value",
        "normalised_score": "(score - value) / (high - low) + 1/2, clipped to [0, 1]",
    }
    units = scorer_units(scores.numpy(), about)
    return Part("scorer", scorer, inputs, outputs, scorer, examples, {"threshold": about}, units)


def scorer_units(scores: Array, threshold: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the units of a scorer's outputs: rounding errors of scores are larger in normalised ones that span a small range."""
    span = threshold["high"] - threshold["low"] or 1.0
    return 1.0, 1.0, 1.0, max(1.0, float(abs(scores).max()) / span)


def _check(part: Part) -> None:
    for num in (1, 2):
        inputs = [each[:num] for each in part.examples]
        try:
            outputs = part.expected(inputs)
        except Exception as error:
            raise ExportError(
                f"the {part.name} fails on {num} example{'s' * (num > 1)}: {type(error).__name__}: {error}",
                given=f"inputs of shape {', '.join(str(tuple(each.shape)) for each in inputs)}",
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
