"""The objective: losses and the parameters they train, summed to a single scalar for one backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vaekit.data.batches import Batch
from vaekit.errors import UsageError
from vaekit.interfaces import Aim, Loss, Module, Optim, Shape
from vaekit.model.vae import VAE
from vaekit.schema import ModelPart
from vaekit.streams import JointStreams, Streams
from vaekit.trace import Elsewhere, Trace, mean_over_samples


class Inputs(NamedTuple):
    """The inputs of the objective besides its parameters.

    Args:
        x: The images to encode, ``(B, C, H, W)``; None if ``params`` are given and no loss needs images.
        target: The images to score, of the same shape; usually ``x`` itself.
        noise: The base noise of the posterior, ``(*S, B, D)``.
        epoch: The time for schedules, a 0-d tensor.
        y: Labels, ``(B,)``, or None.
        draws: The losses' own noise by loss name, each ``(B, ...)``, or None.
        params: The posterior's parameters, ``(B, ...)``, if the images are already encoded.
    """

    x: Tensor | None
    target: Tensor | None
    noise: Tensor
    epoch: Tensor
    y: Tensor | None = None
    draws: dict[str, Tensor] | None = None
    params: Tensor | None = None


class Result(NamedTuple):
    """The result of an objective for a batch.

    Args:
        total: The scalar to minimise, 0-d: the sum over all players.
        terms: The terms to log, each 0-d: means over the batch, in nats per image.
        state: In training, the next values of the buffers that are learned without gradients, by name.
    """

    total: Tensor
    terms: dict[str, Tensor]
    state: dict[str, Tensor]


class Reconstruction(Loss):
    """``-log p(x|z)`` averaged over samples: part of every objective unless a loss covers it."""

    samples = None

    def forward(self, trace: Trace) -> Tensor:
        return -mean_over_samples(trace.log_likelihood)


class Player(NamedTuple):
    """Parameters that are trained by the same aims and share an optimiser.

    Args:
        aims: The names of the aims.
        names: The names of the parameters.
        optim: The optimiser settings.
    """

    aims: tuple[str, ...]
    names: tuple[str, ...]
    optim: Optim


class Term(NamedTuple):
    """An aim of a loss.

    Args:
        loss: The name of the loss.
        aim: The aim.
    """

    loss: str
    aim: Aim


def samples_of(losses: Mapping[str, Loss]) -> Shape:
    """Return the common sample dimensions requested by several losses.

    Raises:
        UsageError: They request different ones.
    """
    asked = {name: loss.samples for name, loss in losses.items() if loss.samples is not None}
    if len(set(asked.values())) > 1:
        given = ", ".join(f"{name}: {math.prod(samples)}" for name, samples in asked.items())
        raise UsageError("losses request different numbers of samples", given=given, expected="the same number for all losses")
    return next(iter(asked.values()), ())


class Objective(nn.Module):
    """Everything that is trained: a VAE and its losses.

    Each loss declares aims, and each aim the parameters that it trains. Parameters trained by the same aims form a player, so
    players partition the parameters. While a player's aims are evaluated, all other parameters are frozen. For a player that
    owns none of the parameters that produce the trace, the trace is detached; for a player that owns some of them, it is
    recomputed. Hence gradients reach only the intended parameters, and the sum over all players is a single scalar: one
    backward pass, followed by a step of every optimiser.

    Args:
        vae: The model.
        losses: The losses by name.
        num_data: The size of the training set, for losses that estimate aggregates.
        frozen: Parts of the model that are not trained; they belong to no player and remain in evaluation mode.

    Raises:
        UsageError: No loss trains a part of the model, losses request different numbers of samples or have terms of the same
            name, or aims of the same parameters request different optimisers.
    """

    def __init__(
        self, vae: VAE, losses: Mapping[str, Loss], *, num_data: int | None = None, frozen: Sequence[ModelPart] = ()
    ) -> None:
        super().__init__()
        for part in frozen:
            vae.get_submodule(part).requires_grad_(False)
        self.frozen = tuple(frozen)
        self.vae = vae
        self.losses = nn.ModuleDict(losses)
        self.num_data = num_data
        self.gather: Callable[[Tensor, int], Tensor] | None = None
        """Gathers the parts of a batch from all processes in training, for batch statistics; see `VAE.forward`."""
        self.encodes = True
        """Whether training may change the posterior's parameters of an image."""
        self.sees_images = True
        """Whether a training step needs images; otherwise, the posterior's parameters suffice."""
        self.parts = 1
        """The number of parts of a training batch (gradient accumulation); `forward` takes a part, `learn` the whole batch."""
        self.samples = samples_of(losses)
        """The sample dimensions ``*S`` of the codes, as requested by the losses."""
        self.terms: dict[str, Term] = {}
        for name, loss in losses.items():
            for term, aim in (loss.aims() or {name: Aim()}).items():
                if term in self.terms:
                    both = f"{self.terms[term].loss} and {name}"
                    raise UsageError("two losses have a term of the same name", given=f"{term}, of {both}", remedy="remove one")
                self.terms[term] = Term(name, aim)
        learned = [name for name, module in self.named_modules() if isinstance(module, Module) and module.learned]
        self.learners = [name for name in learned if not self.is_frozen(name)]
        """The names of modules with state that is learned without gradients."""
        self.drawers = [name for name, loss in losses.items() if type(loss).draw_noise is not Loss.draw_noise]
        """The names of losses that may draw their own noise."""
        self.players = self._players()
        self.owner = {name: i for i, player in enumerate(self.players) for name in player.names}

    def _players(self) -> tuple[Player, ...]:
        """Group the parameters by the aims that train them."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for name, parameter in self.named_parameters():
            if self.is_frozen(name):
                continue
            movers = self._movers(name)
            if not movers and not parameter.requires_grad:
                continue
            if not movers:
                raise UsageError(
                    f"no loss trains the {name.split('.')[1]}",
                    given=", ".join(f"{term} trains {', '.join(aim.moves)}" for term, (_, aim) in self.terms.items()),
                    remedy="add one, for example kl",
                )
            groups.setdefault(movers, []).append(name)
        return tuple(Player(movers, tuple(names), self._optim(movers)) for movers, names in groups.items())

    def is_frozen(self, name: str) -> bool:
        """Whether a module, parameter or buffer belongs to a frozen part of the model."""
        return f"{name}.".startswith(tuple(f"vae.{part}." for part in self.frozen))

    def _movers(self, name: str) -> tuple[str, ...]:
        """Return the aims that train a parameter."""
        root, part, *rest = name.split(".")
        if root == "vae":
            return tuple(term for term, (_, aim) in self.terms.items() if part in aim.moves)
        own = {term: aim for term, (loss, aim) in self.terms.items() if loss == part}
        named = tuple(term for term, aim in own.items() if rest[0] in aim.own)
        if named:
            return named
        first, aim = next(iter(own.items()))  # a network that no aim names is trained with its loss's parts of the model
        return self._movers(f"vae.{aim.moves[0]}") if aim.moves else (first,)

    def _optim(self, movers: Sequence[str]) -> Optim:
        asked = list(dict.fromkeys(optim for term in movers if (optim := self.terms[term].aim.optim) != Optim()))
        if len(asked) > 1:
            raise UsageError("aims of the same parameters request different optimisers", given=f"{', '.join(movers)}: {asked}")
        return asked[0] if asked else Optim()

    @property
    def batch_statistic(self) -> bool:
        """Whether any loss is a batch statistic."""
        return any(module.batch_statistic for module in self.modules() if isinstance(module, Loss))

    @property
    def learned(self) -> list[str]:
        """The names of the buffers that are learned without gradients."""
        return [f"{name}.{buffer}" for name in self.learners for buffer in cast("Module", self.get_submodule(name)).learned]

    @property
    def examples(self) -> list[str]:
        """The names of the learned buffers that hold training examples."""
        return [f"{name}.{buffer}" for name in self.learners for buffer in cast("Module", self.get_submodule(name)).examples]

    @property
    def has_critic(self) -> bool:
        """Whether a loss trains its own network by an aim outside the reported objective."""
        return any(aim.own and not aim.judged for _, aim in self.terms.values())

    @property
    def has_controller(self) -> bool:
        """Whether a loss has state learned without gradients, such as a weight set by a controller."""
        return any(name.startswith("losses.") for name in self.learners)

    @property
    def producers(self) -> set[int]:
        """The indices of the players that own parameters of the model, which produce the trace."""
        return {owner for name, owner in self.owner.items() if name.startswith("vae.")}

    def train(self, mode: bool = True) -> Objective:
        """Set training or evaluation mode; frozen parts stay in evaluation mode, so that their buffers do not change either."""
        super().train(mode)
        for part in self.frozen:
            self.vae.get_submodule(part).eval()
        return self

    def inputs_of(
        self, batch: Batch, streams: Streams | JointStreams, number: int, *, epoch: Tensor, split: str | None = None
    ) -> Inputs:
        """Return the inputs for a batch, with noise as a function of the seed, the number and, in evaluation, the split.

        Each loss has its own stream, so that adding a loss does not change other draws.

        Args:
            batch: The batch, or this process's part of it.
            streams: The random streams of the run.
            number: The number of the step in training, or of the batch in evaluation.
            epoch: The time for schedules, a 0-d tensor.
            split: The name of the split in evaluation; default: training.
        """
        posterior, prefix = ("posterior", "") if split is None else (f"evaluation/{split}", f"evaluation/{split}/")
        like, device = batch.inputs, batch.inputs.device
        draw = partial(self.draw_noise, like=like)
        noise = batch.share(partial(streams.draw, posterior, number, draw=draw, device=device))
        draws: dict[str, Tensor] = {}
        for kind in self.drawers:
            own = partial(cast("Loss", self.losses[kind]).draw_noise, like=like, model=self.vae)
            drawn = batch.share(partial(streams.draw, f"{prefix}loss/{kind}", number, draw=own, device=device))
            if drawn is not None:
                draws[kind] = drawn
        return Inputs(batch.inputs, batch.x, self.samples_first(noise), epoch, batch.y, draws)

    def draw_noise(self, num: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
        """Draw the base noise for the codes of ``num`` images, ``(num, *S, D)``: batch first, so that processes can share it.

        `samples_first` converts it to the model's order.
        """
        noise: Tensor = self.vae.posterior.draw_noise(num * math.prod(self.samples), generator, like=like)
        return noise.unflatten(0, (num, *self.samples)) if self.samples else noise

    def samples_first(self, noise: Tensor) -> Tensor:
        """Move the batch dimension of noise ``(B, *S, D)`` behind the sample dimensions, ``(*S, B, D)``."""
        return noise.movedim(0, len(self.samples)) if self.samples else noise

    def parameters_of(self, player: Player) -> list[nn.Parameter]:
        """Return the parameters of a player, in a fixed order."""
        parameters = dict(self.named_parameters())
        return [parameters[name] for name in player.names]

    def parts_of(self, inputs: Inputs) -> list[Inputs]:
        """Split the inputs for a batch into `parts` of equal size, in order."""
        if self.parts == 1:
            return [inputs]

        def split(tensor: Tensor | None, dim: int = 0) -> Sequence[Any]:
            return [None] * self.parts if tensor is None else tensor.chunk(self.parts, dim)

        drawn = {kind: split(each) for kind, each in (inputs.draws or {}).items()}
        tensors = (inputs.x, inputs.target, inputs.y, inputs.params)
        rows = zip(*map(split, tensors), split(inputs.noise, len(self.samples)), strict=True)
        return [
            Inputs(x, target, noise, inputs.epoch, y, {kind: each[number] for kind, each in drawn.items()}, params)
            for number, (x, target, y, params, noise) in enumerate(rows)
        ]

    def forward(self, inputs: Inputs, *, player: int | None = None, trace: Trace | None = None) -> Result:
        """Return the scalar to minimise, the terms to log, and the next state.

        Args:
            inputs: The inputs for a batch.
            player: A single player to evaluate, with the parameters as currently visible; for internal use.
            trace: The trace for that player; default: computed.
        """
        if player is None:
            total, terms, trace = self.evaluate(inputs)
            return Result(total, terms, self.next_state(trace) if self.learners and self.training and self.parts == 1 else {})
        return Result(*self._value(self.players[player], self.trace(inputs) if trace is None else trace), {})

    @torch.no_grad()
    def learn(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the next state after a batch that is trained in parts, from the trace of the whole batch.

        The networks process one part at a time.
        """
        self.vae.chunk, before = inputs.noise.shape[len(self.samples)] // self.parts, self.vae.chunk
        trace = self.trace(inputs, whole=True)
        self.vae.chunk = before
        return self.next_state(trace)

    @torch.no_grad()
    def next_state(self, trace: Trace) -> dict[str, Tensor]:
        """Return the next values of the buffers that are learned without gradients."""
        state: dict[str, Tensor] = {}
        if trace.whole is not None and self.gather is not None:
            x = self.gather(trace.x, 0) if self.examples else trace.whole.x
            trace = replace(trace.whole, x=x, _log_likelihood=self.gather(trace.log_likelihood.detach(), -1))
        for name in self.learners:
            module = cast("Module", self.get_submodule(name))
            state |= {f"{name}.{buffer}": value for buffer, value in module.next_state(trace).items()}
        return state

    def evaluate(self, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor], Trace]:
        """Return the scalar to minimise, the terms to log, and the trace."""
        trace = self.trace(inputs)
        if len(self.players) == 1:
            total, terms = self._value(self.players[0], trace)
        else:
            total, terms = self._play(inputs, trace)
        terms = {name: value.detach() for name, value in terms.items()}
        logged = {"loss": reduce(torch.add, [terms[name] for name, (_, aim) in self.terms.items() if aim.judged])} | terms
        decoded = trace.decoded is not None and not isinstance(trace.x, Elsewhere)
        if "reconstruction" not in logged and (decoded or not self.training):
            logged["reconstruction"] = -trace.log_likelihood.detach().mean()
        if "kl" not in logged and trace.kl is not None:
            logged["kl"] = trace.kl.detach().mean()
        return total, logged, trace

    def _value(self, player: Player, trace: Trace) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of a player's aims, 0-d, and the terms to log: each aim, and the metrics of losses in the trace."""
        whole = trace.whole or trace
        terms: dict[str, Tensor] = {}
        for name in player.aims:
            terms[name] = self.value_of(name, trace).mean()
        total = reduce(torch.add, terms.values())
        return total, terms | {name: value.mean() for name, value in (trace.metrics | whole.metrics).items()}

    def value_of(self, name: str, trace: Trace) -> Tensor:
        """Return the value of a term from its loss: ``(B,)``, or 0-d for a batch statistic."""
        kind, aim = self.terms[name]
        loss = cast("Loss", self.losses[kind])
        function = loss if aim.method == "forward" else getattr(loss, aim.method)
        value: Tensor = function((trace.whole or trace) if loss.batch_statistic else trace)
        return value

    def _play(self, inputs: Inputs, trace: Trace) -> tuple[Tensor, dict[str, Tensor]]:
        """Evaluate each player with its own parameters live and all others frozen; return the sum and the terms."""
        values: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        parameters, producers = dict(self.named_parameters()), self.producers
        for index in range(len(self.players)):
            view = {name: p if self.owner.get(name) == index else p.detach() for name, p in parameters.items()}
            seen: Trace | None = None  # recompute: other players produce a part of it
            if producers == {index}:
                seen = trace
            elif index not in producers:
                seen = trace.detach()
            value, more, _ = functional_call(self, view, (inputs,), {"player": index, "trace": seen})
            values.append(value)
            terms = more | terms
        return reduce(torch.add, values), terms

    def trace(self, inputs: Inputs, *, whole: bool = False) -> Trace:
        """Return the trace of the model for the inputs.

        Args:
            inputs: The inputs for a batch, or for one of `parts`.
            whole: Whether they are for a whole batch although it is trained in parts.
        """
        gather = self.gather if self.training and (whole or self.parts == 1) else None
        trace: Trace = self.vae(
            inputs.x,
            inputs.noise,
            target=inputs.target,
            y=inputs.y,
            num_data=self.num_data,
            epoch=inputs.epoch,
            draws=inputs.draws,
            gather=gather,
            params=inputs.params,
            decode=False,
        )
        return trace
