"""The evaluation of a model on the splits of its data, without an optimiser or a run folder."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from vaekit.compute.distributed import ProcessGroup, select_device
from vaekit.data.batches import Batches
from vaekit.data.pixels import UNIT
from vaekit.data.sources import Splits
from vaekit.errors import UsageError
from vaekit.evaluation.bound import evaluate, meaning_of_elbo
from vaekit.evaluation.features import FeatureRequest, compare
from vaekit.evaluation.importance import log_likelihood
from vaekit.evaluation.metrics import Criterion
from vaekit.interfaces import without_density
from vaekit.model.objective import Objective
from vaekit.specs.models import RunSpec
from vaekit.streams import Streams

FEW_IMAGES = 2
"""The number of images from which the names of the metrics of a model are learned."""
BATCH_NUMBERS = 2**20
"""The number of pixels, in all channels and samples, of a batch in evaluation on a GPU."""
STATISTIC_IMAGES, STATISTIC_NUMBERS = 1024, 2**26
"""The most images, and pixels in all channels, of a batch in evaluation if a loss is a statistic of the batch."""


class Evaluator:
    """Evaluates an objective on the splits of its data, with noise that is a function of the run's seed.

    Args:
        spec: A complete spec.
        objective: The model and its losses, on the device of the processes.
        splits: The data.
        processes: The processes that evaluate together, each on a part of every batch.
        memory_format: The memory format of the images in a batch.
    """

    def __init__(
        self,
        spec: RunSpec,
        objective: Objective,
        splits: Splits,
        processes: ProcessGroup,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.spec, self.objective, self.splits, self.processes = spec, objective, splits, processes
        self.memory_format, self.streams = memory_format, Streams(spec.train.seed)
        binary = spec.data.binarize != "none" or splits.train.is_binary
        likelihood = objective.vae.likelihood
        self.quantised = likelihood.scores != "binary" and likelihood.normalised and splits.train.integer and not binary
        known = spec.data.missing == "refuse" and splits.value_range == UNIT
        self.pixels = len(splits.shape) == 3 and not binary and known
        """Whether the data are images of grey levels or colours in [0, 1] without missing pixels."""
        self.elbo = meaning_of_elbo(
            likelihood, binary=binary, value_range=splits.value_range, missing=spec.data.missing != "refuse"
        )
        """What the ELBO means."""

    def batches(self, split: str) -> Batches:
        """Return the batches of a split: every image, in order, without augmentation."""
        return Batches(
            self.splits.parts[split],
            batch_size=self.batch_size(split),
            streams=self.streams,
            binarize=self.spec.data.binarize,
            device=self.processes.device,
            train=False,
            split=split,
            workers=self.spec.train.workers,
            memory_format=self.memory_format,
            rank=self.processes.rank,
            world_size=self.processes.size,
            whole_batches=self.objective.batch_statistic,
        )

    @property
    def at_once(self) -> int:
        """The number of images that the networks process at once: a training batch, but more on a GPU.

        There, launching the kernels for few images takes longer than running them.
        """
        size = self.spec.train.batch_size
        if self.processes.device.type == "cpu":
            return size
        return max(size, BATCH_NUMBERS // math.prod((*self.splits.shape, *self.objective.samples)))

    def batch_size(self, split: str) -> int:
        """Return the size of a batch: `at_once`, but larger for losses that are statistics of a batch.

        A total correlation of few images is biased. The batches are equal up to one image, so that none is small.
        """
        num, size = len(self.splits.parts[split]), self.at_once
        if self.objective.batch_statistic:
            size = max(size, min(STATISTIC_IMAGES, STATISTIC_NUMBERS // math.prod(self.splits.shape)))
            size = math.ceil(num / math.ceil(num / size))
        return size

    def scores(self, split: str, *, quantised: bool = False) -> dict[str, float | list[float]]:
        """Return the metrics of a split by key; see `vaekit.evaluation.metrics`.

        Args:
            split: ``train``, ``validation`` or ``test``.
            quantised: Whether to compute bits per dimension, if the images have grey levels and the likelihood allows.
        """
        return evaluate(
            self.objective,
            self.batches(split).epoch(0),
            self.streams,
            split=split,
            quantised=quantised and self.quantised,
            pixels=self.pixels,
            chunk=self.at_once,
            reduce=self.processes.total,
        )

    def evaluate(self, split: str, epoch: int) -> dict[str, Any]:
        """Return the metrics of a split with their context, in the form of ``evaluation.json``.

        Args:
            split: ``train``, ``validation`` or ``test``.
            epoch: The epoch of the weights.
        """
        scores = self.scores(split, quantised=True)
        results: dict[str, Any] = {
            "split": split,
            "num_images": len(self.splits.parts[split]),
            "epoch": epoch,
            "elbo_is": self.elbo,
            "binarize": self.spec.data.binarize,
            "data": self.splits.fingerprint[split]["images"],
        }
        if self.objective.batch_statistic:
            results["statistics_batch"] = self.batch_size(split)
        return results | scores

    def log_likelihood(self, split: str, *, samples: int, precision: str = "fp32") -> dict[str, float]:
        """Estimate log p(x) on a split; see `vaekit.evaluation.importance.log_likelihood`.

        Raises:
            UsageError: The posterior or the prior has no density, or the likelihood is not one.
        """
        if "bound" not in self.elbo:
            raise UsageError(
                "log p(x) is not defined for a cross-entropy on grey values",
                given=f"likelihood {self.objective.vae.likelihood.kind!r}, binarize none",
                remedy="train on binary pixels, for example with --binarize dynamic, or with --loss gaussian",
            )
        batches = self.batches(split).epoch(0)
        with torch.autocast(self.processes.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return log_likelihood(self.objective.vae, batches, self.streams, samples=samples, split=split)

    def compare_features(self, split: str, request: FeatureRequest) -> dict[str, Any]:
        """Compare images of a split with reconstructions and samples; see `vaekit.evaluation.features.compare`.

        Raises:
            DataError: A file is missing or unreadable, or of another network.
            UsageError: The network cannot take the images, or there are fewer than two, or some have missing pixels.
        """
        if self.spec.data.missing != "refuse":
            raise UsageError("features need images without missing pixels", given=f"--missing {self.spec.data.missing}")
        vae = self.objective.vae.eval()
        data = {
            **self.splits.fingerprint[split],
            "binarize": self.spec.data.binarize,
            "value_range": list(vae.value_range),
        }
        return compare(request, vae, self.batches(split).epoch(0), self.streams, data=data)


def check_criterion(criterion: Criterion, option: str, spec: RunSpec, objective: Objective, splits: Splits) -> None:
    """Check that a model has a metric on the validation set, by an evaluation of a few images.

    Args:
        criterion: The metric.
        option: The option that names it, for the error message.
        spec: A complete spec, fitted to this machine.
        objective: The model and its losses; it is moved to the spec's device.
        splits: The data.

    Raises:
        UsageError: The model does not have it; the message lists those it has.
    """
    few = torch.arange(min(FEW_IMAGES, len(splits.validation)), device=splits.validation.device)
    sample = replace(splits, validation=splits.validation.subset(few))
    place = ProcessGroup(device=select_device(spec.train.device))
    found = Evaluator(spec, objective.to(place.device), sample, place).scores("validation")
    names = [name for name, value in found.items() if not isinstance(value, list)]
    if criterion.name not in names:
        lacking = without_density(objective.vae.posterior, objective.vae.prior) if criterion.name in {"elbo", "kl"} else None
        reason = f": {lacking}" if lacking else ""
        raise UsageError(
            f"the metric {criterion.name} is not available on the validation set{reason}",
            expected=f"{option} {', '.join(names)}; append :max if more is better",
        )
