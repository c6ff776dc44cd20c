"""The similarity of images, reconstructions and samples in the features of a network trained to recognise photographs."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from vaekit.data.batches import Batch
from vaekit.errors import UsageError, VaekitError, reason_of
from vaekit.evaluation.distances import Statistics, frechet_distance, kernel_distance, statistics_of
from vaekit.files import cache_folder, write_atomically
from vaekit.model.vae import VAE
from vaekit.nn.features import FeatureDistance, FeatureNetwork, NetworkName, check_shape, sha256_of
from vaekit.streams import Streams

AT_ONCE = 64
"""The number of images that the feature network processes at once."""
KEYS = ("features", "lpips", "feature_distance", "rfid", "fid", "kid")
"""The fields of an evaluation that depend on the feature network."""


@dataclass(frozen=True)
class FeatureRequest:
    """The features by which images are compared.

    Args:
        network: The architecture; see `vaekit.nn.features.FeatureNetwork`.
        weights: The file of its weights.
        linear: The file of LPIPS's linear weights for it, with which the feature distance is LPIPS; default: none.
        num_samples: The number of samples from the prior; default: as many as images.
        size: The height and width to which images are resized for the Fréchet and kernel distances.

    Raises:
        UsageError: The network is unknown, or a number is too small.
    """

    network: NetworkName
    weights: str | Path
    linear: str | Path | None = None
    num_samples: int | None = None
    size: int = 224

    def __post_init__(self) -> None:
        if self.network not in (known := get_args(NetworkName)):
            raise UsageError("unknown feature network", given=self.network, expected=", ".join(known))
        if self.num_samples is not None and self.num_samples < 2:
            raise UsageError("a distribution needs two samples or more", given=f"num_samples {self.num_samples}")
        if self.size < 1:
            raise UsageError("images cannot be resized to no pixels", given=f"size {self.size}", expected="1 or more pixels")


@torch.no_grad()
def compare(
    request: FeatureRequest, vae: VAE, batches: Iterable[Batch], streams: Streams, *, data: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare images with their reconstructions, one by one and as sets, and with samples from the prior.

    Reconstructions are decoded from the means of q(z|x), and samples are mean images of p(x|z), cycling through the classes if
    the model is conditional. The Fréchet and kernel distances compare the last convolution's features, averaged over positions,
    of images resized with antialiasing. The statistics of the images are cached in vaekit's cache folder.

    Args:
        request: The features.
        vae: The model, in evaluation mode.
        batches: Evaluation batches of the images.
        streams: The random streams of the run, which seed the samples.
        data: Plain data that identify the images, including their number, ``num_images``.

    Returns:
        ``feature_distance``, or ``lpips`` with linear weights; ``rfid``; ``fid``; ``kid``; and ``features``, the protocol.

    Raises:
        DataError: A file is missing or unreadable, or of another network.
        UsageError: The network cannot take the images, or there are fewer than two.
    """
    num = data["num_images"]
    if num < 2:
        raise UsageError("a distribution needs two images or more", given=f"{num} in the split")
    side, network = request.size, FeatureNetwork(request.network, request.weights, vae.data_shape)
    check_shape(request.network, (vae.data_shape[0], side, side))
    distance = FeatureDistance(network, request.linear).to(vae.device).eval()
    digests = {"sha256": sha256_of(request.weights), "linear": None if request.linear is None else sha256_of(request.linear)}

    def vectors(images: Tensor) -> Tensor:
        resized = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        return network.pooled(resized).cpu()

    shown = {"network": request.network, "sha256": digests["sha256"], "size": side}
    file = cache_folder() / "features" / f"{_digest({**shown, **data})}.safetensors"
    cached = _read(file)
    distances: list[Tensor] = []
    real: list[Tensor] = []
    rebuilt: list[Tensor] = []
    for batch in batches:
        pairs = vae.to_unit(batch.x), vae.to_unit(vae.reconstruct(batch.inputs, batch.y))
        for x, mean in zip(*(images.split(AT_ONCE) for images in pairs), strict=True):
            distances.append(distance(x, mean).cpu())
            real += [vectors(x)] if cached is None else []
            rebuilt.append(vectors(mean))
    images = cached or statistics_of(torch.cat(real))
    if cached is None:
        _write(file, images)
    wanted = request.num_samples or num
    samples = statistics_of(torch.cat([vectors(part) for part in _samples(vae, wanted, streams)]))
    return {
        "features": {**shown, "linear_sha256": digests["linear"], "num_images": num, "num_samples": wanted},
        "feature_distance" if request.linear is None else "lpips": torch.cat(distances).double().mean().item(),
        "rfid": frechet_distance(images, statistics_of(torch.cat(rebuilt))),
        "fid": frechet_distance(images, samples),
        "kid": kernel_distance(images, samples),
    }


def _samples(vae: VAE, num: int, streams: Streams) -> Iterator[Tensor]:
    """Yield mean images of samples from the prior, in [0, 1]."""
    labels = vae.classes_in_turn(num)
    for start in range(0, num, AT_ONCE):
        size = min(AT_ONCE, num - start)
        y = None if labels is None else labels[start : start + size]
        generator = streams.generator("features/samples", start, vae.device)
        yield vae.to_unit(vae.sample(size, y=y, generator=generator))


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _read(file: Path) -> Statistics | None:
    """Return the statistics in a file of the cache; None if it is absent or damaged."""
    try:
        return Statistics(**load_file(file))
    except (OSError, SafetensorError, TypeError):
        return None


def _write(file: Path, statistics: Statistics) -> None:
    """Write statistics to the cache; warn if that is not possible."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda temporary: save_file(statistics._asdict(), temporary))
    except (OSError, VaekitError, SafetensorError) as error:
        warnings.warn(f"the features of the images could not be cached: {reason_of(error)}", stacklevel=2)
