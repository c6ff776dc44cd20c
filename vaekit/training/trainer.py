"""The training loop: one for every model. `Trainer.fit` reads from top to bottom."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast
from weakref import proxy

import torch
from torch import Tensor

from vaekit import graphs
from vaekit.assembly import build_objective, build_vae, lay_out
from vaekit.data import Batch, Batches, Splits
from vaekit.errors import DivergenceError
from vaekit.evaluation.bound import bits_per_dim, evaluate, meaning_of_elbo
from vaekit.files import write_text
from vaekit.graphs import Replay
from vaekit.objective import Inputs, Player
from vaekit.specs import RunSpec
from vaekit.streams import Streams
from vaekit.training import checkpoint
from vaekit.training.average import MovingAverage
from vaekit.training.checks import check_data, check_weights, is_binary
from vaekit.training.folder import RunFolder, check_space
from vaekit.training.loggers import Loggers, codes_of
from vaekit.training.meter import Meter
from vaekit.training.pictures import TrainingPictures
from vaekit.training.process import Interrupted, Interruption, compiled, keep_freed_memory, threads
from vaekit.training.report import Reporter, Silent, Start
from vaekit.training.sharding import collect, gathered, own, shard
from vaekit.training.world import World

CHECK_EVERY = 50
"""Steps between looks at the loss on a device where a look stops the pipeline; on the CPU each step is looked at."""
REPORT_SECONDS = 0.25
FEW_STEPS = 500
"""Steps of a run below which it is said that they are few."""


@dataclass
class Position:
    """How far training has come: all that a checkpoint needs besides tensors, as every draw is a function of (seed, step).

    Args:
        epoch: Whole epochs done.
        step: Steps done in the current one.
        best: Lowest validation objective so far; None before the first.
        best_epoch: When it was reached.
        seconds: Time spent on training steps.
    """

    epoch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0


class Trainer:
    """Trains the model of a resolved spec in a run folder.

    Args:
        spec: A resolved spec.
        splits: Its data.
        folder: The run folder; a checkpoint in it is taken up by ``fit(resume=True)``.
        reporter: Receives the progress.
        world: The processes that train together; this one alone unless given.

    Raises:
        UsageError: The spec does not fit the data.
    """

    def __init__(
        self,
        spec: RunSpec,
        splits: Splits,
        folder: RunFolder,
        reporter: Reporter | None = None,
        world: World | None = None,
    ) -> None:
        self.spec, self.splits, self.folder = spec, splits, folder
        self.world = world or World(device=spec.train.device)
        self.reporter = reporter if reporter is not None and self.world.leads else Silent()
        train, device = spec.train, self.world.device
        if device.type == "cpu":
            keep_freed_memory()
        self.device = device
        self.streams = Streams(train.seed)
        vae = build_vae(spec.model, splits.shape, seed=train.seed)
        check_data(spec, vae.likelihood, splits)
        self.objective = build_objective(spec.model, vae, num_data=len(splits.train)).to(device)
        check_weights(self.objective)
        divided = self.world.size > 1 and train.parallel == "fsdp"
        self.memory_format = torch.contiguous_format if divided else lay_out(self.objective)
        self.whole = shard(self.objective, self.world) if divided else self.objective
        if self.world.size > 1 and self.objective.batch_statistic:
            self.objective.gather = self.world.gather
        self.optimizers = [
            torch.optim.AdamW(
                [{"params": self.objective.parameters_of(player), "peak_lr": train.lr * player.lr_scale}],
                weight_decay=train.weight_decay,
                fused=device.type in {"cpu", "cuda"},
            )
            for player in cast("Iterable[Player]", self.objective.players)
        ]
        self.average = None if train.ema is None else MovingAverage(self.objective, train.ema)
        self.forward = self._forward()
        self.clock = torch.zeros((), device=device)
        self.replay: Replay[dict[str, Tensor]] | None = None
        if device.type in graphs.DEVICES and train.compile in ("on", "graph") and self.world.size == 1:
            self._replay_steps()
        self.batches = self._batches("train", train=True)
        self.validation = self.evaluation_batches("validation")
        self.position, self.meter = Position(), Meter()
        self.total_steps = train.epochs * self.batches.steps_per_epoch
        self.loggers = Loggers(spec, self.batches.steps_per_epoch, enabled=self.world.leads)
        self.pictures = TrainingPictures(spec, folder, self.whole.vae, self.validation, self.streams, tell=self.loggers.picture)
        self.binary = is_binary(spec, splits)
        self.elbo = meaning_of_elbo(vae.likelihood, binary=self.binary)
        self.interruption = Interruption()
        self.saved_at = time.monotonic()

    def _batches(self, split: str, *, train: bool) -> Batches:
        return Batches(
            getattr(self.splits, split),
            batch_size=self.spec.train.batch_size,
            streams=self.streams,
            binarize=self.spec.data.binarize or "none",
            augment=self.spec.data.augment,
            device=self.device,
            train=train,
            split=split,
            workers=self.spec.train.workers,
            memory_format=self.memory_format,
            rank=self.world.rank,
            world_size=self.world.size,
            in_turn=not train and self.objective.batch_statistic,
            replays=train and self.replay is not None,
        )

    def _forward(self) -> torch.nn.Module:
        """Return the objective as training calls it: compiled where asked for, and averaging gradients over processes."""
        forward: torch.nn.Module = self.objective
        if self.spec.train.compile == "on":
            forward = cast("torch.nn.Module", compiled(forward, whole=True))
        if self.world.size > 1 and self.spec.train.parallel == "ddp":
            devices = [self.device] if self.device.type == "cuda" else None
            forward = torch.nn.parallel.DistributedDataParallel(forward, device_ids=devices)
        return forward

    def _replay_steps(self) -> None:
        """Record a step once as a CUDA graph and replay it: all that Python then gives it is data, noise, time and rates."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(group["lr"], device=self.device)
                group["capturable"] = True
        self.replay = Replay(partial(Trainer._take, proxy(self)))  # not itself, or it would outlive its last user

    # The loop

    def fit(self, *, resume: bool = False) -> dict[str, Any]:
        """Train to the last epoch, evaluate the best weights on the test set, and return that evaluation.

        Args:
            resume: Take up the last checkpoint of the run folder.

        Raises:
            CheckpointError: The checkpoint to resume is missing, truncated or of another architecture.
            DivergenceError: A loss became NaN or infinite.
            Interrupted: The user stopped it; a checkpoint was saved.
        """
        self.begin(resume=resume)
        return self.complete()

    def complete(self) -> dict[str, Any]:
        """Train what is left of a run that was begun, as `fit` does."""
        with self.interruption.listen(), self.session(), threads(self.spec.train.threads):
            while self.position.epoch < self.spec.train.epochs:
                began = time.perf_counter()
                self.complete_epoch(self.train_epoch(), began)
            return self.finish()

    def begin(self, *, resume: bool = False) -> None:
        """Hold the run folder, take up the last checkpoint where asked to, start the loggers and tell the reporter."""
        if self.world.leads:
            self.folder.hold()
        try:
            self._begin(resume=resume)
        except BaseException:
            if self.world.leads:
                self.folder.let_go()
            raise

    def _begin(self, *, resume: bool) -> None:
        if self.world.leads:
            check_space(self.folder.path, self.space)
        notes: tuple[str, ...] = self._resume() if resume else ()
        if not resume and self.total_steps < FEW_STEPS:
            notes = (f"{self.total_steps} steps in all are few: a smaller --batch-size or more --epochs trains longer",)
        if self.average is not None:
            notes += ("train numbers are of the weights in training; validated, drawn and kept is their moving average",)
            if self.average.rises(self.total_steps):
                notes += (f"--ema {self.average.decay:g} is not reached in {self.total_steps} steps: see `vaekit train --help`",)
        if self.world.size > 1 and self.spec.train.compile == "graph":
            notes += ("steps of several processes are launched kernel by kernel, not replayed as a CUDA graph",)
        logged = self.loggers.start(self.folder.path, self.position.epoch if resume else None)
        self.reporter.start(self._start(notes + logged))

    @contextmanager
    def session(self) -> Iterator[None]:
        """End what `begin` began, whatever happens: the loggers once they were told the last pictures, the hold on the folder."""
        try:
            with self.loggers:
                try:
                    yield
                finally:
                    self.pictures.wait()
        finally:
            if self.world.leads:
                self.folder.let_go()

    @property
    def space(self) -> int:
        """Bytes that the run's files take, about."""
        return 40 * sum(p.numel() for p in self.objective.parameters()) + 20_000_000

    def complete_epoch(self, speed: float, began: float) -> None:
        """Do what follows an epoch's steps: validate, take pictures, record, save.

        Args:
            speed: Images a second of the steps.
            began: When the epoch began, by ``time.perf_counter``.
        """
        means = self.meter.means(self.world)
        self.check_finite(means)
        with self.averaged(), gathered(self.objective, self.whole):
            scores = self._evaluate(self.validation, "validation")
            self.check_finite({name: v for name, v in scores.items() if isinstance(v, float)}, where="validation")
            if self.world.leads:
                self.pictures.take(self.position.epoch + 1)
        self._end_epoch(means, scores, speed, began)

    def train_epoch(self) -> float:
        """Take the rest of an epoch's steps; return images a second."""
        self.objective.train()
        position, reported = self.position, time.perf_counter()
        began, first, resumed_seconds = reported, position.step, position.seconds
        for batch in self.batches.epoch(position.epoch, start=position.step):
            step = position.epoch * self.batches.steps_per_epoch + position.step
            terms = self.step(batch, step)
            self.meter.add(terms)
            position.step += 1
            if self.device.type == "cpu" or step % CHECK_EVERY == 0:
                self.check_finite({"loss": terms["loss"].item()}, terms=terms)
            now = time.perf_counter()
            position.seconds = resumed_seconds + now - began
            if now - reported > REPORT_SECONDS:
                reported = now
                speed = (position.step - first) * self.spec.train.batch_size / (now - began)
                self.reporter.step(position.epoch + 1, position.step, speed, self.meter.means())
            self._stop_or_save(step)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        taken = position.step - first
        return taken * self.spec.train.batch_size / max(time.perf_counter() - began, 1e-9) if taken else 0.0

    def _stop_or_save(self, step: int) -> None:
        """Save a checkpoint where one is due; stop where the user asked for it. Processes agree on both every few steps."""
        if self.world.size > 1 and step % CHECK_EVERY:
            return
        due = time.monotonic() - self.saved_at > self.spec.train.checkpoint_seconds
        interrupted, due = self.world.any(self.interruption.asked, due)
        if interrupted or due:
            self.save()
        if interrupted:
            raise Interrupted

    def step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take one step: everything that it draws or schedules is a function of its number."""
        x, target, noise, _, y = self.inputs(batch, step)
        self.set_rates(step)
        take = self._take if self.replay is None else self.replay
        return take(x, target, noise, y)

    def _take(self, x: Tensor, target: Tensor, noise: Tensor, y: Tensor | None) -> dict[str, Tensor]:
        """Take the step that data and noise make, at the time and the rates that are set."""
        with self.autocast():
            total, terms = self.forward(Inputs(x, target, noise, self.clock, y))
        total.backward()
        self.update()
        return dict(terms)

    def set_rates(self, step: int) -> None:
        """Set the learning rates of a step, and what its weights count in their average."""
        factor = self.lr_factor(step)
        for optimizer in self.optimizers:
            (group,) = optimizer.param_groups
            rate = group["peak_lr"] * factor
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)  # where a recorded step reads it
            else:
                group["lr"] = rate
        if self.average is not None:
            self.average.set_step(step)

    def update(self) -> None:
        """Let every optimiser take its step, drop the gradients, and average the weights where asked to."""
        for optimizer in self.optimizers:
            (group,) = optimizer.param_groups
            if self.spec.train.grad_clip is not None:
                torch.nn.utils.clip_grad_norm_(group["params"], self.spec.train.grad_clip)
            optimizer.step()
            for parameter in group["params"]:  # what zero_grad does, and a tenth of a millisecond less
                parameter.grad = None
        if self.average is not None:
            self.average.update()

    def averaged(self) -> AbstractContextManager[None]:
        """Put the average of the weights, where there is one, in their place for a while: it is what a run gives."""
        return nullcontext() if self.average is None else self.average.in_place()

    def inputs(self, batch: Batch, step: int) -> Inputs:
        """Return what the objective is a function of at a step: the batch, its noise and the time."""
        self.clock.fill_(step / self.batches.steps_per_epoch)
        generator = self.streams.generator("posterior", step, self.device)
        noise = batch.share(partial(self.objective.vae.posterior.draw_noise, generator=generator, like=batch.inputs))
        return Inputs(batch.inputs, batch.x, noise, self.clock, batch.y)

    def autocast(self) -> AbstractContextManager[None]:
        """The arithmetic of a step."""
        if self.spec.train.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def lr_factor(self, step: int) -> float:
        """Return the learning rate of a step as a part of the highest."""
        if self.spec.train.schedule == "constant":
            return 1.0
        return 0.5 * (1.0 + math.cos(math.pi * step / self.total_steps))

    def _end_epoch(self, means: Mapping[str, float], scores: Mapping[str, Any], speed: float, began: float) -> None:
        """Record the epoch, keep the weights if they are the best so far, and save a checkpoint."""
        position = self.position
        position.epoch, position.step, self.meter = position.epoch + 1, 0, Meter()
        improved = position.best is None or scores["loss"] < position.best
        if improved:
            position.best, position.best_epoch = scores["loss"], position.epoch
        steps = position.epoch * self.batches.steps_per_epoch
        record = {
            "epoch": position.epoch,
            "step": steps,
            "lr": self.optimizers[0].param_groups[0]["peak_lr"] * self.lr_factor(steps - 1),
            "seconds": round(position.seconds, 3),
            "images_per_second": round(speed, 1),
            "epoch_seconds": round(time.perf_counter() - began, 3),
            **{f"train_{name}": value for name, value in _with_elbo(means).items()},
            **{f"validation_{name}": value for name, value in scores.items()},
            "best": improved,
        }
        if self.world.leads:
            self.folder.append_metrics(record)
            self.loggers.epoch(record)  # before the checkpoint, so that a run which is killed here tells it again
        if improved:
            self._save_best()
        self.save()  # after the best, which a run that is killed in between then writes again
        self.reporter.epoch(record)
        (interrupted,) = self.world.any(self.interruption.asked)
        if interrupted and position.epoch < self.spec.train.epochs:
            raise Interrupted

    def finish(self) -> dict[str, Any]:
        """Evaluate the best weights on the test set; write the animation and the numbers."""
        self.world.wait()  # the leader has written the best weights
        results = self.load_best().test()
        if self.world.leads:
            self.pictures.animate()
            write_text(self.folder.evaluation, json.dumps(results, indent=2) + "\n")
        with gathered(self.objective, self.whole):
            self.loggers.end(results, partial(codes_of, self.whole.vae, self.splits.test, self.spec))
        self.reporter.end(results)
        return results

    def load_best(self) -> Trainer:
        """Put the best weights in place, and return the trainer.

        Raises:
            CheckpointError: There are none, or they are truncated or of another architecture.
        """
        tensors, header = checkpoint.load(self.folder.best, device=self.device, world=self.world)
        checkpoint.load_weights(self.objective, tensors, self.folder.best)
        self.position.best_epoch = header.state["epoch"]
        return self

    def evaluation_batches(self, split: str) -> Batches:
        """Return a split's batches for evaluation: in sequence, all of them, not augmented."""
        return self._batches(split, train=False)

    def _evaluate(self, batches: Batches, split: str) -> dict[str, float | list[float]]:
        return evaluate(self.whole, batches.epoch(0), self.streams, split=split, reduce=self.world.total)

    def test(self, split: str = "test") -> dict[str, Any]:
        """Evaluate the weights as they are on a split."""
        with gathered(self.objective, self.whole):
            scores = self._evaluate(self.evaluation_batches(split), split)
        results: dict[str, Any] = {
            "split": split,
            "num_images": len(getattr(self.splits, split)),
            "epoch": self.position.best_epoch,
            "elbo_is": self.elbo,
            **scores,
        }
        likelihood = self.objective.vae.likelihood
        if likelihood.continuous and likelihood.normalised and self.splits.train.integer and "elbo" in scores:
            results["bits_per_dim"] = bits_per_dim(scores["elbo"], math.prod(self.splits.shape))  # type: ignore[arg-type]
        return results

    # Checkpoints

    def _save_best(self) -> None:
        """Write the weights that are the best so far: the objective's, which evaluation takes up, and the model's alone."""
        with self.averaged():
            weights = collect(self.objective.state_dict(), self.world)
            files = {self.folder.best: weights, self.folder.model: checkpoint.without_prefix("vae.", weights)}
            for path, tensors in files.items() if self.world.leads else ():
                checkpoint.save(path, tensors, self.spec, self.splits.shape, {"epoch": self.position.epoch})

    def save(self) -> None:
        """Write the checkpoint that training resumes from."""
        self.check_finite(self.meter.means())
        self.saved_at = time.monotonic()
        meter = None if self.meter.sums is None else self.world.sum(self.meter.sums.clone()) / self.world.size
        tensors = checkpoint.with_prefix("objective.", self.objective.state_dict())
        tensors |= checkpoint.with_prefix("optimizer.", checkpoint.optimizer_tensors(self.optimizers))
        if self.average is not None:
            tensors |= checkpoint.with_prefix("average.", self.average.tensors)
        tensors = collect(tensors, self.world)
        if not self.world.leads:
            return
        if meter is not None:
            tensors["meter"] = meter
        state = asdict(self.position) | {
            "meter_names": self.meter.names,
            "meter_count": self.meter.count,
            "threads": self.spec.train.threads,
        }
        checkpoint.save(self.folder.last, tensors, self.spec, self.splits.shape, state)

    def _resume(self) -> tuple[str, ...]:
        """Take up the last checkpoint of the run folder; return what differs from when it was saved.

        Raises:
            CheckpointError: It is absent, truncated, or of another architecture.
        """
        path = self.folder.last
        tensors, header = checkpoint.load(path, device=self.device, world=self.world)
        checkpoint.load_weights(self.objective, checkpoint.without_prefix("objective.", tensors), path)
        checkpoint.load_optimizer_tensors(self.optimizers, checkpoint.without_prefix("optimizer.", tensors))
        if self.average is not None:
            averages = checkpoint.without_prefix("average.", tensors)
            self.average.tensors = checkpoint.matched(self.average.tensors, averages, path)
        state = dict(header.state)
        names, count, threads = state.pop("meter_names"), state.pop("meter_count"), state.pop("threads")
        self.position = Position(**state)
        self.meter.names, self.meter.count, self.meter.sums = names, count, tensors.get("meter")
        if self.world.leads:
            self.folder.cut_metrics(self.position.epoch)
        now = {"torch": torch.__version__, "threads": self.spec.train.threads, "device": self.spec.train.device}
        then = {"torch": header.versions["torch"], "threads": threads, "device": header.spec.train.device}
        return tuple(f"{key} was {then[key]}, now {now[key]}: not bit-exact" for key in now if now[key] != then[key])

    # Checks and reports

    def check_finite(
        self, values: Mapping[str, float], *, terms: Mapping[str, Tensor] | None = None, where: str = "training"
    ) -> None:
        """Stop at a NaN or infinite number, and name what is to blame."""
        if all(math.isfinite(value) for value in values.values()):
            return
        if terms is not None:
            values = {name: value.item() for name, value in terms.items()}
        epoch, step = self.position.epoch + 1, self.position.step
        blamed = [name for name, value in values.items() if not math.isfinite(value)]
        when = f"at epoch {epoch}, step {step}" if where == "training" else f"in the {where} of epoch {epoch}"
        tensors = [name for name, p in self.objective.named_parameters() if not own(p).isfinite().all()]
        saved = self.folder.last if self.folder.last.exists() else None
        raise DivergenceError(
            f"the loss is not finite: {', '.join(blamed)} {when}",
            given=f"non-finite weights first in {tensors[0]}" if tensors else "all weights are finite",
            expected="finite losses",
            remedy=f"lower --lr, or set --grad-clip; last good checkpoint: {saved or 'none was saved yet'}",
        )

    def _start(self, notes: tuple[str, ...]) -> Start:
        data = {name: len(getattr(self.splits, name)) for name in ("train", "validation", "test")}
        threads = f", {self.spec.train.threads} threads" if self.device.type == "cpu" else ""
        processes = f", {self.world.size} processes" if self.world.size > 1 else ""
        launch = ", compiled" if self.spec.train.compile == "on" else ""
        launch += ", steps replayed as one CUDA graph" if self.replay is not None else ""
        return Start(
            run=str(self.folder.path),
            epochs=self.spec.train.epochs,
            steps_per_epoch=self.batches.steps_per_epoch,
            first_epoch=self.position.epoch,
            num_images=data,
            num_parameters=sum(p.numel() for p in self.objective.parameters()),
            device=f"{self.device.type}{threads}, {self.spec.train.precision}{processes}{launch}",
            elbo=self.elbo,
            notes=notes,
        )


def _with_elbo(means: Mapping[str, float]) -> dict[str, float]:
    return dict(means) | ({"elbo": -(means["reconstruction"] + means["kl"])} if "kl" in means else {})
