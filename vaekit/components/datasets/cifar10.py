"""CIFAR-10."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from vaekit.components.datasets._downloaded import Downloaded
from vaekit.data import Splits, TensorImages
from vaekit.data.sources import hold_out
from vaekit.data.torchvision_sets import data_root, ensure_present
from vaekit.errors import DataError
from vaekit.roles import datasets

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FOLDER = "cifar-10-batches-bin"
_TRAIN = [f"{_FOLDER}/data_batch_{i}.bin" for i in range(1, 6)]
_TEST = f"{_FOLDER}/test_batch.bin"
_URL, _MD5 = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"


@datasets("cifar10")
class CIFAR10(Downloaded):
    """Small photographs, 32×32 colour, 10 classes: 45,000 train, 5,000 validation, 10,000 test; 170 MB download.

    The binary version is read, not torchvision's pickled one: reading data must not run code.

    References:
        Krizhevsky (2009), "Learning Multiple Layers of Features from Tiny Images", technical report of the University of Toronto.
    """

    default_encoder: ClassVar[str] = "cnn"
    default_latent_dim: ClassVar[int] = 64
    default_likelihood: ClassVar[str] = "gaussian"

    def load(self) -> Splits:
        root = data_root(self.root)
        ensure_present(self.kind, root, [*_TRAIN, _TEST], download=self.download, fetch=_fetch)
        return hold_out(_read([root / name for name in _TRAIN]), _read([root / _TEST]), self.validation)


def _fetch(folder: str) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(_URL, folder, md5=_MD5, remove_finished=True)


def _read(files: list[Path]) -> TensorImages:
    """Read records of a label byte and 3,072 bytes of red, green and blue planes."""
    for file in files:
        if not file.is_file() or file.stat().st_size % 3073 or file.stat().st_size == 0:
            raise DataError("a data file is damaged", given=file, expected="records of 3,073 bytes", remedy="download it again")
    records = torch.from_numpy(np.concatenate([np.fromfile(file, np.uint8).reshape(-1, 3073) for file in files]))
    return TensorImages(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0], _CLASSES)
