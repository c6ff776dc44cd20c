"""SVHN."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from vaekit.components.datasets._downloaded import Downloaded
from vaekit.data import Splits, TensorImages
from vaekit.data.sources import hold_out
from vaekit.data.torchvision_sets import data_root, ensure_present
from vaekit.errors import DataError
from vaekit.roles import datasets


@datasets("svhn")
class SVHN(Downloaded):
    """House numbers from street views, 32×32 colour: 68,257 train, 5,000 validation, 26,032 test; 250 MB download, needs scipy.

    References:
        Netzer et al. (2011), "Reading Digits in Natural Images with Unsupervised Feature Learning", NIPS Workshop on Deep
            Learning and Unsupervised Feature Learning.
    """

    default_encoder: ClassVar[str] = "cnn"
    default_latent_dim: ClassVar[int] = 64
    default_likelihood: ClassVar[str] = "gaussian"

    def load(self) -> Splits:
        root, files = data_root(self.root), ["train_32x32.mat", "test_32x32.mat"]
        ensure_present(self.kind, root, files, download=self.download, fetch=_fetch)
        train, test = (_read(root / file) for file in files)
        return hold_out(train, test, self.validation)


def _fetch(folder: str) -> None:
    from torchvision.datasets import SVHN
    from torchvision.datasets.utils import download_url

    for url, name, md5 in (SVHN.split_list[split] for split in ("train", "test")):
        download_url(url, folder, name, md5)


def _read(file: Path) -> TensorImages:
    try:
        from scipy.io import loadmat  # type: ignore[import-untyped]  # scipy has no types
    except ImportError as error:
        raise DataError("reading SVHN's MATLAB files needs scipy", given=error, remedy="pip install scipy") from error
    try:
        content = loadmat(file)
        images, labels = torch.from_numpy(content["X"]), torch.from_numpy(content["y"]).flatten()
        # X is (H, W, C, N), and the digit 0 is labelled 10.
        return TensorImages(images.permute(3, 2, 0, 1), labels.long() % 10, tuple("0123456789"))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError("a data file is damaged", given=f"{file}: {error}", remedy="download it again") from error
