"""Fashion-MNIST."""

from __future__ import annotations

from typing import ClassVar

from vaekit.data import Binarize, Splits
from vaekit.data.torchvision_sets import load_idx_set, mnist_files
from vaekit.interfaces import Dataset
from vaekit.roles import datasets

_CLASSES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@datasets("fashion_mnist")
class FashionMNIST(Dataset):
    """Photographs of clothes, 28×28 grey, 10 classes: 55,000 train, 5,000 validation, 10,000 test; 31 MB download.

    References:
        Xiao, Rasul, Vollgraf: Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms, 2017.

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
            "Fashion-MNIST",
            files=mnist_files("FashionMNIST"),
            root=self.root,
            validation=self.validation,
            download=self.download,
            fetch=self._fetch,
            class_names=_CLASSES,
        )

    @staticmethod
    def _fetch(folder: str) -> None:
        from torchvision.datasets import FashionMNIST

        FashionMNIST(folder, download=True)
