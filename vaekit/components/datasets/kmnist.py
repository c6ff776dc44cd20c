"""KMNIST."""

from __future__ import annotations

from typing import ClassVar

from vaekit.data import Binarize, Splits
from vaekit.data.torchvision_sets import load_idx_set, mnist_files
from vaekit.interfaces import Dataset
from vaekit.roles import datasets


@datasets("kmnist")
class KMNIST(Dataset):
    """Cursive Japanese characters, 28×28 grey, 10 classes: 55,000 train, 5,000 validation, 10,000 test; 21 MB download.

    References:
        Clanuwat et al.: Deep learning for classical Japanese literature, 2018.

    Args:
        data_root: Folder of the data sets; default VAEKIT_DATA, else ~/.cache/vaekit.
        validation: Number of training images held out, the last ones.
        download: Whether to download files that are not there.
    """

    default_likelihood: ClassVar[str] = "bce"
    default_binarize: ClassVar[Binarize] = "dynamic"

    def __init__(self, *, data_root: str | None = None, validation: int = 5000, download: bool = True) -> None:
        self.root, self.validation, self.download = data_root, validation, download

    def load(self) -> Splits:
        return load_idx_set(
            "KMNIST",
            files=mnist_files("KMNIST"),
            root=self.root,
            validation=self.validation,
            download=self.download,
            fetch=self._fetch,
            class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        )

    @staticmethod
    def _fetch(folder: str) -> None:
        from torchvision.datasets import KMNIST

        KMNIST(folder, download=True)
