"""Base classes of the datasets that are downloaded."""

from __future__ import annotations

from typing import ClassVar

from vaekit.data import Binarize, Splits
from vaekit.data.torchvision_sets import load_idx_set, mnist_files
from vaekit.interfaces import Dataset


class Downloaded(Dataset):
    """A dataset with training and test splits; the last training images are held out for validation."""

    def __init__(self, *, data_root: str | None = None, validation: int = 5000, download: bool = True) -> None:
        """Store the options; `load` reads the files.

        Args:
            data_root: Folder of the datasets; default: VAEKIT_DATA if set, else ~/.cache/vaekit.
            validation: Number of training images to hold out, taken from the end.
            download: Whether to download missing files.
        """
        self.root, self.validation, self.download = data_root, validation, download


class MNISTReplacement(Downloaded):
    """MNIST or a drop-in replacement for it: 60,000 training and 10,000 test images, 28×28 grey."""

    default_likelihood: ClassVar[str] = "bce"
    default_binarize: ClassVar[Binarize] = "dynamic"
    torchvision_name: ClassVar[str]
    """Name of torchvision's class and of its download folder."""
    class_names: ClassVar[tuple[str, ...]]

    def load(self) -> Splits:
        return load_idx_set(
            self.kind,
            files=mnist_files(self.torchvision_name),
            root=self.root,
            validation=self.validation,
            download=self.download,
            fetch=self.fetch,
            class_names=self.class_names,
        )

    def fetch(self, folder: str) -> None:
        """Download the files to a folder."""
        from torchvision import datasets

        getattr(datasets, self.torchvision_name)(folder, download=True)
