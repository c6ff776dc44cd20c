"""A training step for many models of the same form: parameters are stacked, and the objective is vmapped over them."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any, cast
from weakref import proxy

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from vaekit.compute import process
from vaekit.compute.graphs import Replay
from vaekit.data.batches import Reading
from vaekit.model.assembly import example_inputs
from vaekit.model.objective import Inputs, Objective, Result
from vaekit.streams import RecordableStreams
from vaekit.sweeps.adamw import StackedAdamW
from vaekit.training.step import Step

TOLERANCE = 1e-2
"""The tolerance between stacked and separate models, relative to the largest value of a tensor."""
ROUNDING = 1e-6
"""The same, relative to the largest value of all tensors: gradients that should be 0 consist of rounding errors."""


class StackedStep:
    """Joint steps of several models; each keeps its batches, noise, schedules and learning rates.

    The models' parameters and optimiser states become views of stacked tensors, so evaluation, pictures and checkpoints work as
    for a single model. Models with the same seed share batches and noise.

    Args:
        steps: The steps of models of the same form (see `difference`) at the same position.
        compiled: Whether to compile the step.
    """

    def __init__(self, steps: Sequence[Step], *, compiled: bool = False) -> None:
        self.steps, self.first = list(steps), steps[0]
        seeds = list(dict.fromkeys(step.spec.train.seed for step in steps))
        self.seed_of = [seeds.index(step.spec.train.seed) for step in steps]
        self.leaders = [self.seed_of.index(number) for number in range(len(seeds))]
        """The indices of the models whose batches are needed: the first of each seed."""

        objectives = [step.objective.train() for step in steps]
        parameters, self.buffers = stack_module_state(cast("list[nn.Module]", objectives))
        self.parameters: dict[str, Tensor] = parameters
        for number, objective in enumerate(objectives):
            for name, tensor in (*objective.named_parameters(), *objective.named_buffers()):
                stacked = self.parameters[name] if name in self.parameters else self.buffers[name]
                tensor.data = stacked.detach()[number]
        self.moving = [name for name, tensor in self.parameters.items() if tensor.requires_grad]
        self.optimizers = [self._optimizer(player, compiled=compiled) for player in range(len(self.first.optimizers))]
        self.averages = [step.average for step in steps if step.average is not None]
        self.base = with_quick_linear(copy.deepcopy(self.first.objective).to("meta"))
        self.forward = process.compiled(over_models) if compiled else over_models
        self.replay = self._replay() if self.first.records else None

    def _optimizer(self, player: int, *, compiled: bool) -> StackedAdamW:
        objective = self.first.objective
        own = objective.parameters_of(objective.players[player])
        names = {id(parameter): name for name, parameter in objective.named_parameters()}
        return StackedAdamW(
            {names[id(parameter)]: self.parameters[names[id(parameter)]] for parameter in own},
            [step.optimizers[player] for step in self.steps],
            [step.spec.train.grad_clip for step in self.steps],
            compiled=compiled,
        )

    def _replay(self) -> Replay[dict[str, Tensor]]:
        me = cast("StackedStep", proxy(self))  # a strong reference from the recording would keep the step alive
        streams = [cast("RecordableStreams", self.steps[leader].streams) for leader in self.leaders]
        return Replay(partial(StackedStep.take, me), streams)

    def __call__(self, readings: Sequence[Reading]) -> dict[str, Tensor]:
        """Take a step with every model; return the terms to log, each ``(S,)``.

        Args:
            readings: A reading for each of the ``leaders``.
        """
        number = readings[0].number
        self.first.clock.fill_(number / self.first.steps_per_epoch)
        factors = [step.lr_factor(number) for step in self.steps]
        for average in self.averages:
            average.set_step(number)
        numbers = [optimizer.numbers(factors) for optimizer in self.optimizers]
        return self.take(readings, numbers) if self.replay is None else self.replay(number, readings, numbers)

    def take(self, readings: Sequence[Reading], numbers: Sequence[Tensor]) -> dict[str, Tensor]:
        """Take a step, given the numbers of each optimiser; the time is already set."""
        inputs = self.inputs(readings)
        with self.first.autocast():
            total, terms, state = self.forward(self.base, self.parameters, self.buffers, inputs, shared=len(self.leaders) == 1)
        moving = [self.parameters[name] for name in self.moving]
        gradients = dict(zip(self.moving, torch.autograd.grad(total.sum(), moving, allow_unused=True), strict=True))
        for optimizer, each in zip(self.optimizers, numbers, strict=True):
            optimizer.step(gradients, each)
        for name, value in state.items():
            self.buffers[name].copy_(value)
        for average in self.averages:
            average.update()
        return dict(terms)

    def inputs(self, readings: Sequence[Reading]) -> Inputs:
        """Return the inputs of all models: shared for a single seed, otherwise stacked according to the models' seeds."""
        given = [self.steps[leader].inputs(reading) for leader, reading in zip(self.leaders, readings, strict=True)]
        if len(given) == 1:
            return given[0]
        x, target, noise, y = (
            None if values[0] is None else torch.stack([values[seed] for seed in self.seed_of])
            for values in zip(*((each.x, each.target, each.noise, each.y) for each in given), strict=True)
        )
        drawn = [each.draws or {} for each in given]
        draws = {kind: torch.stack([drawn[seed][kind] for seed in self.seed_of]) for kind in drawn[0]}
        return Inputs(cast("Tensor", x), cast("Tensor", target), cast("Tensor", noise), self.first.clock, y, draws)


