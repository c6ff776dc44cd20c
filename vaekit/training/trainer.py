"""The training loop, the same for every model."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.compute.distributed import ProcessGroup
from vaekit.compute.process import Interrupted, Interruption, threads
from vaekit.data.sources import Splits
from vaekit.errors import DivergenceError
from vaekit.evaluation.evaluator import Evaluator
from vaekit.files import write_text
from vaekit.interfaces import without_density
from vaekit.model.objective import Objective
from vaekit.specs.models import RunSpec
from vaekit.specs.text import counted, duration
from vaekit.store.folder import RunFolder, check_space
from vaekit.training.checkpoints import Checkpoints, Position
from vaekit.training.checks import best_criterion, check_best, check_data, check_weights, divergence
from vaekit.training.loggers import Loggers, codes_of
from vaekit.training.meter import Meter
from vaekit.training.progress import Reporter, Silent, Start
from vaekit.training.snapshots import Snapshots
from vaekit.training.step import Step

CHECK_EVERY = 50
"""The number of steps between checks of the loss on devices where a check stalls the pipeline; the CPU checks every step."""
REPORT_SECONDS = 0.25
SHARP_FROM = 32
"""The side of colour pictures, in pixels, from which a note recommends a grid of latents.

On 3,000 pictures of 64×64, after five minutes on one core, reconstructions of held-out pictures have 27.2 dB and 4.00 bits per
dimension with a grid, and 20.1 dB and 4.68 bits with a vector of 64 latents, which fits no further.
"""
FEW_STEPS = 500
"""The number of steps below which a note warns the user that a run is short."""


class Pace(NamedTuple):
    """The start of an epoch, by ``time.perf_counter``, and the throughput of its steps in images per second."""

    began: float
    images_per_second: float


class Trainer:
    """Trains a model in a run folder.

    Args:
        spec: A complete spec, fitted to this machine.
        objective: The model and its losses.
        splits: The data.
        folder: The run folder; ``fit(resume=True)`` resumes from a checkpoint in it.
        reporter: Receives progress; default: none.
        processes: The processes that train together; default: this process alone.
        allow_changed_data: Whether to resume even if the data have changed since the checkpoint was written.

    Raises:
        UsageError: The spec does not fit the data.
    """

    def __init__(
        self,
        spec: RunSpec,
        objective: Objective,
        splits: Splits,
        folder: RunFolder,
        *,
        reporter: Reporter | None = None,
        processes: ProcessGroup | None = None,
        allow_changed_data: bool = False,
    ) -> None:
        check_data(spec, objective.vae.likelihood, splits)
        check_weights(objective)
        check_best(spec, objective, splits)
        self.criterion = best_criterion(spec, objective)
        self.spec, self.splits, self.folder, self.allow_changed_data = spec, splits, folder, allow_changed_data
        self.step = Step(spec, objective, splits, processes)
        self.processes = self.step.processes
        self.reporter = reporter if reporter is not None and self.processes.leads else Silent()
        self.evaluator = Evaluator(spec, self.step.whole, splits, self.processes, self.step.memory_format)
        self.position, self.meter = Position(), Meter()
        self.checkpoints = Checkpoints(folder, self.step, splits)
        self.loggers = Loggers(spec, enabled=self.processes.leads)
        originals = self.evaluator.batches("validation")
        self.snapshots = Snapshots(spec, folder, self.step.whole.vae, originals)
        self.interruption = Interruption()
        self.saved_at = self.began_at = time.monotonic()
        self.late = False
        """Whether the time for training is up; all processes agree on it."""

    def fit(self, *, resume: bool = False) -> dict[str, Any]:
        """Train until the run is over or its time is up; evaluate the best weights on the test set and return the evaluation.

        The evaluation is empty if the time was up in the first epoch.

        Args:
            resume: Whether to resume from the latest checkpoint in the run folder.

        Raises:
            CheckpointError: The checkpoint to resume from is missing or truncated, or its architecture does not match.
            DataError: The data have changed.
            DivergenceError: A loss became NaN or infinite.
            Interrupted: The user stopped the run; a checkpoint was saved.
        """
        self.begin(resume=resume)
        return self.complete()

    def complete(self) -> dict[str, Any]:
        """Train the remaining epochs of a run started by `begin`, and finish it; see `fit`."""
        with self.interruption.listen(), self.session(), threads(self.spec.train.threads):
            self.step.encode()
            while not (self.is_over or self.late):
                pace = self.train_epoch()
                if pace is not None:
                    self.end_epoch(pace)
            if (reason := self.reason_to_stop()) is not None:
                self.reporter.note(reason)
            return self.finish() if self.is_over or self.position.best_epoch else {}

    @property
    def is_over(self) -> bool:
        """Whether there are no more epochs to train; see `TrainSpec.is_over`."""
        return self.spec.train.is_over(self.position.epoch, self.position.best_epoch)

    def train_epoch(self) -> Pace | None:
        """Take the remaining steps of the current epoch; return None if its time is up before."""
        position, size = self.position, self.spec.train.batch_size
        began = reported = time.perf_counter()
        first, seconds_before = position.step, position.seconds
        self.step.objective.train()
        for reading in self.step.batches.readings(position.epoch, start=first):
            number, terms = reading.number, self.step(reading)
            self.meter.add(terms)
            position.step += 1
            if self.step.device.type == "cpu" or number % CHECK_EVERY == 0:
                self.check_finite({"loss": terms["loss"].item()}, terms=terms)
            now = time.perf_counter()
            position.seconds = seconds_before + now - began
            if now - reported > REPORT_SECONDS:
                reported = now
                self.reporter.step(
                    position.epoch + 1, position.step, (position.step - first) * size / (now - began), self.meter.means()
                )
            self.save_or_stop(number)
            if self.late:
                return None
            if number + 1 == self.step.num_steps:
                break
        if self.step.device.type == "cuda":
            torch.cuda.synchronize()
        return Pace(began, (position.step - first) * size / max(time.perf_counter() - began, 1e-9))

    def end_epoch(self, pace: Pace) -> None:
        """Validate, take pictures, record the epoch, and save a checkpoint."""
        means = self.meter.means(self.processes)
        self.check_finite(means)
        self.check_state()
        with self.step.averaged(), self.step.gathered():
            scores = self.evaluator.scores("validation")
            self.check_finite({name: v for name, v in scores.items() if isinstance(v, float)}, where="validation")
            pictures = self.snapshots.take(self.position.epoch + 1) if self.processes.leads else {}
        improved, self.meter = self.position.end_epoch(scores, self.criterion), Meter()
        record = self.record(means, scores, pace, improved=improved)
        if self.processes.leads:
            self.folder.append_metrics(record)
            self.loggers.epoch(record, pictures)  # before the checkpoint, so that a run killed here logs the epoch again
        if improved:
            self.checkpoints.save_best(self.position.epoch)
        self.save()  # after the best weights, so that a run killed in between writes them again
        self.reporter.epoch(record)
        interrupted, self.late = self.processes.any(self.interruption.asked, self.time_is_up())
        if interrupted and not self.is_over:
            raise Interrupted

    def finish(self) -> dict[str, Any]:
        """Evaluate the best weights on the test set; write the animation and the evaluation.

        Loggers are notified at the end of a run, not when it pauses.
        """
        self.processes.wait()  # the leader has written the best weights
        best_epoch = self.checkpoints.load_best()
        with self.step.gathered():
            results = self.evaluator.evaluate("test", best_epoch)
            if self.processes.leads:
                self.snapshots.animate()
                write_text(self.folder.evaluation, json.dumps(results, indent=2) + "\n")
            if self.is_over or not self.late:
                codes = partial(codes_of, self.step.whole.vae, self.splits.test, self.spec)
                self.loggers.end(self.completed_steps, results, codes)
        self.reporter.end(results)
        return results

    def record(self, means: Mapping[str, float], scores: Mapping[str, Any], pace: Pace, *, improved: bool) -> dict[str, Any]:
        """Return the record of an epoch, a line of ``metrics.jsonl``; see `vaekit.evaluation.metrics`."""
        steps = self.completed_steps
        if {"kl", "reconstruction"} <= means.keys():
            means = {**means, "elbo": -(means["reconstruction"] + means["kl"])}
        return {
            "epoch": self.position.epoch,
            "step": steps,
            "lr": self.step.learning_rate(steps - 1),
            "seconds": round(self.position.seconds, 3),
            "images_per_second": round(pace.images_per_second, 1),
            "epoch_seconds": round(time.perf_counter() - pace.began, 3),
            **{f"train_{name}": value for name, value in means.items()},
            **{f"validation_{name}": value for name, value in scores.items()},
            "best": improved,
        }

    @property
    def completed_steps(self) -> int:
        """The number of steps in the completed epochs."""
        return min(self.position.epoch * self.step.steps_per_epoch, self.step.num_steps)

    def time_is_up(self) -> bool:
        """Whether this process has used up its training time."""
        most = self.spec.train.max_time
        return most is not None and time.monotonic() - self.began_at > most

    def reason_to_stop(self) -> str | None:
        """Return why training stops before the last epoch, in a sentence; None if it does not."""
        epoch, train = self.position.epoch, self.spec.train
        if epoch >= train.epochs:
            return None
        if self.is_over:
            metric = "loss" if self.criterion is None else self.criterion.name
            found = f"no better validation {metric} than in epoch {self.position.best_epoch}"
            return f"stops early, after epoch {epoch} of {train.epochs}: {found} (--patience {train.patience})"
        results = "" if self.position.best_epoch else "; no epoch is complete, so there is no model yet"
        return (
            f"pauses in epoch {epoch + 1} of {train.epochs}: {duration(train.max_time or 0)} have passed (--max-time); "
            f"continue with: vaekit resume {self.folder.path}{results}"
        )

    # Before and after the loop

    def begin(self, *, resume: bool = False) -> None:
        """Lock the run folder, restore the latest checkpoint if requested, and start the loggers and the reporter."""
        if self.processes.leads:
            self.folder.acquire()
        try:
            if self.processes.leads:
                check_space(self.folder.path, self.checkpoints.size)
                self.checkpoints.check()
            if self.processes.leads and not resume:
                self.folder.cut_metrics(0)  # of an epoch that ended with its process, before the first checkpoint
            notes = (self._resume() if resume else self.checkpoints.load_initial() + self._few_steps()) + self._notes()
            logged = self.loggers.start(self.folder.path, self.completed_steps if resume else None)
            self.reporter.start(self._start(notes + logged))
            self.began_at = time.monotonic()
        except BaseException:
            if self.processes.leads:
                self.folder.release()
            raise

    @contextmanager
    def session(self) -> Iterator[None]:
        """Stop the loggers and release the folder on exit, also after an error."""
        try:
            with self.loggers:
                yield
        finally:
            if self.processes.leads:
                self.folder.release()

    def save(self) -> None:
        """Write the checkpoint that training resumes from."""
        self.check_finite(self.meter.means())
        self.saved_at = time.monotonic()
        self.checkpoints.save_last(self.position, self.meter)

    def save_or_stop(self, number: int) -> None:
        """Save a checkpoint if one is due or the time is up, and stop if the user requested it.

        Several processes agree on this every few steps.
        """
        if self.processes.size > 1 and number % CHECK_EVERY:
            return
        due = time.monotonic() - self.saved_at > self.spec.train.checkpoint_seconds
        interrupted, due, self.late = self.processes.any(self.interruption.asked, due, self.time_is_up())
        if interrupted or due or self.late:
            self.check_state()
            self.save()
        if interrupted:
            raise Interrupted

    def check_finite(
        self, values: Mapping[str, float], *, terms: Mapping[str, Tensor] | None = None, where: str = "training"
    ) -> None:
        """Raise an error if a value is NaN or infinite.

        Args:
            values: The values to check.
            terms: The terms of the objective, to name in the error instead of the values.
            where: The phase that computed them.

        Raises:
            DivergenceError: A number is not finite; the message names the terms, the step and the first non-finite tensor.
        """
        if all(math.isfinite(value) for value in values.values()):
            return
        if terms is not None:
            values = {name: term.item() for name, term in terms.items()}
        epoch = self.position.epoch + 1
        when = f"at epoch {epoch}, step {self.position.step}" if where == "training" else f"in the {where} of epoch {epoch}"
        raise divergence(values, when, self.step.objective, self.folder.last)

    def check_state(self) -> None:
        """Raise an error if a weight or a moment of the optimiser is NaN or infinite, from which training would not recover.

        Infinite moments silently stop a weight, since Adam divides its steps by them.

        Raises:
            DivergenceError: One is; the message names the first few.
        """
        names = self.step.non_finite()
        (spoiled,) = self.processes.any(bool(names))
        if spoiled:
            raise DivergenceError(
                f"weights or the optimiser's moments are not finite in epoch {self.position.epoch + 1}",
                given=", ".join(names[:3]) or "tensors of another process",
                expected="finite numbers; gradients above 1e19 overflow when they are squared",
                remedy="use smaller loss weights, such as --beta, or set --grad-clip",
            )

    def _resume(self) -> tuple[str, ...]:
        self.position, self.meter, notes = self.checkpoints.load_last(allow_changed_data=self.allow_changed_data)
        if self.processes.leads:
            self.folder.cut_metrics(self.position.epoch)
            if not self.is_over:
                self.snapshots.restore(self.position.epoch)
        return notes

    def _few_steps(self) -> tuple[str, ...]:
        if self.step.num_steps >= FEW_STEPS:
            return ()
        return (f"the run has only {self.step.num_steps} steps; a smaller --batch-size or more --epochs trains for longer",)

    def _notes(self) -> tuple[str, ...]:
        """Return what the user should know before the first metrics appear."""
        notes: tuple[str, ...] = ()
        if frozen := self.step.objective.frozen:
            trained = sum(p.numel() for p in self.step.objective.parameters() if p.requires_grad)
            notes += (f"frozen: {', '.join(frozen)}; {trained:,} parameters are trained",)
        if self.step.could_encode_once and not self.step.keeps_codes:
            size = f"{4 * self.step.num_codes / 2**30:.1f} GiB"
            notes += (f"the posteriors of all training images would take {size}, so images are encoded in every step",)
        vae, train = self.step.objective.vae, self.spec.train
        if lacking := without_density(vae.posterior, vae.prior):
            notes += (f"{lacking}, so there is no KL, no ELBO and no log p(x)",)
        sides, stride = vae.data_shape[1:], self.spec.model.latent_stride
        if stride is None and vae.data_shape[0] == 3 and len(sides) == 2 and min(sides) >= SHARP_FROM:
            grid = "--latent-dim 8 --latent-stride 8, and a convolutional encoder"
            notes += (f"a vector of latents blurs pictures; a grid of latents keeps their details: {grid}",)
        if stride is not None and any(side % stride for side in sides):
            size, whole = ("×".join(map(str, each)) for each in (sides, [stride * math.ceil(side / stride) for side in sides]))
            notes += (f"the latent stride of {stride} does not divide {size}: the grid of latents is that of {whole}",)
        if self.criterion is None and train.best == "auto":
            notes += ("a critic is trained, so epochs cannot be compared by loss: the last one counts as the best, see --best",)
        if train.max_steps is not None and self.step.num_steps < train.max_steps:
            notes += (f"--epochs {train.epochs} ends the run after {self.step.num_steps:,} steps, before --max-steps",)
        if (average := self.step.average) is not None:
            notes += ("training metrics use the raw weights; validation, pictures and the saved model use their moving average",)
            if average.rises(self.step.num_steps):
                notes += (f"--ema {average.decay:g} is not reached in {self.step.num_steps} steps: see `vaekit train --help`",)
        if self.processes.size > 1 and self.spec.train.compile == "graph":
            notes += ("with several processes, steps are launched kernel by kernel instead of being replayed as a CUDA graph",)
        return notes

    def _start(self, notes: tuple[str, ...]) -> Start:
        train, device = self.spec.train, self.step.device
        threads = f", {counted(train.threads or 1, 'thread')}" if device.type == "cpu" else ""
        processes = f", {self.processes.size} processes" if self.processes.size > 1 else ""
        launch = ", compiled" if train.compile == "on" else ""
        launch += ", steps replayed as one CUDA graph" if self.step.replay is not None else ""
        return Start(
            run=str(self.folder.path),
            epochs=train.epochs,
            steps_per_epoch=self.step.steps_per_epoch,
            num_steps=self.step.num_steps,
            first_epoch=self.position.epoch,
            num_images={name: len(part) for name, part in self.splits.parts.items()},
            num_parameters=sum(p.numel() for p in self.step.objective.parameters()),
            device=f"{device.type}{threads}, {train.precision}{processes}{launch}",
            elbo=self.evaluator.elbo,
            notes=notes,
        )
