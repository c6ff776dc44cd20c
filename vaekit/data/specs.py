"""Data settings. Importing this module does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vaekit.schema import Spec

Binarize = Literal["none", "threshold", "static", "dynamic"]
"""How to binarise grey values: not at all; by ``x > 0.5``; sampled once per dataset; sampled each time an image is seen."""

Missing = Literal["refuse", "zeros", "channel"]
"""How to handle missing values (NaN): raise an error, or ignore them in the likelihood and show the encoder zeros, with or
without a mask that is 1 for observed values."""

Fit = Literal["crop", "pad", "stretch"]
"""How to fit an image of another size."""

Fraction = Annotated[float, Field(ge=0, le=1)]


class AugmentSpec(Spec):
    """Random augmentation of training images, drawn separately for each image; off by default.

    Geometric changes are combined into one affine map and one bilinear resampling per image; flips are exact.
    """

    rotate: Annotated[float, Field(ge=0, le=180)] = Field(0.0, description="Maximum rotation in either direction, in degrees.")
    shear: Annotated[float, Field(ge=0, lt=90)] = Field(
        0.0, description="Maximum horizontal shear in either direction, in degrees."
    )
    translate: Fraction = Field(0.0, description="Maximum shift in either direction, as a fraction of the side.")
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        (1.0, 1.0), description="Minimum and maximum magnification."
    )
    flip: Literal["none", "horizontal", "vertical", "both"] = Field(
        "none", description="Flip images with probability 1/2: horizontally, vertically, or both independently."
    )
    crop: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Minimum side of a random crop that is resized to the full image, as a fraction of its side."
    )
    brightness: Fraction = Field(0.0, description="Maximum relative change of brightness.")
    contrast: Fraction = Field(0.0, description="Maximum relative change of contrast.")
    saturation: Fraction = Field(0.0, description="Maximum relative change of saturation.")
    fill: Literal["border", "zeros"] = Field("border", description="Padding outside an image: its edge pixels, or black.")
    target: Literal["augmented", "original"] = Field(
        "augmented",
        description="Reconstruction target: the augmented image, or the original, so that the code need not encode what "
        "augmentation changes. Both are bounds, since q may depend on anything.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> AugmentSpec:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale: the minimum magnification must come first; given {self.scale}")
        return self

    @property
    def moves(self) -> bool:
        """Whether any option requires resampling."""
        return bool(self.rotate or self.shear or self.translate or self.scale != (1.0, 1.0) or self.crop < 1)

    @property
    def recolours(self) -> bool:
        """Whether any option changes pixel values."""
        return bool(self.brightness or self.contrast or self.saturation)

    @property
    def is_off(self) -> bool:
        """Whether no option changes the images."""
        return not (self.moves or self.recolours or self.flip != "none")