def over_models(
    base: Objective, parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Inputs, *, shared: bool
) -> Result:
    """Map an objective over stacked parameters and buffers and, unless ``shared``, stacked inputs."""

    def alone(parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Inputs) -> Any:
        return functional_call(base, (parameters, buffers), (inputs,))

    own: Any = None if shared else 0
    dims = Inputs._make(None if each is None else own for each in inputs)._replace(epoch=cast("Any", None))
    result: Result = vmap(alone, in_dims=(0, 0, dims), randomness="different")(parameters, buffers, inputs)
    return result


def refusal(objective: Objective) -> str | None:
    """Return why an objective cannot be vmapped over stacked parameters; None if it can.

    Two models with different weights take a trial step on two images, at the start and at the end of training, both stacked and
    separately: losses and gradients must agree.
    """
    objective = copy.deepcopy(objective).eval()  # dropout, for example, draws differently in a stack
    base = with_quick_linear(copy.deepcopy(objective).to("meta"))
    parameters, buffers = stack_module_state([objective, objective])
    moving = {name: tensor for name, tensor in parameters.items() if tensor.requires_grad}
    with torch.no_grad():
        for tensor in moving.values():
            tensor[1].mul_(0.9)
    trial = example_inputs(objective)
    for epoch in (trial.epoch, torch.full_like(trial.epoch, torch.inf)):
        inputs = trial._replace(epoch=epoch)
        try:
            losses, *_ = over_models(base, parameters, buffers, inputs, shared=True)
            stacked = [losses, *_gradients(losses.sum(), moving)]
        except (RuntimeError, ValueError, NotImplementedError) as error:
            return f"vmap does not support it: {str(error).partition(chr(10))[0]:.120}"
        for number in range(2):
            own, fixed = ({name: tensor[number] for name, tensor in each.items()} for each in (parameters, buffers))
            loss, *_ = functional_call(objective, (own, fixed), (inputs,))
            alone = [loss, *(gradient[number] for gradient in _gradients(loss, moving))]
            sizes = [float(each.detach().abs().max()) for each in alone]
            for name, one, other, size in zip(["losses", *moving], stacked, alone, sizes, strict=True):
                allowed = TOLERANCE * size + ROUNDING * max(sizes)
                if not torch.allclose(one[number], other, rtol=0, atol=allowed, equal_nan=True):
                    what = name if name == "losses" else f"gradients of {name}"
                    return f"vmap does not support it: the {what} of stacked models differ from those of separate models"
    return None


def _gradients(total: Tensor, parameters: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the gradient of a loss with respect to each parameter; 0 if independent of it."""
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return list(gradients)


class QuickLinear(nn.Linear):
    """A linear layer whose stacked weight gradient has the memory layout of the weight.

    ``x W'`` yields a transposed gradient, with which the optimiser takes seven times as long on a CPU, a third of the step.
    """

    def forward(self, x: Tensor) -> Tensor:
        output = (self.weight @ x.mT).mT
        return output if self.bias is None else output + self.bias.to(output.dtype)  # autocast does not cast it under vmap


def with_quick_linear(objective: Objective) -> Objective:
    """Replace every plain linear layer of an objective by a `QuickLinear`, in place; return the objective."""
    for module in objective.modules():
        if type(module) is nn.Linear:
            module.__class__ = QuickLinear
    return objective


def difference(one: nn.Module, other: nn.Module) -> str | None:
    """Return why two modules are different functions of their parameters and buffers; None if they are the same.

    Values of parameters and buffers may differ, but not their shapes, the modules' classes or other attributes.
    """
    mine, theirs = dict(one.named_modules()), dict(other.named_modules())
    if list(mine) != list(theirs):
        return "their submodules differ"
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
    return f"{changed[0]} differs in shape or dtype" if changed else None


def form(module: nn.Module) -> Hashable:
    """Return classes, numbers, texts and shapes of a module and its parts: equal for all without a `difference`."""

    def simple(part: nn.Module) -> Hashable:
        own = ((key, value) for key, value in vars(part).items() if key not in _TORCHS_OWN)
        return frozenset((key, value) for key, value in own if isinstance(value, _SIMPLE))

    tensors = (*module.named_parameters(), *module.named_buffers())
    return (
        tuple((name, type(part), simple(part)) for name, part in module.named_modules()),
        tuple((name, tensor.shape, tensor.dtype) for name, tensor in tensors),
    )


_SIMPLE = (bool, int, float, str, type(None))
_TORCHS_OWN = frozenset(vars(nn.Module()))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, partial) and isinstance(other, partial):  # otherwise, partials are only equal to themselves
        return _equal((one.func, one.args, one.keywords), (other.func, other.args, other.keywords))
    try:
        return bool(one == other)
    except (TypeError, ValueError, RuntimeError):  # for example arrays, whose comparison is not a bool
        return False
