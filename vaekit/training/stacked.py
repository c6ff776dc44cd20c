"""Many models of one architecture whose steps are taken together: parameters stacked, the objective vmapped over them."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast
from weakref import proxy

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from vaekit.assembly import trial
from vaekit.data import Batch
from vaekit.errors import DivergenceError
from vaekit.graphs import Replay
from vaekit.objective import Inputs, Objective, Player
from vaekit.training import process
from vaekit.training.adamw import StackedAdamW
from vaekit.training.meter import Meter
from vaekit.training.process import Interrupted, Interruption
from vaekit.training.trainer import CHECK_EVERY, Trainer


class Stack:
    """The models of several trainers, stepped together; each keeps its batches, noise, schedules, folder and numbers.

    The trainers' parameters and optimiser states become views of stacked tensors, so evaluating, drawing and saving go on as
    for a model alone. Models of one seed share their batches and noise, which are then made once.

    Args:
        trainers: Of models that `difference` finds nothing between, at one position.
        compiled: Whether to compile the step.
        interruption: Tells that the user wants to stop.
    """

    def __init__(self, trainers: Sequence[Trainer], *, compiled: bool = False, interruption: Interruption | None = None) -> None:
        self.trainers, self.first = list(trainers), trainers[0]
        self.interruption = interruption or Interruption()
        self.errors: dict[int, DivergenceError] = {}
        seeds = list(dict.fromkeys(trainer.spec.train.seed for trainer in trainers))
        self.seed_of = [seeds.index(trainer.spec.train.seed) for trainer in trainers]
        self.leaders = [trainers[self.seed_of.index(number)] for number in range(len(seeds))]

        objectives = [trainer.objective.train() for trainer in trainers]
        parameters, self.buffers = stack_module_state(cast("list[nn.Module]", objectives))
        self.parameters: dict[str, Tensor] = parameters
        for number, objective in enumerate(objectives):
            for name, tensor in (*objective.named_parameters(), *objective.named_buffers()):
                stacked = self.parameters[name] if name in self.parameters else self.buffers[name]
                tensor.data = stacked.detach()[number]
        self.moving = [name for name, tensor in self.parameters.items() if tensor.requires_grad]
        self.optimizers = [self._optimizer(player, compiled=compiled) for player in range(len(self.first.optimizers))]
        self.averages = [trainer.average for trainer in trainers if trainer.average is not None]
        self.base = with_quick_linear(copy.deepcopy(self.first.objective).to("meta"))
        self.forward = process.compiled(over_models) if compiled else over_models
        self.replay = Replay(partial(Stack._take, proxy(self))) if self.first.replay is not None else None

    def _optimizer(self, player: int, *, compiled: bool) -> StackedAdamW:
        objective = self.first.objective
        own = objective.parameters_of(cast("Player", objective.players[player]))
        names = {id(parameter): name for name, parameter in objective.named_parameters()}
        return StackedAdamW(
            {names[id(parameter)]: self.parameters[names[id(parameter)]] for parameter in own},
            [trainer.optimizers[player] for trainer in self.trainers],
            [trainer.spec.train.grad_clip for trainer in self.trainers],
            compiled=compiled,
        )

    def train_epoch(self) -> float:
        """Take the rest of an epoch's steps; return images a second of each model.

        Models whose loss is no longer finite are put into ``errors`` by their number, and left alone from then on.

        Raises:
            Interrupted: The user stopped; a checkpoint of each model was saved.
        """
        for trainer in self.trainers:
            trainer.objective.train()
        position, began, saved = self.first.position, time.perf_counter(), time.monotonic()
        start, seconds = position.step, position.seconds
        meter = _joined([trainer.meter for trainer in self.trainers])
        streams = [leader.batches.epoch(position.epoch, start=start) for leader in self.leaders]
        for batches in zip(*streams, strict=True):
            step = position.epoch * self.first.batches.steps_per_epoch + position.step
            terms = self.step(batches, step)
            meter.add(terms)
            for trainer in self.trainers:
                trainer.position.step += 1
                trainer.position.seconds = seconds + time.perf_counter() - began
            if self.first.device.type == "cpu" or step % CHECK_EVERY == 0:
                self._check(terms)
            if self.interruption.asked or time.monotonic() - saved > self.first.spec.train.checkpoint_seconds:
                saved = time.monotonic()
                self._hand_out(meter)
                for trainer in self.alive:
                    trainer.save()
            if self.interruption.asked:
                raise Interrupted
        self._hand_out(meter)
        if self.first.device.type == "cuda":
            torch.cuda.synchronize()
        taken = (position.step - start) * self.first.spec.train.batch_size
        return taken / max(time.perf_counter() - began, 1e-9)

    def step(self, batches: Sequence[Batch], step: int) -> dict[str, Tensor]:
        """Take one step of every model; return each term to log, ``(S,)``.

        Args:
            batches: Of each of the ``leaders``.
            step: Number of the step.
        """
        x, target, noise, _, y = self.inputs(batches, step)
        factors = [trainer.lr_factor(step) for trainer in self.trainers]
        for average in self.averages:
            average.set_step(step)
        take = self._take if self.replay is None else self.replay
        return take(x, target, noise, y, *(optimizer.numbers(factors) for optimizer in self.optimizers))

    def _take(self, x: Tensor, target: Tensor, noise: Tensor, y: Tensor | None, *numbers: Tensor) -> dict[str, Tensor]:
        """Take the step that data, noise and each optimiser's numbers make, at the time that is set."""
        inputs = Inputs(x, target, noise, self.first.clock, y)
        with self.first.autocast():
            total, terms = self.forward(self.base, self.parameters, self.buffers, inputs, shared=len(self.leaders) == 1)
        moving = [self.parameters[name] for name in self.moving]
        gradients = dict(zip(self.moving, torch.autograd.grad(total.sum(), moving, allow_unused=True), strict=True))
        for optimizer, each in zip(self.optimizers, numbers, strict=True):
            optimizer.step(gradients, each)
        for average in self.averages:
            average.update()
        return dict(terms)

    def inputs(self, batches: Sequence[Batch], step: int) -> Inputs:
        """Return the inputs of all models: those of the only seed, or of each model's seed stacked."""
        given = [leader.inputs(batch, step) for leader, batch in zip(self.leaders, batches, strict=True)]
        if len(given) == 1:
            return given[0]
        x, target, noise, y = (
            None if values[0] is None else torch.stack([values[seed] for seed in self.seed_of])
            for values in zip(*((each.x, each.target, each.noise, each.y) for each in given), strict=True)
        )
        return Inputs(cast("Tensor", x), cast("Tensor", target), cast("Tensor", noise), given[0].epoch, y)

    @property
    def alive(self) -> list[Trainer]:
        """The trainers whose losses are finite."""
        return [trainer for number, trainer in enumerate(self.trainers) if number not in self.errors]

    def _check(self, terms: Mapping[str, Tensor]) -> None:
        """Note the models whose loss is not finite."""
        losses = terms["loss"].tolist()
        for number, trainer in enumerate(self.trainers):
            if number not in self.errors:
                try:
                    trainer.check_finite({"loss": losses[number]}, terms={name: values[number] for name, values in terms.items()})
                except DivergenceError as error:
                    self.errors[number] = error

    def _hand_out(self, meter: Meter) -> None:
        """Give each trainer its part of what was measured."""
        assert meter.sums is not None  # there was a step
        for number, trainer in enumerate(self.trainers):
            trainer.meter.names, trainer.meter.count = meter.names, meter.count
            trainer.meter.sums = meter.sums[:, number].clone()


