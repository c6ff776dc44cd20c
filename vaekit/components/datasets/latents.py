"""The codes of a trained model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from vaekit.data import ImageSource, Splits, TensorImages
from vaekit.data.arrays import Layout, MappedImages
from vaekit.data.batches import Batches
from vaekit.data.table import write_table
from vaekit.errors import DataError, reason_of
from vaekit.evaluation.embedding import BATCH, encode
from vaekit.interfaces import Dataset
from vaekit.model.vae import VAE
from vaekit.nn.features import sha256_of
from vaekit.roles import datasets
from vaekit.store.record import Record
from vaekit.streams import Streams

LAYOUTS: dict[int, Layout] = {1: "NF", 2: "NCL", 3: "NCHW", 4: "NCDHW"}
"""The axis order of codes, by the number of dimensions of a code."""


@datasets("latents")
class Latents(Dataset):
    """Codes of a run's images, with their splits and labels, to train a second model on, as in a two-stage VAE.

    A code is the posterior mean: a vector, or a grid if the latents form one. Codes are computed once and cached in the run
    folder, under ``latents``; if the weights change, they are recomputed. To fit only a prior to the codes, use
    `vaekit fit-prior`.

    Args:
        run: The run folder, or hf://user/name.
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
            except OSError as error:
                raise DataError(f"the codes cannot be written to {path.parent}", given=reason_of(error)) from None
            self._write(path, vae, record, split)
        labels, names = source.labels, source.class_names
        if 4 * len(source) * math.prod(vae.latent_shape) > self.memory_gb * 1e9:
            return MappedImages(path, LAYOUTS[len(vae.latent_shape)], labels=labels, class_names=names)
        return TensorImages(torch.from_numpy(np.load(path, allow_pickle=False)), labels, names)

    def _write(self, path: Path, vae: VAE, record: Record, split: str) -> None:
        """Encode the images of a split and write the codes, batch by batch."""
        streams = Streams(record.spec.train.seed)
        batches = Batches(
            record.splits.parts[split],
            batch_size=BATCH,
            streams=streams,
            binarize=record.spec.data.binarize,
            train=False,
            split=split,
            workers=record.spec.train.workers,
        )
        with write_table(path) as table:
            for _, _, codes in encode(vae, batches, streams, sample=self.sample):
                table.append({"z": codes.float().unflatten(-1, vae.latent_shape).numpy()})
