"""No condition."""

from __future__ import annotations

from torch import Tensor

from vaekit.interfaces import Condition
from vaekit.roles import conditions


@conditions("none")
class Unconditional(Condition):
    """No condition: labels are only used to colour pictures."""

    size = 0

    def __init__(self) -> None:
        super().__init__()

    def forward(self, y: Tensor) -> Tensor:
        return y.new_zeros(len(y), 0)
