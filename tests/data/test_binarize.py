from __future__ import annotations

import torch

from vaekit.data.binarize import binarize, draw_noise


def test_noise_is_uniform_over_all_16_bits_in_every_lane():
    noise = draw_noise((400_001,), torch.Generator().manual_seed(0)).double()
    for lane in range(4):
        u = (noise[lane::4] + 32768) / 65536
        counts = torch.histc(u, 16, 0, 1)
        assert ((counts - len(u) / 16) ** 2 / (len(u) / 16)).sum() < 45  # χ² with 15 degrees of freedom: p < 1e-4 beyond
    pairs = torch.corrcoef(noise[:400_000].view(-1, 4).T) - torch.eye(4)
    assert pairs.abs().max() < 0.02


def test_the_mean_over_all_noise_values_is_the_grey_value_to_8e_6():
    noise = torch.arange(-32768, 32768).to(torch.int16)
    grey = torch.arange(0, 256, 3) / 255
    ones = torch.stack([binarize(g.expand(65536), noise).double().mean() for g in grey])
    assert (ones - grey.double()).abs().max() < 8e-6
    assert ones[0] == 0
    assert ones[-1] == 1
