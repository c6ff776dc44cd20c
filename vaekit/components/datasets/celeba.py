"""CelebA."""

from __future__ import annotations

from typing import ClassVar

from vaekit.data import FileImages, Splits
from vaekit.data.images import ImageReader, decode_if_small
from vaekit.data.torchvision_sets import data_root, ensure_present
from vaekit.errors import DataError
from vaekit.interfaces import Dataset
from vaekit.roles import datasets


@datasets("celeba")
class CelebA(Dataset):
    """Aligned celebrity faces, 64×64 colour by default: 162,770 train, 19,867 validation, 19,962 test; 1.4 GB download.

    The central 178×178 pixels of each picture are resized. The download needs gdown and comes from Google Drive, which may
    refuse it at busy times.

    Args:
        size: Side length in pixels.
        data_root: Folder of the datasets; default: VAEKIT_DATA if set, else ~/.cache/vaekit.
        download: Whether to download missing files.
        memory_gb: Memory in GB for decoded pictures; if they do not fit, files are read again every epoch.

    References:
        Liu et al. (2015), "Deep Learning Face Attributes in the Wild", ICCV, arXiv:1411.7766.
    """

    default_encoder: ClassVar[str] = "cnn"
    default_latent_dim: ClassVar[int] = 64
    default_likelihood: ClassVar[str] = "gaussian"

    def __init__(self, *, size: int = 64, data_root: str | None = None, download: bool = True, memory_gb: float = 4.0) -> None:
        self.size, self.root, self.download, self.memory_gb = size, data_root, download, memory_gb

    def load(self) -> Splits:
        root, partition, images = data_root(self.root), "celeba/list_eval_partition.txt", "celeba/img_align_celeba"
        ensure_present(self.kind, root, [partition, images], download=self.download, fetch=_fetch)
        rows = [line.split() for line in (root / partition).read_text("utf-8").splitlines() if line.strip()]
        if not all(len(row) == 2 and row[1] in ("0", "1", "2") for row in rows) or {row[1] for row in rows} != {"0", "1", "2"}:
            raise DataError("a data file is damaged", given=root / partition, expected="lines such as `000001.jpg 0`")
        reader = ImageReader((self.size, self.size), "rgb", "crop")
        parts = ([root / images / name for name, part in rows if part == wanted] for wanted in "012")
        return decode_if_small(Splits(*(FileImages(files, reader) for files in parts)), self.memory_gb)


def _fetch(folder: str) -> None:
    from torchvision.datasets import CelebA

    CelebA(folder, download=True)
