"""Encoding and decoding examples that are larger than those of the training set, tile by tile."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.errors import UsageError
from vaekit.interfaces import Capability, Shape
from vaekit.model.vae import VAE

OVERLAP = 0.25
"""The fraction of a tile's side that it shares with the next one, by default."""
AT_ONCE = 16
"""The number of tiles that the networks process at once, by default."""


class Side(NamedTuple):
    """How tiles lie along a side, in positions of the grid of latents.

    Args:
        positions: The number of positions of a tile.
        stride: The number of pixels for each position.
        overlap: The number of positions that a tile shares with the next one.
    """

    positions: int
    stride: int
    overlap: int

    def begin(self, number: int) -> int:
        """Return the first position of a tile."""
        return number * (self.positions - self.overlap)

    def count(self, whole: int) -> int:
        """Return the number of tiles that cover a number of positions."""
        return max(1, math.ceil((whole - self.overlap) / (self.positions - self.overlap)))

    def weights(self, number: int, count: int, grain: int) -> Tensor:
        """Return the weights of a tile in a blend of several, which rise and fall linearly where it overlaps another one.

        Args:
            number: The number of the tile.
            count: The number of all tiles.
            grain: How many weights there are for each position.
        """
        weights, shared = torch.ones(self.positions * grain), self.overlap * grain
        rise = (torch.arange(shared) + 0.5) / max(shared, 1)
        if number > 0:
            weights[:shared] = rise
        if number < count - 1:
            weights[len(weights) - shared :] = rise.flip(0)
        return weights


