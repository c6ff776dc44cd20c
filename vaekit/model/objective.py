"""The objective: players, each a parameter scope and its weighted losses, summed to one scalar for one backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vaekit.errors import UsageError
from vaekit.interfaces import Loss, Shape
from vaekit.model.vae import VAE
from vaekit.trace import Trace, mean_over_samples


class Inputs(NamedTuple):
    """The inputs of the objective, besides its parameters.

    Args:
        x: The images to encode, ``(B, C, H, W)``.
        target: The images to score, of the same shape; usually ``x`` itself.
        noise: The base noise of the posterior, ``(*S, B, D)``.
        epoch: The time for schedules, a 0-d tensor.
        y: Labels, ``(B,)``, or None.
    """

    x: Tensor
    target: Tensor
    noise: Tensor
    epoch: Tensor
    y: Tensor | None = None


class Reconstruction(Loss):
    """``-log p(x|z)`` averaged over samples: part of every objective unless a loss covers it."""

    samples = None

    def forward(self, trace: Trace) -> Tensor:
        return -mean_over_samples(trace.log_likelihood)


class Player(nn.Module):
    """A parameter scope and the losses that are minimised over it.

    Args:
        name: The player's name in error messages and optimiser settings.
        losses: The losses by name; their own parameters belong to this player's scope.
        scope: Prefixes of the other parameter names of the objective in this player's scope, such as ``("vae.",)``.
        weights: The weights of the losses by name; default: 1.
        lr_scale: The learning rate of this player relative to the run's.
    """

    def __init__(
        self,
        name: str,
        losses: Mapping[str, Loss],
        *,
        scope: Sequence[str] = ("vae.",),
        weights: Mapping[str, float] | None = None,
        lr_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.name, self.scope, self.lr_scale = name, tuple(scope), lr_scale
        self.losses = nn.ModuleDict(losses)
        self.weights = dict(weights or {})

    def forward(self, trace: Trace) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the losses, 0-d, and the terms to log: each loss and its metrics in the trace."""
        whole = trace.whole or trace
        terms = {name: loss(whole if loss.batch_statistic else trace).mean() for name, loss in self.losses.items()}
        weighted = [self.weights[name] * term if name in self.weights else term for name, term in terms.items()]
        total = reduce(torch.add, weighted)
        return total, terms | {name: value.mean() for name, value in (trace.metrics | whole.metrics).items()}


def samples_of(losses: Sequence[Loss]) -> Shape:
    """Return the sample dimensions that several losses ask for together.

    Raises:
        UsageError: They ask for different ones.
    """
    asked = {loss.kind: loss.samples for loss in losses if loss.samples is not None}
    if len(set(asked.values())) > 1:
        given = ", ".join(f"{kind}: {math.prod(samples)} ({samples})" for kind, samples in asked.items())
        raise UsageError("losses ask for different numbers of samples per image", given=given, expected="the same for all losses")
    return next(iter(asked.values()), ())


