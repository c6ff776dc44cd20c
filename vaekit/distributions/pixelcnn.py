"""PixelCNN: an autoregressive density of codes on a grid, computed by causal convolutions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vaekit.distributions.density import at_least_float32
from vaekit.distributions.kl import register_kl
from vaekit.distributions.quantised import Quantised, Vocabulary, from_positions, to_positions

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

Index = tuple[int, ...]


class Form(NamedTuple):
    """The structure of the network, without its weights.

    There is a stack of gated convolutions for each side of the grid. Of the codes before a position, stack k sees those with
    the same first k coordinates and a smaller next one; it also receives the features of stack k - 1. Together, the stacks see
    all codes before the position. From their sum, the R codes of the position are predicted one by one.

    Args:
        sides: The sides of the grid that are longer than 1.
        sizes: The number of values of each of the R codes of a position.
        width: The number of features.
        depth: The number of layers.
        kernel: The size of a kernel along each side, an odd number.
    """

    sides: tuple[int, ...]
    sizes: tuple[int, ...]
    width: int
    depth: int
    kernel: int

    @property
    def most(self) -> int:
        """The maximum number of values of a code."""
        return max(self.sizes)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights by name."""
        width, num, reach = self.width, len(self.sizes), self.kernel // 2 + 1
        shapes: dict[str, tuple[int, ...]] = {}
        if self.sides:
            shapes["codes"] = (num * self.most, width)
        else:
            shapes["start"] = (width,)
        for layer, k in itertools.product(range(self.depth), range(len(self.sides))):
            later = (self.kernel,) * (len(self.sides) - k - 1)
            shapes[f"convolution_{layer}_{k}"] = (2 * width, width, reach, *later)
            shapes[f"bias_{layer}_{k}"] = (2 * width,)
            shapes[f"output_{layer}_{k}"] = (width, width)
            if k > 0:
                shapes[f"from_previous_{layer}_{k}"] = (2 * width, width)
        if num > 1:
            shapes["before"] = ((num - 1) * self.most, width)
        shapes["hidden"] = (width, width)
        shapes["hidden_bias"] = (num * width,)
        shapes["logits"] = (num, self.most, width)
        shapes["logits_bias"] = (num * self.most,)
        return shapes


