"""EMNIST."""

from __future__ import annotations

from string import ascii_lowercase, ascii_uppercase, digits
from typing import ClassVar, Literal

from vaekit.components.datasets._downloaded import Downloaded
from vaekit.data import Binarize, Splits
from vaekit.data.torchvision_sets import load_idx_set
from vaekit.roles import datasets

_MERGED = (*digits, *ascii_uppercase, *"abdefghnqrt")  # lower-case letters that look like their capitals share a class
_CLASSES = {
    "byclass": (*digits, *ascii_uppercase, *ascii_lowercase),
    "bymerge": _MERGED,
    "balanced": _MERGED,
    "letters": tuple(ascii_lowercase),
    "digits": tuple(digits),
    "mnist": tuple(digits),
}


@datasets("emnist")
class EMNIST(Downloaded):
    """Handwritten letters and digits, 28×28 grey; "balanced": 107,800 train, 5,000 validation, 18,800 test; 560 MB download.

    Unlike in torchvision, pictures are upright, and the labels of "letters" start at 0.

    Args:
        split: The EMNIST dataset to use.
        data_root: Folder of the datasets; default: VAEKIT_DATA if set, else ~/.cache/vaekit.
        validation: Number of training images to hold out, taken from the end.
        download: Whether to download missing files.

    References:
        Cohen et al. (2017), "EMNIST: an extension of MNIST to handwritten letters", arXiv:1702.05373.
    """

    default_likelihood: ClassVar[str] = "bce"
    default_binarize: ClassVar[Binarize] = "dynamic"

    def __init__(
        self,
        *,
        split: Literal["balanced", "byclass", "bymerge", "letters", "digits", "mnist"] = "balanced",
        data_root: str | None = None,
        validation: int = 5000,
        download: bool = True,
    ) -> None:
        super().__init__(data_root=data_root, validation=validation, download=download)
        self.split = split

    def load(self) -> Splits:
        stems = [f"EMNIST/raw/emnist-{self.split}-{part}" for part in ("train", "test")]
        return load_idx_set(
            self.kind,
            files=[f"{stem}-{what}-ubyte" for stem in stems for what in ("images-idx3", "labels-idx1")],
            root=self.root,
            validation=self.validation,
            download=self.download,
            fetch=self.fetch,
            class_names=_CLASSES[self.split],
            first_label=1 if self.split == "letters" else 0,
            transposed=True,
        )

    def fetch(self, folder: str) -> None:
        """Download the files to a folder."""
        from torchvision.datasets import EMNIST

        EMNIST(folder, self.split, download=True)
