"""Settings of the data on their way to the model. Importing this module does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vaekit.schema import Spec

Binarize = Literal["none", "threshold", "static", "dynamic"]
"""How grey values become 0 or 1: not at all; by ``x > 0.5``; drawn once per dataset; drawn every time an image is seen."""

Missing = Literal["refuse", "zeros", "channel"]
"""How missing numbers, NaN, are handled: they are refused, or the likelihood leaves them out and the encoder sees zeros, alone or
beside a mask that is 1 where a number is known."""

Fit = Literal["crop", "pad", "stretch"]
"""How an image of another size is brought to the one that is asked for."""

Fraction = Annotated[float, Field(ge=0, le=1)]


class AugmentSpec(Spec):
    """Random changes of training images, drawn separately for each image; all are off by default.

    The geometric changes are combined into one affine map per image and one bilinear resampling; flips move pixels exactly.
    """

    rotate: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="Largest rotation in either direction, in degrees.")
    shear: Annotated[float, Field(ge=0, lt=90)] = Field(
        0.0, description="Largest horizontal shear in either direction, in degrees."
    )
    translate: Fraction = Field(0.0, description="Largest shift in either direction, as a fraction of the side.")
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        (1.0, 1.0), description="Smallest and largest magnification."
    )
    flip: Literal["none", "horizontal", "vertical", "both"] = Field(
        "none", description="Mirror half of the images: left to right, top to bottom, or both independently."
    )
    crop: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Smallest side of a random window that is enlarged to the whole image, as a fraction of its side."
    )
    brightness: Fraction = Field(0.0, description="Largest relative change of brightness.")
    contrast: Fraction = Field(0.0, description="Largest relative change of contrast.")
    saturation: Fraction = Field(0.0, description="Largest relative change of saturation.")
    fill: Literal["border", "zeros"] = Field(
        "border", description="What lies outside an image: the pixels at its edge, or black."
    )
    target: Literal["augmented", "original"] = Field(
        "augmented",
        description="Which image the model reconstructs: the augmented one, or the original, so that the code need not hold what "
        "augmentation changes. Both are bounds, since q may depend on anything.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> AugmentSpec:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale: the smallest magnification comes first; given {self.scale}")
        return self

    @property
    def moves(self) -> bool:
        """Whether any option requires resampling the images."""
        return bool(self.rotate or self.shear or self.translate or self.scale != (1.0, 1.0) or self.crop < 1)

    @property
    def recolours(self) -> bool:
        """Whether any option changes pixel values."""
        return bool(self.brightness or self.contrast or self.saturation)

    @property
    def is_off(self) -> bool:
        """Whether no option changes any image."""
        return not (self.moves or self.recolours or self.flip != "none")
