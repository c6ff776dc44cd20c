"""Conditioning on the label."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaekit.interfaces import Condition
from vaekit.roles import conditions
from vaekit.schema import Count


@conditions("label")
class Label(Condition):
    """Condition on the label: the code need not encode the class, and the model generates images of any class.

    Args:
        embedding: Size of a learned class embedding; none for one-hot vectors.

    References:
        Kingma et al. (2014), "Semi-supervised Learning with Deep Generative Models", NeurIPS, arXiv:1406.5298, section 2 (M2).
        Sohn et al. (2015), "Learning Structured Output Representation using Deep Conditional Generative Models", NeurIPS.
    """

    def __init__(self, num_classes: int, *, embedding: Count | None = None) -> None:
        super().__init__(num_classes)
        self.vectors: Tensor
        if embedding is None:
            self.register_buffer("vectors", torch.eye(num_classes), persistent=False)
        else:
            self.vectors = nn.Parameter(torch.randn(num_classes, embedding))

    @property
    def size(self) -> int:
        return self.vectors.shape[1]

    def forward(self, y: Tensor) -> Tensor:
        return nn.functional.embedding(y, self.vectors)
