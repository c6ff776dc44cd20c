"""The codes of a trained model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vaekit.data import ImageSource, Splits, TensorImages
from vaekit.data.arrays import Layout, MappedImages
from vaekit.data.batches import Batches
from vaekit.errors import DataError, reason_of
from vaekit.files import write_atomically
from vaekit.interfaces import Dataset
from vaekit.model.vae import VAE
from vaekit.nn.features import sha256_of
from vaekit.roles import datasets
from vaekit.store.record import Record
from vaekit.streams import Streams

BATCH = 256
LAYOUTS: dict[int, Layout] = {1: "NF", 2: "NCL", 3: "NCHW", 4: "NCDHW"}
"""The axis order of codes, by the number of dimensions of a code."""


@datasets("latents")
class Latents(Dataset):
    """Codes of a run's images, with their splits and labels, to train a second model on, as in a two-stage VAE.

    A code is the posterior mean: a vector, or a grid if the latents form one. Codes are computed once and cached in the run
    folder, under ``latents``; if the weights change, they are recomputed. To fit only a prior to the codes, use `vaekit
    fit-prior`.

    Args:
        run: The run folder.
        sample: Whether to use a fixed posterior sample instead of the mean.
        memory_gb: Size in GB above which the codes of a split are memory-mapped and read again every epoch.

    References:
        Dai and Wipf (2019), "Diagnosing and Enhancing VAE Models", ICLR, arXiv:1903.05789, section 4.
    """

    default_likelihood: ClassVar[Mapping[str, Any]] = {"kind": "gaussian", "link": "identity"}

    def __init__(self, *, run: str, sample: bool = False, memory_gb: float = 4.0) -> None:
        self.run, self.sample, self.memory_gb = Path(run).expanduser(), sample, memory_gb

    def load(self) -> Splits:
        record = Record(self.run)
        vae, digest = record.vae(), sha256_of(record.folder.model)[:16]
        train, validation, test = (self._codes(vae, record, name, digest) for name in record.splits.parts)
        return Splits(train, validation, test)

    def _codes(self, vae: VAE, record: Record, split: str, digest: str) -> ImageSource:
        """Return the codes of a split from the cache; compute them first if there are none for these weights."""
        source = record.splits.parts[split]
        path = record.path / "latents" / f"{split}-{'sample' if self.sample else 'mean'}-{digest}.npy"
        if not path.is_file():
            try:
                path.parent.mkdir(exist_ok=True)
                write_atomically(path, lambda temporary: self._write(temporary, vae, record, split))
            except OSError as error:
                raise DataError(f"the codes cannot be written to {path.parent}", given=reason_of(error)) from None
        labels, names = source.labels, source.class_names
        if 4 * len(source) * math.prod(vae.latent_shape) > self.memory_gb * 1e9:
            return MappedImages(path, LAYOUTS[len(vae.latent_shape)], labels=labels, class_names=names)
        return TensorImages(torch.from_numpy(np.load(path, allow_pickle=False)), labels, names)

    @torch.no_grad()
    def _write(self, path: Path, vae: VAE, record: Record, split: str) -> None:
        """Encode the images of a split and write the codes, batch by batch."""
        source, streams = record.splits.parts[split], Streams(record.spec.train.seed)
        batches = Batches(
            source,
            batch_size=BATCH,
            streams=streams,
            binarize=record.spec.data.binarize,
            train=False,
            split=split,
            workers=record.spec.train.workers,
        )
        with path.open("wb") as file:
            shape = (len(source), *vae.latent_shape)
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for batch in batches.epoch(0):
                codes = self._code(vae, batch.inputs, batch.y, streams.generator(f"latents/{split}", batch.step, "cpu"))
                file.write(codes.float().numpy().astype("<f4").tobytes())

    def _code(self, vae: VAE, x: Tensor, y: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return the codes of images, ``(B, D)``."""
        q = vae.encode(x, y)
        codes: Tensor = q.rsample(vae.posterior.draw_noise(len(x), generator, like=x)) if self.sample else q.mean
        return codes