class Objective(nn.Module):
    """All that is trained: a VAE and the players that train it.

    The scopes of the players partition the parameters. A player's losses see all parameters outside its scope detached. The trace
    is detached for a player that owns none of the parameters that produce it, and computed again for a player that owns some of
    them. Therefore no loss leaks into another player's parameters, and the sum over all players is a single scalar: one backward
    pass, followed by a step of every optimiser.

    Args:
        vae: The model.
        players: The players, at least one.
        num_data: The size of the training set, for losses that estimate aggregates.

    Raises:
        ValueError: A trainable parameter belongs to no player or to several.
        UsageError: Losses ask for different numbers of samples.
    """

    def __init__(self, vae: VAE, players: Sequence[Player], *, num_data: int | None = None) -> None:
        super().__init__()
        self.vae = vae
        self.players = nn.ModuleList(players)
        self.num_data = num_data
        self.gather: Callable[[Tensor, int], Tensor] | None = None
        """Joins a batch's parts over processes, in training, for losses that are batch statistics; see `VAE.forward`."""
        self.samples = samples_of([loss for player in players for loss in cast("Iterable[Loss]", player.losses.values())])
        """The sample dimensions ``*S`` of the codes, as the losses ask for them."""
        self.owner: dict[str, int] = {}
        for name, parameter in self.named_parameters():
            owners = [i for i, p in enumerate(players) if name.startswith((f"players.{i}.", *p.scope))]
            if len(owners) != 1 and parameter.requires_grad:
                raise ValueError(f"parameter {name} belongs to {len(owners)} players; scopes must partition the parameters")
            self.owner[name] = owners[0]

    @property
    def batch_statistic(self) -> bool:
        """Whether any loss of an example depends on the rest of the batch."""
        return any(module.batch_statistic for module in self.modules() if isinstance(module, Loss))

    @property
    def producers(self) -> set[int]:
        """The numbers of the players that own parameters of the model, which produce the trace."""
        return {owner for name, owner in self.owner.items() if name.startswith("vae.")}

    def draw_noise(self, num: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
        """Draw the base noise of ``num`` images, ``(num, *S, D)``: batch first, so that processes can share it by images.

        `samples_first` brings it into the order that the model takes.
        """
        noise = self.vae.posterior.draw_noise(num * math.prod(self.samples), generator, like=like)
        shaped: Tensor = noise.unflatten(0, (num, *self.samples))
        return shaped

    def samples_first(self, noise: Tensor) -> Tensor:
        """Move the images of noise ``(B, *S, D)`` behind its samples: ``(*S, B, D)``."""
        return noise.movedim(0, len(self.samples))

    def parameters_of(self, player: Player) -> list[nn.Parameter]:
        """Return the parameters in a player's scope, in a fixed order."""
        index = list(self.players).index(player)
        return [p for name, p in self.named_parameters() if self.owner[name] == index]

    def forward(
        self, inputs: Inputs, *, player: int | None = None, trace: Trace | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to minimise and the terms to log, each 0-d: means over the batch, in nats per image.

        Args:
            inputs: The inputs for a batch.
            player: The only player to evaluate, with the parameters as currently visible; for internal use.
            trace: The trace for that player; default: traced again.
        """
        if player is None:
            total, terms, _ = self.evaluate(inputs)
            return total, terms
        value: tuple[Tensor, dict[str, Tensor]] = self.players[player](self._trace(inputs) if trace is None else trace)
        return value

    def evaluate(self, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor], Trace]:
        """Return the results of `forward` and the trace."""
        trace = self._trace(inputs)
        if len(self.players) == 1:
            total, terms = self.players[0](trace)
        else:
            total, terms = self._play(inputs, trace)
        logged = {"loss": total} | terms
        if "reconstruction" not in logged:
            logged["reconstruction"] = -trace.log_likelihood.mean()
        if "kl" not in logged and trace.kl is not None:
            logged["kl"] = trace.kl.mean()
        return total, {name: value.detach() for name, value in logged.items()}, trace

    def _play(self, inputs: Inputs, trace: Trace) -> tuple[Tensor, dict[str, Tensor]]:
        """Evaluate each player with its own parameters live and all others frozen; return the sum and the terms."""
        values: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        parameters = dict(self.named_parameters())
        for index in range(len(self.players)):
            view = {name: p if self.owner[name] == index else p.detach() for name, p in parameters.items()}
            seen: Trace | None = None  # trace again: other players produce a part of it
            if self.producers == {index}:
                seen = trace
            elif index not in self.producers:
                seen = trace.detach()
            value, more = functional_call(self, view, (inputs,), {"player": index, "trace": seen})
            values.append(value)
            terms |= more
        return reduce(torch.add, values), terms

    def _trace(self, inputs: Inputs) -> Trace:
        trace: Trace = self.vae(
            inputs.x,
            inputs.noise,
            target=inputs.target,
            y=inputs.y,
            num_data=self.num_data,
            epoch=inputs.epoch,
            gather=self.gather if self.training else None,
        )
        return trace
