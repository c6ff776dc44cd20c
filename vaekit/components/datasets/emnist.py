"""EMNIST."""

from __future__ import annotations

from string import ascii_lowercase, ascii_uppercase, digits
from typing import ClassVar, Literal

from vaekit.data import Binarize, Splits
from vaekit.data.torchvision_sets import load_idx_set
from vaekit.interfaces import Dataset
from vaekit.roles import datasets

_MERGED = (*digits, *ascii_uppercase, *"abdefghnqrt")  # lower-case letters that look like their capitals count as those
_CLASSES = {
    "byclass": (*digits, *ascii_uppercase, *ascii_lowercase),
    "bymerge": _MERGED,
    "balanced": _MERGED,
    "letters": tuple(ascii_lowercase),
    "digits": tuple(digits),
    "mnist": tuple(digits),
}


@datasets("emnist")
class EMNIST(Dataset):
    """Handwritten letters and digits, 28×28 grey; "balanced": 107,800 train, 5,000 validation, 18,800 test; 560 MB download.

    Unlike torchvision's, the pictures stand upright, and the labels of "letters" count from 0.

    References:
        Cohen, Afshar, Tapson, van Schaik: EMNIST: an extension of MNIST to handwritten letters, 2017.

    Args:
        split: Which of its data sets.
        data_root: Folder of the data sets; default VAEKIT_DATA, else ~/.cache/vaekit.
        validation: Number of training images held out, the last ones.
        download: Whether to download files that are not there.
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
        self.split, self.root, self.validation, self.download = split, data_root, validation, download

    def load(self) -> Splits:
        stems = [f"EMNIST/raw/emnist-{self.split}-{part}" for part in ("train", "test")]
        return load_idx_set(
            "EMNIST",
            files=[f"{stem}-{what}-ubyte" for stem in stems for what in ("images-idx3", "labels-idx1")],
            root=self.root,
            validation=self.validation,
            download=self.download,
            fetch=self._fetch,
            class_names=_CLASSES[self.split],
            first_label=1 if self.split == "letters" else 0,
            transposed=True,
        )

    def _fetch(self, folder: str) -> None:
        from torchvision.datasets import EMNIST

        EMNIST(folder, self.split, download=True)
