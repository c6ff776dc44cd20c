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
from vaekit.compute.optimizers import AdamW
from vaekit.compute.process import compiled, keep_freed_memory
from vaekit.compute.sharding import gathered, own, shard
from vaekit.data.batches import Batches, Reading, full_batches
from vaekit.data.sources import ImageSource, Splits, TensorImages
from vaekit.errors import UsageError
from vaekit.interfaces import Module, Optim
from vaekit.model.objective import Inputs, Objective, Player
from vaekit.specs.models import RunSpec
from vaekit.streams import JointStreams, RecordableStreams, Streams
from vaekit.training.average import MovingAverage
from vaekit.training.checks import check_accumulation

MOST_CODES = 2**28
"""The largest number of posterior parameters of all training images that is kept in memory: 1 GiB."""


class Step:
    """A training step of one model: forward, backward, the optimisers and, if enabled, the moving average (EMA) of the weights.

    Every random draw and schedule of a step is a function of the step number, so training can resume at any step.

    On CUDA, a step can be recorded as a graph: everything from the positions of the examples in the data to the new weights.

    If training does not change the encoder, `encode` computes the posteriors' parameters of all training images once. Steps
    gather these, and the images only if a loss needs them.

    Args:
        spec: A complete spec, fitted to this machine.
        objective: The objective to minimise; it is moved to the device of the processes.
        splits: The data; only the training split is used.
        processes: The processes that train together; default: this process alone.
    """

    def __init__(self, spec: RunSpec, objective: Objective, splits: Splits, processes: ProcessGroup | None = None) -> None:
        self.spec, self.processes = spec, processes or ProcessGroup(device=spec.train.device)
        check_accumulation(spec, objective, self.processes.size)
        self.device = self.processes.device
        if self.device.type == "cpu":
            keep_freed_memory()
        train, several = spec.train, self.processes.size > 1
        self.records = self.device.type in graphs.DEVICES and train.compile in ("on", "graph") and not several
        """Whether a step is recorded as a CUDA graph."""
        self.streams = RecordableStreams(train.seed) if self.records else Streams(train.seed)
        self.objective = objective.to(self.device)
        self.objective.parts = train.accumulate
        divided = several and train.parallel == "fsdp"
        self.memory_format = torch.contiguous_format if divided else lay_out(self.objective)
        self.whole = self._divide() if divided else self.objective
        """The whole model, filled within `gathered`; if the model is sharded, `objective` holds a shard of each parameter."""
        if several and (self.objective.batch_statistic or self.objective.learners):
            self.objective.gather = self.processes.gather
        self.optimizers = [self._optimizer(player) for player in self.objective.players]
        self.learned = {name: self.objective.get_buffer(name) for name in self.objective.learned}
        moving: dict[str, Tensor] = {name: each for name, each in self.objective.named_parameters() if each.requires_grad}
        averaged = {name: self.learned[name] for name in self.learned if name not in self.objective.examples}
        moving |= {name: buffer for name, buffer in averaged.items() if buffer.is_floating_point()}
        self.average = None if train.ema is None else MovingAverage(moving, train.ema)
        self.forward = self._launched()
        self.clock = torch.zeros((), device=self.device)
        self.steps_per_epoch = full_batches(objective.num_data or 0, train.batch_size)
        self.num_steps = train.num_steps(self.steps_per_epoch)
        self.source = splits.train
        self.batches = self.image_batches(self.streams)
        self.num_codes = len(self.source) * math.prod(self.objective.vae.posterior.param_shape)
        """The number of posterior parameters of all training images."""
        fixed = self.batches.augment is None and spec.data.binarize != "dynamic"
        self.could_encode_once = fixed and not self.objective.encodes
        """Whether the posterior's parameters of an image are the same in each step."""
        self.codes: Tensor | None = None
        """These parameters of all training images, ``(N, ...)``, where they are computed once."""
        self.replay = self._replay() if self.records else None

    def __call__(self, reading: Reading) -> dict[str, Tensor]:
        """Take the step of a reading; return the terms of the objective, each 0-d."""
        self.set_time(reading.number)
        return self.take(reading) if self.replay is None else self.replay(reading.number, reading)

    @property
    def keeps_codes(self) -> bool:
        """Whether the posterior's parameters of all training images are computed once, and are few enough to be kept."""
        return self.could_encode_once and self.num_codes <= MOST_CODES

    @torch.no_grad()
    def encode(self) -> None:
        """Encode all training images, if their posteriors' parameters are the same in each step; see `keeps_codes`.

        To be called with the weights to train from, before the first step.
        """
        if not self.keeps_codes:
            return
        size = max(self.spec.train.batch_size, Module.num_initial)
        images = Batches(
            self.source,
            batch_size=size,
            streams=self.streams,
            binarize=self.spec.data.binarize,
            device=self.device,
            train=False,
            workers=self.spec.train.workers,
            memory_format=self.memory_format,
        )
        with self.gathered(), self.autocast():
            vae = self.whole.vae
            codes = [vae.params_of(batch.inputs, vae.condition_on(batch.y)).float() for batch in images.epoch(0)]
        self.codes = torch.cat(codes)
        if not self.objective.sees_images:
            self.batches = self._batches(TensorImages(self.codes, images.source.labels, self.source.class_names), self.streams)

    def inputs(self, reading: Reading) -> Inputs:
        """Return the inputs of the objective at a step: the batch, its noise and the time, which is already set."""
        batch = self.batches.make(reading)
        inputs = self.objective.inputs_of(batch, self.streams, reading.number, epoch=self.clock)
        if self.codes is None:
            return inputs
        if self.objective.sees_images:
            return inputs._replace(params=self.codes.index_select(0, batch.index))
        return inputs._replace(x=None, target=None, params=inputs.x)

    def set_time(self, number: int) -> None:
        """Set all values that depend only on the step number: the time, the learning rates and the average's weight."""
        self.clock.fill_(number / self.steps_per_epoch)
        for optimizer, rate in zip(self.optimizers, self.learning_rates(number), strict=True):
            (group,) = optimizer.param_groups
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)  # read by the recorded step
            else:
                group["lr"] = rate
        if self.average is not None:
            self.average.set_step(number)

    def take(self, reading: Reading) -> dict[str, Tensor]:
        """Take a step at the time already set."""
        inputs = self.inputs(reading)
        if self.spec.train.accumulate > 1:
            return self._take_in_parts(inputs)
        with self.autocast():
            total, terms, state = self.forward(inputs)
        total.backward()
        self.update(state)
        return dict(terms)

    def _take_in_parts(self, inputs: Inputs) -> dict[str, Tensor]:
        """Take a step whose gradients are computed part by part; see ``accumulate``.

        Processes average their gradients once, with the last part (ddp), or after each part, so that each process keeps the
        gradients of its shard only (fsdp).
        """
        state = self.learn(inputs)  # before any backward pass, after which fsdp divides the parameters again
        parts = self.objective.parts_of(inputs)
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts, 1):
            with nullcontext() if number == len(parts) else self._unsynchronised():
                with self.autocast():
                    total, terms, _ = self.forward(part)
                (total / len(parts)).backward()
            sums = {name: sums[name] + value if sums else value for name, value in terms.items()}
        self.update(state)
        return {name: value / len(parts) for name, value in sums.items()}

    def learn(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the next state after a batch that is trained on in parts; empty if the model has none."""
        if not self.objective.learners:
            return {}
        with torch.no_grad(), self.autocast():
            return self.objective.learn(inputs)

    def update(self, state: Mapping[str, Tensor]) -> None:
        """Step every optimiser, clear the gradients, set the next state, and update the moving average, if any."""
        for optimizer in self.optimizers:
            (group,) = optimizer.param_groups
            if self.spec.train.grad_clip is not None:
                torch.nn.utils.clip_grad_norm_(group["params"], self.spec.train.grad_clip)
            decay(group)
            optimizer.step()
            for parameter in group["params"]:  # like zero_grad, but a tenth of a millisecond faster
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

    def _unsynchronised(self) -> AbstractContextManager[None]:
        """Return a context in which processes do not average the gradients (ddp)."""
        forward = self.forward
        return forward.no_sync() if isinstance(forward, nn.parallel.DistributedDataParallel) else nullcontext()

    def autocast(self) -> AbstractContextManager[None]:
        """Return the autocast context of a step."""
        if self.spec.train.precision != "bf16":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def lr_factor(self, number: int) -> float:
        """Return the learning rate of a step as a fraction of the peak, to which it rises linearly in the warm-up.

        A cosine begins after the warm-up, and a step schedule multiplies it.

        References:
            Goyal et al. (2017), "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", arXiv:1706.02677, section 2.2.
        """
        train, warmup = self.spec.train, self.spec.train.warmup_steps
        risen = min(1.0, (number + 1) / warmup) if warmup else 1.0
        if train.schedule == "constant":
            return risen
        if train.schedule == "step":
            return risen * train.lr_gamma ** bisect_right(train.lr_milestones, number // self.steps_per_epoch)
        if number < warmup:
            return risen
        return 0.5 * (1.0 + math.cos(math.pi * (number - warmup) / (self.num_steps - warmup)))

    def learning_rates(self, number: int) -> list[float]:
        """Return the learning rate of each player in a step."""
        factor = self.lr_factor(number)
        return [float(optimizer.param_groups[0]["peak_lr"]) * factor for optimizer in self.optimizers]

    def learning_rate(self, number: int) -> float:
        """Return the learning rate of a step; with several players, that of the first."""
        return self.learning_rates(number)[0]

    def averaged(self) -> AbstractContextManager[None]:
        """Use the moving average in place of the weights, if there is one, within a context: a run saves it."""
        return nullcontext() if self.average is None else self.average.in_place()

    def gathered(self) -> AbstractContextManager[None]:
        """Fill `whole` within a context, so that each process can use the model independently of the others."""
        return gathered(self.objective, self.whole)

    def _optimizer(self, player: Player) -> AdamW:
        settings = self.spec.train.model_dump(include=set(Optim.__annotations__))
        settings |= {name: value for name, value in asdict(player.optim).items() if value is not None}
        parameters = self.objective.parameters_of(player)
        return AdamW(
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
        return cast("Objective", shard(self.objective, backbones, self.processes, methods=("learn",)))

    def _launched(self) -> nn.Module:
        """Return the objective as training calls it: compiled if requested, with gradients averaged over processes."""
        forward: nn.Module = self.objective
        if self.spec.train.compile == "on":
            forward = cast("nn.Module", compiled(forward, whole=True))
        if self.processes.size > 1 and self.spec.train.parallel == "ddp":
            devices = [self.device] if self.device.type == "cuda" else None
            changed = set(map(id, changed_by_forward(self.objective)))
            same = [name for name, buffer in forward.named_buffers() if id(buffer) not in changed]
            nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(forward, same)
            forward = nn.parallel.DistributedDataParallel(forward, device_ids=devices)
        return forward

    def image_batches(self, streams: Streams | JointStreams) -> Batches:
        """Return the batches to train on: in a new order each epoch, augmented as the spec requests."""
        return self._batches(self.source, streams, binarize=self.spec.data.binarize, augment=self.spec.data.augment)

    def _batches(self, source: ImageSource, streams: Streams | JointStreams, **how: Any) -> Batches:
        """Return the part of this process of the batches of a source, in a new order each epoch."""
        return Batches(
            source,
            batch_size=self.spec.train.batch_size,
            streams=streams,
            device=self.device,
            workers=self.spec.train.workers,
            memory_format=self.memory_format,
            rank=self.processes.rank,
            world_size=self.processes.size,
            **how,
        )

    def _replay(self) -> Replay[dict[str, Tensor]]:
        """Return the step in the form to be recorded, which leaves Python only the readings, the time and the learning rates."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(group["lr"], device=self.device)
                group["capturable"] = True
        me = cast("Step", proxy(self))  # a strong reference in the recording would keep the step alive
        return Replay(partial(Step.take, me), [cast("RecordableStreams", self.streams)])


def changed_by_forward(objective: Objective) -> list[Tensor]:
    """Return the buffers that a forward pass may change, such as running statistics, and that processes therefore synchronise.

    All others are the same in all processes: constants, which are not saved, such as networks of features, buffers of frozen
    parts, and learned buffers, which every process computes from the whole batch.
    """
    saved, learned = objective.state_dict(keep_vars=True), set(objective.learned)
    own = {name for name, buffer in objective.named_buffers() if name in saved and name not in learned}
    return [objective.get_buffer(name) for name in own if not objective.is_frozen(name)]


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
