"""A folder of image files."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import torch

from vaekit.data import FileImages, Splits, split_source
from vaekit.data.images import Decoder, find_images, readable_images, sides, within_memory
from vaekit.interfaces import Dataset
from vaekit.roles import datasets


@datasets("folder")
class Folder(Dataset):
    """Your own images: PNG, JPEG, WebP, BMP, GIF or TIFF files in a folder, nested or not.

    Pictures that lie in two or more subfolders, and none beside them, are labelled by subfolder. Transparent pictures are laid on
    white, the camera's orientation is applied, 16-bit greys become 8-bit. The split is fixed: the same for every seed.

    Args:
        path: The folder.
        size: Side of the pictures, or height and width; without it all files must have one size, which is kept.
        channels: Colour or grey.
        fit: How other proportions are brought to size: the middle cut out, the whole on a white ground, or distorted.
        validation: Fraction of the images held out for choosing models.
        test: Fraction of the images held out for the final numbers.
        on_bad_image: Whether an image that cannot be read stops, or is left out with a warning (then every file is read first).
        memory_gb: Pictures that fit are decoded once and kept in memory; others are read anew each epoch.
    """

    default_likelihood: ClassVar[str] = "gaussian"

    def __init__(
        self,
        *,
        path: str,
        size: int | tuple[int, int] | None = None,
        channels: Literal["rgb", "grey"] = "rgb",
        fit: Literal["crop", "pad", "stretch"] = "crop",
        validation: float = 0.1,
        test: float = 0.1,
        on_bad_image: Literal["stop", "skip"] = "stop",
        memory_gb: float = 4.0,
    ) -> None:
        self.path, self.decoder = Path(path).expanduser(), Decoder(sides(size), channels, fit)
        self.validation, self.test, self.on_bad_image, self.memory_gb = validation, test, on_bad_image, memory_gb

    def load(self) -> Splits:
        files = find_images(self.path)
        if self.on_bad_image == "skip":
            files = readable_images(files, self.decoder)
        images = FileImages(files, self.decoder, *_labels(self.path, files))
        return within_memory(split_source(images, self.validation, self.test), self.memory_gb)


def _labels(folder: Path, files: list[Path]) -> tuple[torch.Tensor | None, tuple[str, ...] | None]:
    """Labels by first-level subfolder, and the names of those; None where they do not tell the images apart."""
    parts = [file.relative_to(folder).parts for file in files]
    names = tuple(sorted({part[0] for part in parts}))
    if any(len(part) == 1 for part in parts) or len(names) < 2:
        return None, None
    number = {name: i for i, name in enumerate(names)}
    return torch.tensor([number[part[0]] for part in parts]), names
