"""Handwritten digits that ship with vaekit."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from vaekit.data import Binarize, Splits, TensorImages
from vaekit.interfaces import Dataset
from vaekit.roles import datasets


@datasets("digits")
class Digits(Dataset):
    """10,000 of MNIST's handwritten digits, 28×28 grey; shipped with vaekit, no download needed.

    8,000 training, 1,000 validation and 1,000 test images; the test images are from MNIST's test set. For their origin and
    licence, see ``digits.LICENSE.md`` next to this file.
    """

    default_likelihood: ClassVar[str] = "bce"
    default_binarize: ClassVar[Binarize] = "dynamic"

    def load(self) -> Splits:
        with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
            images, labels = torch.from_numpy(file["images"]).unsqueeze(1), torch.from_numpy(file["labels"])
        names = tuple("0123456789")
        parts = zip(images.split([8000, 1000, 1000]), labels.split([8000, 1000, 1000]), strict=True)
        return Splits(*(TensorImages(x, y, names) for x, y in parts))
