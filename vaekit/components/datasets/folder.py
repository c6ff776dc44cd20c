"""A folder of image files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch

from vaekit.data import FileImages, ImageSource, Splits, split_source
from vaekit.data.folders import FilesIn, OnBad, find_images, readable_images, warn_of_frames
from vaekit.data.images import ColourMode, ImageReader, decode_if_small, height_and_width, range_of
from vaekit.data.pixels import Range
from vaekit.data.specs import Fit
from vaekit.interfaces import Dataset
from vaekit.roles import datasets


@datasets("folder")
class Folder(Dataset):
    """Your own images: PNG, JPEG, WebP, AVIF, BMP, GIF or TIFF files in a folder and its subfolders.

    If all pictures are in two or more subfolders, the subfolder is the label. Transparent pictures are composited onto white,
    EXIF orientation is applied, 16-bit greys are converted to 8 bits, and only the first frame or page of a file is read. The
    data are split in the same way for every seed.

    Args:
        path: The folder.
        size: Side length, or height and width, to resize to; default: the size of the files, which must all be the same.
        channels: Colour or grey.
        fit: How to handle other aspect ratios: crop the centre, pad with white, or stretch.
        range: The values of black and white, for example 0,4095 for 12 bits; default: the full range of 8 or 16 bits. Required
            for 32-bit integers and floats.
        validation: Fraction of the images held out for model selection.
        test: Fraction of the images held out for the final evaluation.
        on_bad_image: Whether to stop at unreadable images and folders or to skip them with a warning, which reads every file in
            advance.
        memory_gb: Memory in GB for decoded pictures; if they do not fit, files are read again every epoch.
    """

    default_encoder: ClassVar[str] = "cnn"
    default_latent_dim: ClassVar[int] = 64
    default_likelihood: ClassVar[str] = "gaussian"
    suffixes = ("",)
    reader: ImageReader

    def __init__(
        self,
        *,
        path: str,
        size: int | tuple[int, int] | None = None,
        channels: ColourMode = "rgb",
        fit: Fit = "crop",
        range: Range | None = None,  # noqa: A002
        validation: float = 0.1,
        test: float = 0.1,
        on_bad_image: OnBad = "stop",
        memory_gb: float = 4.0,
    ) -> None:
        self.path, self.reader = Path(path).expanduser(), ImageReader(height_and_width(size), channels, fit, range)
        self.validation, self.test, self.on_bad_image, self.memory_gb = validation, test, on_bad_image, memory_gb

    def load(self) -> Splits:
        return decode_if_small(split_source(self.stored()["train"], self.validation, self.test), self.memory_gb)

    def stored(self) -> Mapping[str, ImageSource]:
        files = find_images(self.path, on_bad=self.on_bad_image)
        warn_of_frames(files)
        reader = replace(self.reader, limits=range_of(files, self.reader, self.path))
        if self.on_bad_image == "skip":
            files = readable_images(files, reader)
        return {"train": FileImages(files, reader, *_labels(files))}


def _labels(files: FilesIn) -> tuple[torch.Tensor | None, tuple[str, ...] | None]:
    """Return labels by first-level subfolder and the subfolders' names; None if subfolders do not distinguish the images."""
    parts = [name.partition("/") for name in files.names]
    names = tuple(sorted({first for first, _, _ in parts}))
    if not all(slash for _, slash, _ in parts) or len(names) < 2:
        return None, None
    number = {name: i for i, name in enumerate(names)}
    return torch.tensor([number[first] for first, _, _ in parts]), names