class PixelCNNCodes(NamedTuple):
    """``p(z) = prod_i p(code_i | codes before i)`` over positions i in raster order, computed by gated convolutions.

    Args:
        form: The structure of the network.
        weights: Its weights by name; ``closed``, ``(R, K)``, is minus infinity for values that a code cannot take, else 0.
        vocabulary: The vectors that codes represent.

    References:
        van den Oord et al. (2016), "Conditional Image Generation with PixelCNN Decoders", NeurIPS, arXiv:1606.05328, section 2.
    """

    form: Form
    weights: Mapping[str, Tensor]
    vocabulary: Vocabulary

    @property
    def num(self) -> int:
        """The number of positions P."""
        return math.prod(self.form.sides)

    @property
    def mean(self) -> Tensor:
        """The sample for noise 1/2, ``(C P,)``; the mean has no closed form."""
        start = at_least_float32(self.weights["hidden"])
        return self.rsample(start.new_full((1, self.num * len(self.form.sizes)), 0.5))[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of the codes that latents represent, ``(*S, B)``."""
        codes = self.vocabulary.codes(to_positions(value, value.shape[-1] // self.num))
        flat = codes.reshape(-1, *codes.shape[-2:])
        return self.log_prob_of(flat).sum(-1).view(value.shape[:-1]).to(value.dtype)

    def log_prob_of(self, codes: Tensor) -> Tensor:
        """Return the log probabilities of codes ``(B, P, R)`` given the preceding ones, per position, ``(B, P)``."""
        scores = torch.log_softmax(self.logits(self.context(codes), codes), -1)
        return scores.gather(-1, codes[..., None]).squeeze(-1).sum(-1)

    def embedded(self, name: str, codes: Tensor) -> Tensor:
        """Return the features ``(..., R, W)`` of codes ``(..., R)``."""
        first = torch.arange(codes.shape[-1], device=codes.device) * self.form.most
        return F.embedding(codes + first, self.weights[name])

    def logits(self, context: Tensor, codes: Tensor) -> Tensor:
        """Return the logits ``(..., R, K)`` of the codes of a position, each given the preceding ones.

        Args:
            context: The features of the preceding positions, ``(..., W)``.
            codes: The codes, ``(..., R)``; the last one is not used.
        """
        form, weights = self.form, self.weights
        num = len(form.sizes)
        hidden = F.linear(context, weights["hidden"])[..., None, :] + weights["hidden_bias"].view(num, form.width)
        if num > 1:
            before = self.embedded("before", codes[..., :-1]).cumsum(-2)
            hidden = hidden + F.pad(before, (0, 0, 1, 0))
        logits = torch.einsum("...rw,rkw->...rk", F.silu(hidden), weights["logits"]) + weights["logits_bias"].view(num, -1)
        return at_least_float32(logits) + weights["closed"]

    def context(self, codes: Tensor) -> Tensor:
        """Return the features of the codes ``(B, P, R)`` before each position, ``(B, P, W)``."""
        form = self.form
        if not form.sides:
            return self.weights["start"].expand(*codes.shape[:-1], -1)
        x = self.embedded("codes", codes).sum(-2).mT.unflatten(-1, form.sides)
        num = len(form.sides)
        stacks = [F.pad(x, (0, 0) * (num - k - 1) + (1, -1)) for k in range(num)]  # shifted by one along side k
        for layer in range(form.depth):
            for k, h in enumerate(stacks):
                rows = h.movedim(1, k + 1).flatten(0, k)  # the sides before k are independent of each other
                a = self.convolved(layer, k, F.pad(rows, (0, 0) * (num - k - 1) + (form.kernel // 2, 0)))
                a = a.unflatten(0, (len(x), *form.sides[:k])).movedim(k + 1, 1)
                stacks[k] = self.gated(layer, k, h, a, stacks[k - 1])
        return sum(stacks[1:], stacks[0]).flatten(2).mT

    def convolved(self, layer: int, k: int, h: Tensor) -> Tensor:
        """Return the convolution of stack k along sides k and later, ``(N, W, *sides)``; side k is padded already."""
        weight, bias = (self.weights[f"{name}_{layer}_{k}"] for name in ("convolution", "bias"))
        later = weight.ndim - 3
        return CONVOLUTIONS[later + 1](h, weight, bias, padding=(0, *[self.form.kernel // 2] * later))

    def gated(self, layer: int, k: int, h: Tensor, a: Tensor, previous: Tensor) -> Tensor:
        """Return the next features of stack k: a gated unit of the convolution, added to its features ``(B, W, ...)``."""
        if k > 0:
            a = a + torch.einsum("oc,bc...->bo...", self.weights[f"from_previous_{layer}_{k}"], previous)
        value, gate = a.chunk(2, 1)
        gated = torch.tanh(value) * torch.sigmoid(gate)
        return h + torch.einsum("oc,bc...->bo...", self.weights[f"output_{layer}_{k}"], gated)

    def rsample(self, noise: Tensor) -> Tensor:
        """Map uniform noise on [0, 1), ``(*S, B, P R)``, to latents ``(*S, B, C P)``, code by code.

        Features needed by later positions are cached, so sampling takes about the arithmetic of one pass, in P small steps.
        """
        form = self.form
        uniform = noise.reshape(-1, self.num, len(form.sizes)).unbind(1)
        drawn: dict[Index, Tensor] = {}
        kept: list[dict[Index, list[Tensor]]] = [{} for _ in form.sides]
        for position, own in zip(itertools.product(*map(range, form.sides)), uniform, strict=True):
            for k in range(len(form.sides)):
                if not any(position[k + 1 :]):  # otherwise, stack k has already seen this row
                    self._see(k, position[: k + 1], drawn, kept, like=own)
            found = [_at(rows[position[: k + 1]][-1], position[k + 1 :]) for k, rows in enumerate(kept)]
            context = sum(found[1:], found[0]) if found else self.weights["start"].expand(len(own), -1)
            drawn[position] = self._draw(context, own)
        z = from_positions(self.vocabulary.vectors(torch.stack([*drawn.values()], 1)))
        return z.view(*noise.shape[:-1], -1)

    def _see(self, k: int, row: Index, drawn: dict[Index, Tensor], kept: list[dict[Index, list[Tensor]]], like: Tensor) -> None:
        """Compute the features of stack k in every layer, for all positions whose first coordinates are ``row``."""
        form, (*head, last) = self.form, row
        later = form.sides[k + 1 :]
        shape = len(like), form.width, *later
        if last > 0:
            before = [drawn[*head, last - 1, *rest] for rest in itertools.product(*map(range, later))]
            h = self.embedded("codes", torch.stack(before, 1)).sum(-2).mT.reshape(shape)
        else:
            h = at_least_float32(self.weights["codes"]).new_zeros(shape)
        rows = [h]
        reached = [(*head, last - back) for back in range(form.kernel // 2, 0, -1)]
        kept[k] = {place: kept[k][place] for place in reached if place in kept[k]}
        for layer in range(form.depth):
            past = [kept[k][place][layer] if place in kept[k] else torch.zeros_like(rows[0]) for place in reached]
            a = self.convolved(layer, k, torch.stack([*past, rows[layer]], 2)).squeeze(2)
            previous = kept[k - 1][row[:k]][layer + 1][:, :, last] if k > 0 else a
            rows.append(self.gated(layer, k, rows[layer], a, previous))
        kept[k][row] = rows

    def _draw(self, context: Tensor, uniform: Tensor) -> Tensor:
        """Draw the codes ``(B, R)`` of a position one by one, by inverting their CDFs."""
        codes = torch.zeros_like(uniform, dtype=torch.int64).unbind(-1)
        for r, size in enumerate(self.form.sizes):
            logits = self.logits(context, torch.stack(codes, -1))[:, r, :size]
            bounds = torch.softmax(logits, -1).cumsum(-1)[:, :-1]
            codes = *codes[:r], (uniform[:, r, None] >= bounds).sum(-1), *codes[r + 1 :]
        return torch.stack(codes, -1)


def _at(features: Tensor, place: Index) -> Tensor:
    """Return features ``(B, W, *sides)`` at a place, ``(B, W)``."""
    index: Any = (..., *place)
    return features[index]


@register_kl(Quantised, PixelCNNCodes)
def _quantised_pixelcnn(q: Quantised, p: PixelCNNCodes) -> Tensor:
    """Return ``-log p`` of the codes at each position given the preceding ones, spread evenly over its channels."""
    nats = -p.log_prob_of(q.codes)
    channels = q.entries.shape[-1] // nats.shape[-1]
    return from_positions((nats / channels)[..., None].expand(*nats.shape, channels)).to(q.entries.dtype)
