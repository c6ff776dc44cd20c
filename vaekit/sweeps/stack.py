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
from vaekit.compute.sharding import like
from vaekit.data.batches import Reading
from vaekit.model.assembly import example_inputs
from vaekit.model.objective import Inputs, Objective, Result
from vaekit.streams import JointStreams, RecordableStreams
from vaekit.training.step import Step

TOLERANCE = 1e-2
"""The tolerance between stacked and separate models, relative to the largest value of a tensor."""
ROUNDING = 1e-6
"""The same, relative to the largest value of all tensors: gradients that should be 0 consist of rounding errors."""


class StackedStep:
    """Joint steps of several models; each keeps its batches, noise, schedules and learning rates.

    The models' parameters become views of stacked tensors, so evaluation, pictures and checkpoints work as for a single model.
    Each model is updated by its own optimisers. The batches of all seeds are made together, as one batch: gathered, scaled,
    augmented and binarised. Models with the same seed share its part of the batch and its noise.

    Args:
        steps: The steps of models of the same form (see `difference`) at the same position.
        compiled: Whether to compile the forward and backward pass.
    """

    def __init__(self, steps: Sequence[Step], *, compiled: bool = False) -> None:
        self.steps, self.first = list(steps), steps[0]
        each = {step.spec.train.seed: step.streams for step in steps}
        self.streams = JointStreams(list(each.values())) if len(each) > 1 else self.first.streams
        self.batches = self.first.image_batches(self.streams)
        places = [list(each).index(step.spec.train.seed) for step in steps]
        in_order = places == list(range(len(steps)))
        self.places = None if in_order else torch.tensor(places, device=self.first.device)
        """The position of each model's seed among the seeds; None if each model has its own."""

        objectives = [step.objective.train() for step in steps]
        parameters, self.buffers = stack_module_state(cast("list[nn.Module]", objectives))
        self.parameters: dict[str, Tensor] = parameters
        for number, objective in enumerate(objectives):
            for name, tensor in (*objective.named_parameters(), *objective.named_buffers()):
                stacked = self.parameters[name] if name in self.parameters else self.buffers[name]
                tensor.data = stacked.detach()[number]
        moving = [name for name, tensor in self.parameters.items() if tensor.requires_grad]
        self.own = {name: [each.get_parameter(name) for each in objectives] for name in moving}
        """The parameters of each model, views of the stacked ones."""
        for step in steps:
            lay_out_state(step)
        self.base = with_quick_linear(copy.deepcopy(self.first.objective).to("meta"))
        self.forward = process.compiled(over_models) if compiled else over_models
        self.replay = self._replay() if self.first.records else None

    def _replay(self) -> Replay[dict[str, Tensor]]:
        me = cast("StackedStep", proxy(self))  # a strong reference from the recording would keep the step alive
        streams = self.streams.each if isinstance(self.streams, JointStreams) else [self.streams]
        self.rates = torch.zeros(len(self.steps), len(self.first.optimizers), device=self.first.device)
        for step, rates in zip(self.steps, self.rates, strict=True):
            for optimizer, rate in zip(step.optimizers, rates, strict=True):
                optimizer.param_groups[0]["lr"] = rate
        return Replay(partial(StackedStep.take, me), cast("Sequence[RecordableStreams]", streams))

    def __call__(self, reading: Reading) -> dict[str, Tensor]:
        """Take the step of a reading of `batches` with every model; return the terms to log, each ``(S,)``."""
        self.set_time(reading.number)
        return self.take(reading) if self.replay is None else self.replay(reading.number, reading)

    def set_time(self, number: int) -> None:
        """Set all values that depend only on the step number; see `Step.set_time`."""
        if self.replay is None:
            for step in self.steps:
                step.set_time(number)
            return
        self.first.clock.fill_(number / self.first.steps_per_epoch)
        self.rates.copy_(torch.tensor([step.learning_rates(number) for step in self.steps]), non_blocking=True)
        for step in self.steps:
            if step.average is not None:
                step.average.set_step(number)

    def take(self, reading: Reading) -> dict[str, Tensor]:
        """Take a step at the time already set."""
        inputs = self.inputs(reading)
        with self.first.autocast():
            total, terms, state = self.forward(self.base, self.parameters, self.buffers, inputs, shared=self.shared)
        self.backward(total)
        for name, value in state.items():
            self.buffers[name].copy_(value)
        self.update()
        return dict(terms)

    def backward(self, total: Tensor) -> None:
        """Compute the gradients of all models."""
        total.sum().backward()
        for name, own in self.own.items():
            stacked = self.parameters[name]
            if stacked.grad is not None:
                for parameter, gradient in zip(own, stacked.grad, strict=True):
                    parameter.grad = gradient
                stacked.grad = None

    def update(self) -> None:
        """Step the optimisers of all models and update their moving averages."""
        for step in self.steps:
            step.update({})

    @property
    def shared(self) -> bool:
        """Whether all models have the same seed and so the same inputs."""
        return self.streams.num_seeds == 1

    def inputs(self, reading: Reading) -> Inputs:
        """Return the inputs of all models: shared for a single seed, otherwise with a dimension of models before the batch."""
        batch, objective = self.batches.make(reading), self.first.objective
        inputs = objective.inputs_of(batch, self.streams, reading.number, epoch=self.first.clock)
        if self.shared:
            return inputs
        x = self._of_models(inputs.x)
        return inputs._replace(
            x=x,
            target=x if inputs.target is inputs.x else self._of_models(inputs.target),
            noise=self._of_models(inputs.noise, len(objective.samples)),
            y=None if inputs.y is None else self._of_models(inputs.y),
            draws={kind: self._of_models(draws) for kind, draws in (inputs.draws or {}).items()},
        )

    def _of_models(self, rows: Any, dim: int = 0) -> Tensor:
        """Return the rows of each model, ``(S, …)``, given those of each seed, one seed after another."""
        of_seeds: Tensor = rows.unflatten(dim, (self.streams.num_seeds, -1))
        return (of_seeds if self.places is None else of_seeds.index_select(dim, self.places)).movedim(dim, 0)


def lay_out_state(step: Step) -> None:
    """Give a step's moments and averages the memory layout of its parameters, which fused optimisers rely on."""
    for optimizer in step.optimizers:
        for parameter, state in optimizer.state.items():
            state |= {key: like(value, parameter) for key, value in state.items() if value.shape == parameter.shape}
    if step.average is not None:
        step.average.tensors = {name: like(each, step.average.parameters[name]) for name, each in step.average.tensors.items()}


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

    ``x W'`` yields a transposed gradient, which would have to be copied. Stacking transposed weights instead makes the products
    and what follows them faster by a fifth on a CPU, but torch's fused optimiser takes 2.4 times as long with them.
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
