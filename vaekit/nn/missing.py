"""Encoders for examples with missing values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaekit.interfaces import Backbone, Shape


class FillMissing(Backbone):
    """Wraps an encoder: missing values (NaN) are replaced by 0, optionally with a mask that is 1 for observed values.

    Args:
        encoder: The wrapped encoder; its input has ``channels`` more channels.
        in_shape: The shape of one input.
        out_shape: The shape of one output.
        channels: The number of leading channels whose mask is appended to the input along the channel dimension.

    Example:
        >>> encode = FillMissing(nn.Identity(), (3,), (6,), channels=3)
        >>> encode(torch.tensor([[1.5, torch.nan, 2.0]]))
        tensor([[1.5000, 0.0000, 2.0000, 1.0000, 0.0000, 1.0000]])
    """

    def __init__(self, encoder: nn.Module, in_shape: Shape, out_shape: Shape, *, channels: int) -> None:
        super().__init__(in_shape, out_shape)
        self.encoder, self.channels = encoder, channels

    def forward(self, x: Tensor) -> Tensor:
        missing = x.isnan()
        filled = torch.where(missing, 0.0, x)
        if self.channels:
            filled = torch.cat([filled, (~missing[:, : self.channels]).to(x.dtype)], 1)
        params: Tensor = self.encoder(filled)
        return params