class Tiling:
    """A model with a grid of latents, applied to examples of any size by overlapping tiles of the size that it was trained on.

    Any model with a grid of latents can be tiled: each tile is an example of the trained size. Where tiles overlap, they are
    blended linearly, as in diffusers' ``AutoencoderKL``. An example that the tiles do not fit is continued by reflection, and the
    result is cropped. Beside the example and the result, memory does not grow with their size. An example of exactly one tile is
    encoded and decoded as by the model itself, to the bit.

    A convolutional network whose outputs depend on inputs up to r positions away computes the same as on the whole example,
    except within r positions of an edge of a tile inside the example. Normalisation over positions, attention and linear layers
    see a tile only.

    Measured on one CPU core with the networks ``resnet``, a latent stride of 8 and a picture of 1,024×1,024: by tiles of 64×64 it
    takes 5.1 s and 62 MiB more than the model and its libraries, and as a whole, by a model of that size, 3.7 s and 470 MiB.

    Shapes: examples ``(B, C, *sides)``, images, signals or volumes, and grids of latents ``(B, K, *positions)``, with a position
    for every ``stride`` pixels of a side.

    Args:
        vae: The model.
        overlap: The fraction of a tile's side that it shares with the next one, from 0 to 0.5; rounded down to whole positions.
        at_once: The number of tiles that the networks process at once.

    Raises:
        UsageError: The latents of the model form no grid, or its positions do not divide the sides of its examples, or an option
            is out of range.

    Example:
        >>> run = vaekit.train(encoder="cnn", latent_dim=2, latent_stride=4, epochs=1, pictures="none")
        >>> tiling = Tiling(run.vae())
        >>> z = tiling.encode(torch.rand(1, 1, 100, 60))
        >>> z.shape, tiling.decode(z).shape
        (torch.Size([1, 2, 25, 15]), torch.Size([1, 1, 100, 60]))
    """

    def __init__(self, vae: VAE, *, overlap: float = OVERLAP, at_once: int = AT_ONCE) -> None:
        positions, sides = vae.latent_shape[1:], vae.data_shape[1:]
        if not positions:
            raise UsageError(
                "only a model with a grid of latents works on tiles",
                given=f"a model with a vector of {vae.latent_dim} latents",
                expected="latents with positions",
                remedy="train one with --latent-stride",
            )
        if any(side % number for side, number in zip(sides, positions, strict=True)):
            raise UsageError(
                "the latents of the model do not divide its examples into equal parts",
                given=f"{_times(positions)} positions for {_times(sides)}",
                expected="sides that are multiples of the latent stride",
                remedy="train on examples of such a size, for example with --dataset.size",
            )
        if not 0 <= overlap <= 0.5 or at_once < 1:
            raise UsageError(
                "tiles overlap by at most half of a side",
                given=f"overlap {overlap}, {at_once} tiles at once",
                expected="an overlap from 0 to 0.5, and at least 1 tile",
            )
        self.vae, self.at_once = vae, at_once
        self.sides = [Side(number, side // number, int(overlap * number)) for number, side in zip(positions, sides, strict=True)]

    @torch.no_grad()
    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the posterior means of examples ``(B, C, *sides)`` as grids ``(B, K, *positions)``.

        A position in an overlap is a blend of two codes, also where codes are entries of a codebook; `decode` takes the nearest
        entry.

        Args:
            x: The examples; if a side is not a multiple of the stride, the last position covers the remainder.
            y: Their labels, ``(B,)``, which conditional models need.

        Raises:
            UsageError: The examples do not have the channels or the number of sides of the model's, or labels are missing.
        """
        self._check(x, self.vae.data_shape)
        whole = [math.ceil(length / side.stride) for length, side in zip(x.shape[2:], self.sides, strict=True)]

        def encoded(tiles: Tensor, labels: Tensor | None) -> Tensor:
            mean: Tensor = self.vae.encode(tiles, labels).mean
            return mean.reshape(-1, *self.vae.latent_shape)

        return self._blended(x, y, encoded, whole, grains=([side.stride for side in self.sides], [1 for _ in self.sides]))

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the mean examples of grids of latents ``(B, K, *positions)``: ``stride`` pixels of a side for each position.

        Args:
            z: The latents.
            y: Labels, ``(B,)``, which conditional models need.

        Raises:
            UsageError: The latents do not have the channels or the number of sides of the model's, or labels are missing.
        """
        self._check(z, self.vae.latent_shape)

        def decoded(tiles: Tensor, labels: Tensor | None) -> Tensor:
            return self.vae.decode(self.vae.nearest(tiles.flatten(1)), labels)

        whole = list(z.shape[2:])
        return self._blended(z, y, decoded, whole, grains=([1 for _ in self.sides], [side.stride for side in self.sides]))

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the examples decoded from the posterior means of examples, of the same size; see `encode`."""
        return _cropped(self.decode(self.encode(x, y), y), x.shape[2:])

    @torch.no_grad()
    def sample(
        self,
        num: int,
        sides: Sequence[int],
        *,
        y: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the mean examples of ``num`` draws from the prior, ``(num, C, *sides)``.

        The grid of latents is put together from draws of the model's own grid, which is a draw from the prior of a larger grid
        where latents are independent.

        Args:
            num: The number of examples.
            sides: Their sides.
            y: Their labels, ``(num,)``, for conditional models; default: every class in turn.
            temperature: A factor on the prior's base noise.
            generator: The source of randomness, on the model's device.

        Raises:
            UsageError: The latents depend on each other in the prior, or there are not as many sides as the model's examples
                have.
        """
        vae = self.vae
        if Capability.FACTORISED not in vae.prior.provides or len(sides) != len(self.sides) or min(sides) < 1:
            raise UsageError(
                "the model cannot draw examples of this size",
                given=f"sides {_times(tuple(sides))}, prior {vae.prior.kind!r}",
                expected=f"{len(self.sides)} sides of 1 or more, and a prior of independent latents, such as 'normal'",
                remedy="draw examples of the model's own size",
            )
        y = vae.classes_in_turn(num) if y is None else y
        whole = [math.ceil(length / side.stride) for length, side in zip(sides, self.sides, strict=True)]
        counts = [math.ceil(number / side.positions) for number, side in zip(whole, self.sides, strict=True)]
        draws = math.prod(counts)
        labels = None if y is None else y.repeat_interleave(draws)
        z = vae.sample_latent(num * draws, y=labels, temperature=temperature, generator=generator)
        z = z.reshape(num, *counts, *vae.latent_shape)
        order = [each for dim in range(len(counts)) for each in (1 + dim, len(counts) + 2 + dim)]
        covered = [count * side.positions for count, side in zip(counts, self.sides, strict=True)]
        z = z.permute(0, len(counts) + 1, *order).reshape(num, -1, *covered)
        return _cropped(self.decode(_cropped(z, whole), y), sides)

    def _blended(
        self,
        source: Tensor,
        y: Tensor | None,
        function: Callable[[Tensor, Tensor | None], Tensor],
        whole: Sequence[int],
        *,
        grains: tuple[Sequence[int], Sequence[int]],
    ) -> Tensor:
        """Apply a function to the tiles of a tensor ``(B, C, *sides)``, and blend the results.

        Args:
            source: The tensor.
            y: Labels, ``(B,)``, or None.
            function: Maps tiles, and their labels, to tiles.
            whole: The numbers of positions that the tensor covers.
            grains: How many numbers along each side of the tensor, and of the result, there are for each position.
        """
        grain, new_grain = grains
        counts = [side.count(number) for side, number in zip(self.sides, whole, strict=True)]
        places = list(itertools.product(range(len(source)), *map(range, counts)))
        canvas: Tensor | None = None
        for low in range(0, len(places), self.at_once):
            chosen = places[low : low + self.at_once]
            tiles = torch.stack([self._tile(source[image], place, grain) for image, *place in chosen])
            made = function(tiles, None if y is None else y[[image for image, *_ in chosen]])
            if canvas is None:
                covered = [each * side.begin(count) for each, side, count in zip(new_grain, self.sides, counts, strict=True)]
                covered = [more + each * side.overlap for more, each, side in zip(covered, new_grain, self.sides, strict=True)]
                canvas = made.new_zeros(len(source), made.shape[1], *covered)
            for tile, (image, *place) in zip(made, chosen, strict=True):
                area, weighted = canvas[image], tile
                for dim, (side, number, count, each) in enumerate(zip(self.sides, place, counts, new_grain, strict=True), 1):
                    area = area.narrow(dim, each * side.begin(number), each * side.positions)
                    weights = side.weights(number, count, each).to(tile)
                    weighted = weighted * weights.view(-1, *(1 for _ in self.sides[dim:]))
                area += weighted
        assert canvas is not None  # there is at least one tile
        return _cropped(canvas, [each * number for each, number in zip(new_grain, whole, strict=True)])

    def _tile(self, source: Tensor, place: Sequence[int], grain: Sequence[int]) -> Tensor:
        """Return a tile of a tensor ``(C, *sides)``, which is continued by reflection."""
        for dim, (side, number, each) in enumerate(zip(self.sides, place, grain, strict=True), 1):
            begin, length = each * side.begin(number), source.shape[dim]
            turn = max(2 * (length - 1), 1)
            index = torch.arange(begin, begin + each * side.positions, device=source.device) % turn
            source = source.index_select(dim, torch.minimum(index, turn - index).clamp(max=length - 1))
        return source

    @staticmethod
    def _check(given: Tensor, shape: Shape) -> None:
        if given.ndim != len(shape) + 1 or given.shape[1] != shape[0] or 0 in given.shape:
            raise UsageError(
                "the model cannot work on tiles of this",
                given=f"shape {tuple(given.shape)}",
                expected=f"shape (B, {shape[0]}, {', '.join(['side'] * (len(shape) - 1))}), with sides of any length",
            )


def _cropped(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Return the beginning of each side of a tensor ``(B, C, *sides)``."""
    for dim, length in enumerate(sides, 2):
        x = x.narrow(dim, 0, length)
    return x


def _times(sides: Shape) -> str:
    return "×".join(map(str, sides))
