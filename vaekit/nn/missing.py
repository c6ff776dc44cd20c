"""Encoders of examples in which numbers are missing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaekit.interfaces import Backbone, Shape


class FillMissing(Backbone):
    """An encoder that sees 0 where a number is missing (NaN), and with ``channel`` also a mask that is 1 where one is known.

    Args:
        encoder: The encoder of what is filled; with ``channel``, the first dimension of its inputs is twice that of the data.
        in_shape: The shape of an example.
        out_shape: The shape of one output.
        channel: Whether the mask is appended to the data, along their first dimension.

    Example:
        >>> encode = FillMissing(nn.Identity(), (3,), (6,), channel=True)
        >>> encode(torch.tensor([[1.5, torch.nan, 2.0]]))
        tensor([[1.5000, 0.0000, 2.0000, 1.0000, 0.0000, 1.0000]])
    """

    def __init__(self, encoder: nn.Module, in_shape: Shape, out_shape: Shape, *, channel: bool) -> None:
        super().__init__(in_shape, out_shape)
        self.encoder, self.channel = encoder, channel

    def forward(self, x: Tensor) -> Tensor:
        missing = x.isnan()
        filled = torch.where(missing, 0.0, x)
        if self.channel:
            filled = torch.cat([filled, (~missing).to(x.dtype)], 1)
        params: Tensor = self.encoder(filled)
        return params
