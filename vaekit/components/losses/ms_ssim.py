"""Multiscale structural similarity as the reconstruction term."""

from __future__ import annotations

from contextlib import nullcontext
from typing import ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from vaekit.errors import UsageError
from vaekit.interfaces import Loss, Shape, Slot
from vaekit.nn.heads import at_least
from vaekit.nn.ssim import WINDOW, similarities, width_of, windows
from vaekit.roles import losses
from vaekit.trace import Trace

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""The weight of each scale, from the finest."""
LEAST = 1e-3
"""Lower bound of the similarity at a scale: below it, powers have exploding gradients, or are undefined."""


@losses("ms_ssim")
class MSSSIM(Loss):
    """``w (1 - MS-SSIM(x, mean))``: compares structure at several scales instead of pixels; replaces -log p(x|z).

    It uses up to five scales, as long as the images keep at least 11 pixels: two for 28×28, three for 64×64, five from 176×176;
    the paper's weights are rescaled to sum to 1. The likelihood's scale has no effect, so the weight sets the balance with the
    KL. The reported ELBO is that of the likelihood. Pixels are rescaled to [0, 1]; missing ones count as reconstructed.

    Args:
        weight: Weight w, in nats.

    References:
        Wang et al. (2003), "Multiscale Structural Similarity for Image Quality Assessment", Asilomar Conference on Signals,
            Systems and Computers, equation 7.
        Snell et al. (2017), "Learning to Generate Images with Perceptual Similarity Metrics", ICIP, arXiv:1511.06409.
    """

    covers: ClassVar[frozenset[Slot]] = frozenset({"reconstruction"})
    weight: Tensor
    exponents: Tensor

    def __init__(self, data_shape: Shape, *, weight: PositiveFloat = 100.0) -> None:
        super().__init__()
        if len(data_shape) != 3:
            raise UsageError(
                "structural similarity is defined for images", given=f"loss ms_ssim, data of {data_shape}", expected="(C, H, W)"
            )
        side = min(data_shape[1:])
        num = next((num for num in (5, 4, 3, 2) if side >> (num - 1) >= WINDOW), 1)
        exponents = torch.tensor(WEIGHTS[:num])
        self.register_buffer("weight", torch.tensor(weight), persistent=False)
        self.register_buffer("exponents", exponents / exponents.sum(), persistent=False)
        for scale in range(num):
            for axis, length in zip("hw", data_shape[1:], strict=True):
                self.register_buffer(f"window_{axis}{scale}", windows(length >> scale, width_of(side >> scale)), persistent=False)

    def forward(self, trace: Trace) -> Tensor:
        low, high = (0.0, 1.0) if trace.model is None else trace.model.value_range
        mean, x = trace.reconstruction, trace.x
        mean, x = ((each - low) / (high - low) for each in (mean, torch.where(x.isnan(), mean, x)))
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            return self.weight * (1 - self.similarity(x, mean))

    def similarity(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the MS-SSIM of images ``(B, C, H, W)`` in [0, 1], ``(B,)``; it is averaged over positions at each scale."""
        found = []
        for scale in range(len(self.exponents)):
            if scale:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            rows, columns = (self.get_buffer(f"window_{axis}{scale}") for axis in "hw")
            luminance, structure = similarities(x, y, rows, columns)
            each = luminance * structure if scale == len(self.exponents) - 1 else structure
            found.append(at_least(each.flatten(1).mean(1), LEAST))
        return torch.exp((torch.log(torch.stack(found, -1)) * self.exponents).sum(-1))
