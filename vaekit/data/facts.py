"""Facts about the data that a model depends on. Importing this module does not import torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from vaekit.data.pixels import UNIT, Range
from vaekit.data.specs import Missing
from vaekit.schema import Count, Spec


class Facts(Spec):
    """Facts about the data from which, together with a spec, a model is built; they are saved with its weights."""

    data_shape: Annotated[tuple[Count, ...], Field(min_length=1, max_length=4)] = Field(
        description="The shape of one example: ``(F,)``, ``(C, L)``, ``(C, H, W)`` or ``(C, D, H, W)``."
    )
    value_range: Range = Field(UNIT, description="The lowest and highest values, which pictures show as black and white.")
    class_names: tuple[str, ...] | None = Field(None, description="The name of each label; None if there are no labels.")
    missing: Missing = Field("refuse", description="How missing values (NaN) are handled.")

    @model_validator(mode="after")
    def _ordered(self) -> Facts:
        if self.value_range[0] >= self.value_range[1]:
            raise ValueError(f"value_range: the lowest value must come first; given {self.value_range}")
        return self

    @property
    def num_classes(self) -> int | None:
        """The number of classes; None if there are no labels."""
        return None if self.class_names is None else len(self.class_names)
