"""Tiled encoding and decoding of examples larger than those of the training set."""

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
"""The default overlap of neighbouring tiles, as a fraction of a tile's side."""
AT_ONCE = 16
"""The default number of tiles to process at once."""


class Side(NamedTuple):
    """The arrangement of tiles along a side, in positions of the grid of latents.

    Args:
        positions: The number of positions per tile.
        stride: The number of pixels per position.
        overlap: The number of positions shared by neighbouring tiles.
    """

    positions: int
    stride: int
    overlap: int

    def begin(self, number: int) -> int:
        """Return the first position of a tile."""
        return number * (self.positions - self.overlap)

    def count(self, whole: int) -> int:
        """Return the number of tiles needed to cover a number of positions."""
        return max(1, math.ceil((whole - self.overlap) / (self.positions - self.overlap)))

    def weights(self, number: int, count: int, grain: int) -> Tensor:
        """Return the blending weights of a tile, which rise and fall linearly in overlaps.

        Args:
            number: The number of the tile.
            count: The total number of tiles.
            grain: The number of weights per position.
        """
        weights, shared = torch.ones(self.positions * grain), self.overlap * grain
        rise = (torch.arange(shared) + 0.5) / max(shared, 1)
        if number > 0:
            weights[:shared] = rise
        if number < count - 1:
            weights[len(weights) - shared :] = rise.flip(0)
        return weights


class Tiling:
    """Applies a model with a grid of latents to examples of any size, in overlapping tiles of the training size.

    Any model with a grid of latents can be tiled: each tile is an example of the training size. Overlaps are blended linearly,
    as in diffusers' ``AutoencoderKL``. If the tiles do not fit an example, it is padded by reflection, and the result is
    cropped. Apart from the example and the result, memory does not grow with their size. An example of exactly one tile is
    encoded and decoded exactly as by the model itself.

    A convolutional network whose outputs depend on inputs up to r positions away gives the same result as on the whole example,
    except within r positions of tile edges inside the example. Normalisation over positions, attention and linear layers only
    see a tile.

    Measured on one CPU core with the networks ``resnet``, a latent stride of 8 and a picture of 1,024×1,024: in tiles of 64×64
    it takes 5.1 s and 62 MiB more than the model and its libraries; as a whole, with a model of that size, 3.7 s and 470 MiB.

    Shapes: examples (images, signals or volumes) ``(B, C, *sides)`` and grids of latents ``(B, K, *positions)``, with a
    position for every ``stride`` pixels of a side.

    Args:
        vae: The model.
        overlap: The overlap of neighbouring tiles as a fraction of a tile's side, from 0 to 0.5; rounded down to whole
            positions.
        at_once: The number of tiles to process at once.

    Raises:
        UsageError: The latents of the model do not form a grid, its positions do not divide the sides of its examples, or an
            option is out of range.

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
                "only models with a grid of latents can be tiled",
                given=f"a model with a vector of {vae.latent_dim} latents",
                expected="a grid of latents",
                remedy="train one with --latent-stride",
            )
        if any(side % number for side, number in zip(sides, positions, strict=True)):
            raise UsageError(
                "the grid of latents does not divide the model's examples into equal parts",
                given=f"{_times(positions)} positions for {_times(sides)}",
                expected="sides that are multiples of the latent stride",
                remedy="train on examples of a suitable size, for example with --dataset.size",
            )
        if not 0 <= overlap <= 0.5 or at_once < 1:
            raise UsageError(
                "invalid overlap or number of tiles",
                given=f"overlap {overlap}, {at_once} tiles at once",
                expected="an overlap from 0 to 0.5, and at least 1 tile",
            )
        self.vae, self.at_once = vae, at_once
        self.sides = [Side(number, side // number, int(overlap * number)) for number, side in zip(positions, sides, strict=True)]

    @torch.no_grad()
    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the posterior means of examples ``(B, C, *sides)`` as grids ``(B, K, *positions)``.

        A position in an overlap is a blend of two codes, even if codes are codebook entries; `decode` uses the nearest entry.

        Args:
            x: The examples; if a side is not a multiple of the stride, the last position covers the remainder.
            y: Their labels, ``(B,)``, which conditional models need.

        Raises:
            UsageError: The examples have another number of channels or sides than the model's, or labels are missing.
        """
        self._check(x, self.vae.data_shape)
        whole = [math.ceil(length / side.stride) for length, side in zip(x.shape[2:], self.sides, strict=True)]

        def encoded(tiles: Tensor, labels: Tensor | None) -> Tensor:
            mean: Tensor = self.vae.encode(tiles, labels).mean
            return mean.reshape(-1, *self.vae.latent_shape)

        return self._blended(x, y, encoded, whole, grains=([side.stride for side in self.sides], [1 for _ in self.sides]))

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the decoded means of grids of latents ``(B, K, *positions)``; each position becomes ``stride`` pixels.

        Args:
            z: The latents.
            y: Labels, ``(B,)``, which conditional models need.

        Raises:
            UsageError: The latents have another number of channels or sides than the model's, or labels are missing.
        """
        self._check(z, self.vae.latent_shape)

        def decoded(tiles: Tensor, labels: Tensor | None) -> Tensor:
            return self.vae.decode(self.vae.nearest(tiles.flatten(1)), labels)

        whole = list(z.shape[2:])
        return self._blended(z, y, decoded, whole, grains=([1 for _ in self.sides], [side.stride for side in self.sides]))

    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return reconstructions from the posterior means of examples, of the same size; see `encode`."""
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
        """Return the decoded means of ``num`` prior samples, ``(num, C, *sides)``.

        The grid of latents is assembled from samples of the model's own grid, which is a sample from the prior of a larger grid
        if latents are independent.

        Args:
            num: The number of examples.
            sides: Their sides.
            y: Their labels, ``(num,)``, for conditional models; default: every class in turn.
            temperature: A factor on the prior's base noise.
            generator: The source of randomness, on the model's device.

        Raises:
            UsageError: The latents are dependent in the prior, or the number of sides differs from that of the model's
                examples.
        """
        vae = self.vae
        if Capability.FACTORISED not in vae.prior.provides or len(sides) != len(self.sides) or min(sides) < 1:
            raise UsageError(
                "the model cannot sample examples of this size",
                given=f"sides {_times(tuple(sides))}, prior {vae.prior.kind!r}",
                expected=f"{len(self.sides)} sides of 1 or more, and a prior of independent latents, such as 'normal'",
                remedy="sample examples of the model's own size",
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
            whole: The numbers of positions covered by the tensor.
            grains: The numbers of elements per position along each side of the tensor and of the result.
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
        """Return a tile of a tensor ``(C, *sides)``, padded by reflection."""
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
                "invalid shape for tiling with this model",
                given=f"shape {tuple(given.shape)}",
                expected=f"shape (B, {shape[0]}, {', '.join(['side'] * (len(shape) - 1))}), with sides of any length",
            )


def _cropped(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Crop a tensor ``(B, C, *sides)`` to the beginning of each side."""
    for dim, length in enumerate(sides, 2):
        x = x.narrow(dim, 0, length)
    return x


def _times(sides: Shape) -> str:
    return "×".join(map(str, sides))
