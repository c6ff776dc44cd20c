"""Random streams: a draw is a function of (seed, stream, step) only."""

import torch

from vaekit.streams import Streams


def draw(streams, stream, step):
    return torch.rand(8, generator=streams.generator(stream, step))


def test_a_draw_does_not_depend_on_what_was_drawn_before():
    streams = Streams(0)
    first = draw(streams, "posterior", 5)
    draw(streams, "pictures", 0)
    assert torch.equal(draw(streams, "posterior", 5), first)
    assert torch.equal(draw(Streams(0), "posterior", 5), first)


def test_seeds_streams_and_steps_give_different_draws():
    draws = [draw(Streams(seed), stream, step) for seed in (0, 1) for stream in ("order", "posterior") for step in (0, 1)]
    assert not any(torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])
