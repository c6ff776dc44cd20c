"""The training step and its parts."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any, cast
from weakref import proxy

import torch
from torch import Tensor, nn

from vaekit.compute import graphs
from vaekit.compute.distributed import ProcessGroup
from vaekit.compute.graphs import Replay
from vaekit.compute.layout import lay_out
from vaekit.compute.process import compiled, keep_freed_memory
from vaekit.compute.sharding import gathered, own, shard
from vaekit.data.batches import Batch, Batches, full_batches
from vaekit.data.sources import Splits
from vaekit.errors import UsageError
from vaekit.interfaces import Optim
from vaekit.model.objective import Inputs, Objective, Player
from vaekit.specs.models import RunSpec
from vaekit.streams import Streams
from vaekit.training.average import MovingAverage


class Step:
    """A training step of one model: forward, backward, the optimisers and, if enabled, the moving average (EMA) of the weights.

    Every random draw and schedule of a step is a function of the step number, so training can resume at any step.

    Args:
        spec: A complete spec, fitted to this machine.
        objective: The objective to minimise; it is moved to the device of the processes.
        processes: The processes that train together; default: this process alone.
    """

    def __init__(self, spec: RunSpec, objective: Objective, processes: ProcessGroup | None = None) -> None:
        self.spec, self.processes = spec, processes or ProcessGroup(device=spec.train.device)
        self.device, self.streams = self.processes.device, Streams(spec.train.seed)
        if self.device.type == "cpu":
            keep_freed_memory()
        train, several = spec.train, self.processes.size > 1
        self.objective = objective.to(self.device)
        divided = several and train.parallel == "fsdp"
        self.memory_format = torch.contiguous_format if divided else lay_out(self.objective)
        self.whole = self._divide() if divided else self.objective
        """The whole model, filled within `gathered`; if the model is sharded, `objective` holds a shard of each parameter."""
        if several and (self.objective.batch_statistic or self.objective.learners):
            self.objective.gather = self.processes.gather
        self.optimizers = [self._optimizer(player) for player in self.objective.players]
        self.learned = {name: self.objective.get_buffer(name) for name in self.objective.learned}
        moving: dict[str, Tensor] = {name: each for name, each in self.objective.named_parameters() if each.requires_grad}
        moving |= {name: buffer for name, buffer in self.learned.items() if buffer.is_floating_point()}
        self.average = None if train.ema is None else MovingAverage(moving, train.ema)
        self.forward = self._launched()
        self.clock = torch.zeros((), device=self.device)
        self.steps_per_epoch = full_batches(objective.num_data or 0, train.batch_size)
        self.num_steps = train.epochs * self.steps_per_epoch
        self.replay: Replay[dict[str, Tensor]] | None = None
        if self.device.type in graphs.DEVICES and train.compile in ("on", "graph") and not several:
            self._record()

    def __call__(self, batch: Batch, number: int) -> dict[str, Tensor]:
        """Take step ``number``; return the terms of the objective, each 0-d."""
        x, target, noise, _, y, draws = self.inputs(batch, number)
        self.set_rates(number)
        take = self.take if self.replay is None else self.replay
        return take(x, target, noise, y, draws)

    def inputs(self, batch: Batch, number: int) -> Inputs:
        """Return the inputs of the objective at a step: the batch, its noise and the time."""
        self.clock.fill_(number / self.steps_per_epoch)
        return self.objective.inputs_of(batch, self.streams, number, epoch=self.clock)

    def set_rates(self, number: int) -> None:
        """Set the learning rates of a step and the weight of its parameters in the moving average."""
        factor = self.lr_factor(number)
        for optimizer in self.optimizers:
            (group,) = optimizer.param_groups
            rate = group["peak_lr"] * factor
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)  # read by the recorded step
            else:
                group["lr"] = rate
        if self.average is not None:
            self.average.set_step(number)

    def take(
        self, x: Tensor, target: Tensor, noise: Tensor, y: Tensor | None, draws: dict[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """Take a step on data and noise, at the time and learning rates already set."""
        with self.autocast():
            total, terms, state = self.forward(Inputs(x, target, noise, self.clock, y, draws))
        total.backward()
        self.update(state)
        return dict(terms)

    def update(self, state: Mapping[str, Tensor]) -> None:
        """Step every optimiser, clear the gradients, set the next state, and update the moving average, if any."""
        for optimizer in self.optimizers:
            (group,) = optimizer.param_groups
            if self.spec.train.grad_clip is not None:
                torch.nn.utils.clip_grad_norm_(group["params"], self.spec.train.grad_clip)
            decay(group)
            optimizer.step()
            for parameter in group["params"]:  # what zero_grad does, a tenth of a millisecond faster
                parameter.grad = None
        for name, value in state.items():
            self.learned[name].copy_(value)
        if self.average is not None:
            self.average.update()

    def non_finite(self) -> list[str]:
        """Return the names of weights, and of moments of the optimisers, that are NaN or infinite; this synchronises."""
        states: dict[Tensor, dict[str, Tensor]] = {}
        for optimizer in self.optimizers:
            states |= optimizer.state
        found = {}
        for name, parameter in self.objective.named_parameters():
            found[name] = own(parameter.detach())
            moments = states.get(parameter, {})
            found |= {f"{key} of {name}": own(moments[key]) for key in ("exp_avg", "exp_avg_sq") if key in moments}
        finite = torch.stack([tensor.isfinite().all() for tensor in found.values()]).tolist()
        return [name for name, fine in zip(found, finite, strict=True) if not fine]

    def autocast(self) -> AbstractContextManager[None]:
        """Return the autocast context of a step."""
        if self.spec.train.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def lr_factor(self, number: int) -> float:
        """Return the learning rate of a step as a fraction of the peak."""
        train = self.spec.train
        if train.schedule == "constant":
            return 1.0
        if train.schedule == "step":
            return train.lr_gamma ** bisect_right(train.lr_milestones, number // self.steps_per_epoch)
        return 0.5 * (1.0 + math.cos(math.pi * number / self.num_steps))

    def learning_rate(self, number: int) -> float:
        """Return the learning rate of a step; if there are several players, that of the first."""
        return float(self.optimizers[0].param_groups[0]["peak_lr"]) * self.lr_factor(number)

    def averaged(self) -> AbstractContextManager[None]:
        """Use the moving average in place of the weights, if there is one, within a context: it is what a run saves."""
        return nullcontext() if self.average is None else self.average.in_place()

    def gathered(self) -> AbstractContextManager[None]:
        """Fill `whole` within a context, so that each process can use the model independently of the others."""
        return gathered(self.objective, self.whole)

    def _optimizer(self, player: Player) -> torch.optim.AdamW:
        settings = self.spec.train.model_dump(include=set(Optim.__annotations__))
        settings |= {name: value for name, value in asdict(player.optim).items() if value is not None}
        parameters = self.objective.parameters_of(player)
        return torch.optim.AdamW(
            [{"params": parameters, "peak_lr": settings["lr"], "decay": settings["weight_decay"]}],
            betas=settings["betas"],
            eps=settings["eps"],
            weight_decay=0.0,  # see `decay`
            fused=self.device.type in {"cpu", "cuda"},
        )

    def _divide(self) -> Objective:
        if len(self.objective.producers) > 1:  # each player would run the sharded modules again with parameters of its own
            raise UsageError(
                "a model whose parameters belong to several players cannot be sharded across processes",
                given="; ".join(" + ".join(self.objective.players[number].aims) for number in sorted(self.objective.producers)),
                expected="one player that owns the encoder, the decoder, the posterior, the prior and the likelihood",
                remedy="train with --parallel ddp",
            )
        backbones = self.objective.vae.encoder, self.objective.vae.decoder
        return cast("Objective", shard(self.objective, backbones, self.processes))

    def _launched(self) -> nn.Module:
        """Return the objective as training calls it: compiled if requested, with gradients averaged over processes."""
        forward: nn.Module = self.objective
        if self.spec.train.compile == "on":
            forward = cast("nn.Module", compiled(forward, whole=True))
        if self.processes.size > 1 and self.spec.train.parallel == "ddp":
            devices = [self.device] if self.device.type == "cuda" else None
            forward = nn.parallel.DistributedDataParallel(forward, device_ids=devices)
        return forward

    def _record(self) -> None:
        """Record a step as a CUDA graph, to be replayed; Python then supplies only data, noise, time and learning rates."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(group["lr"], device=self.device)
                group["capturable"] = True
        me = cast("Step", proxy(self))  # a strong reference in the recording would keep the step alive
        self.replay = Replay(partial(Step.take, me))


@torch.no_grad()
def decay(group: Mapping[str, Any]) -> None:
    """Apply the decoupled weight decay of AdamW to a group's parameters of two or more dimensions that have a gradient.

    Biases, the weights of normalisations and learned scales are left alone: they do not multiply features, and shrinking a log
    scale would pull the standard deviation of the pixels towards 1.
    """
    if group["decay"]:
        keep = 1.0 - group["lr"] * group["decay"]
        for parameter in group["params"]:
            if parameter.ndim > 1 and parameter.grad is not None:
                parameter.mul_(keep)


def training_batches(step: Step, splits: Splits) -> Batches:
    """Return the batches that a step trains on: in a new order each epoch, augmented as the spec requests."""
    spec, processes = step.spec, step.processes
    return Batches(
        splits.train,
        batch_size=spec.train.batch_size,
        streams=step.streams,
        binarize=spec.data.binarize,
        augment=spec.data.augment,
        device=step.device,
        workers=spec.train.workers,
        memory_format=step.memory_format,
        rank=processes.rank,
        world_size=processes.size,
        replays=step.replay is not None,
    )