def over_models(
    base: Objective, parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Inputs, *, shared: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Map an objective over stacked parameters and buffers, and over inputs that are stacked too unless they are shared."""

    def alone(parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Inputs) -> Any:
        return functional_call(base, (parameters, buffers), (inputs,))

    own: Any = None if shared else 0
    dims = Inputs(own, own, own, cast("Any", None), None if inputs.y is None else own)
    result: tuple[Tensor, dict[str, Tensor]] = vmap(alone, in_dims=(0, 0, dims), randomness="different")(
        parameters, buffers, inputs
    )
    return result


def refusal(objective: Objective) -> str | None:
    """Say why an objective cannot be mapped over stacked parameters, or None if it can: it is tried on two images."""
    parameters, buffers = stack_module_state([objective, objective])
    try:
        total, _ = over_models(objective, parameters, buffers, trial(objective.vae), shared=True)
        total.sum().backward()
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return f"vmap refuses it: {str(error).partition(chr(10))[0]:.120}"
    return None


class QuickLinear(nn.Linear):
    """A linear layer whose weight's gradient, stacked, comes out in the weight's own layout.

    ``x W'`` gives it transposed, and on a CPU an optimiser that reads it across took seven times as long: a third of the step.
    """

    def forward(self, x: Tensor) -> Tensor:
        output = (self.weight @ x.mT).mT
        return output if self.bias is None else output + self.bias.to(output.dtype)  # which autocast leaves alone under vmap


def with_quick_linear(objective: Objective) -> Objective:
    """Return the objective with every plain linear layer made a `QuickLinear`."""
    for module in objective.modules():
        if type(module) is nn.Linear:
            module.__class__ = QuickLinear
    return objective


def difference(one: nn.Module, other: nn.Module) -> str | None:
    """Say what keeps two modules from being one function of their parameters and buffers, or None if nothing does.

    Values of parameters and buffers may differ; their shapes, the modules' classes and all other attributes may not.
    """
    mine, theirs = dict(one.named_modules()), dict(other.named_modules())
    if list(mine) != list(theirs):
        return "they have other parts"
    for name, module in mine.items():
        if type(module) is not type(theirs[name]):
            return f"{name} is {type(module).__name__} in one and {type(theirs[name]).__name__} in another"
        own, its = ({key: value for key, value in vars(m).items() if key not in _TORCHS_OWN} for m in (module, theirs[name]))
        for key in own.keys() | its.keys():
            if not _equal(own.get(key), its.get(key)):
                return f"{name}.{key} is {own.get(key)!r:.40} in one and {its.get(key)!r:.40} in another"
    shapes, its_shapes = (
        {name: (t.shape, t.dtype) for name, t in (*m.named_parameters(), *m.named_buffers())} for m in (one, other)
    )
    changed = [name for name in shapes if shapes[name] != its_shapes.get(name)]
    return f"{changed[0]} has another shape" if changed else None


_TORCHS_OWN = frozenset(vars(nn.Module()))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    try:
        return bool(one == other)
    except (TypeError, ValueError, RuntimeError):  # such as arrays: their comparison is no answer
        return False


def _joined(meters: Sequence[Meter]) -> Meter:
    """Return one meter for all models, that holds what theirs do."""
    joined = Meter()
    joined.names, joined.count = meters[0].names, meters[0].count
    sums = [meter.sums for meter in meters if meter.sums is not None]
    joined.sums = torch.stack(sums, 1) if sums else None
    return joined
