"""Examples of any size, encoded and decoded in tiles of the training size."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from vaekit.data.facts import Facts
from vaekit.errors import UsageError
from vaekit.model.assembly import build_vae
from vaekit.model.tiling import Tiling
from vaekit.specs.options import build_spec


def built(shape=(1, 16, 16), stride=4, **options):
    spec = build_spec({}, {"latent_dim": 2, "latent_stride": stride, "encoder": "cnn", "decoder": "cnn", **options})
    return build_vae(spec.model, Facts(data_shape=shape, class_names=("a", "b", "c")), seed=0).eval()


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


CHOICES = [
    {},
    {"encoder": "resnet", "decoder": "resnet", "likelihood": "gaussian"},
    {"encoder": "mlp", "decoder": "mlp"},
    {"decoder": "bilinear", "condition": "label"},
    {"posterior": "vq", "num_codes": 8},
    {"posterior": "fsq"},
]


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_a_single_tile_equals_the_model(options):
    vae, x, y = built(**options), random(3, 1, 16, 16), torch.arange(3)
    tiling = Tiling(vae, overlap=0.5)
    z = tiling.encode(x, y)
    assert torch.equal(z, vae.encode(x, y).mean.unflatten(-1, vae.latent_shape))
    assert torch.equal(tiling.decode(z, y), vae.decode(z.flatten(1), y))
    assert torch.equal(tiling.reconstruct(x, y), vae.reconstruct(x, y))


@pytest.mark.parametrize(("shape", "sides"), [((2, 16), (50,)), ((1, 16, 8), (37, 41)), ((1, 8, 8, 8), (20, 8, 11))], ids=str)
def test_examples_of_any_number_of_sides_keep_their_size(shape, sides):
    vae = built(shape)
    tiling, x = Tiling(vae), random(2, shape[0], *sides)
    z = tiling.encode(x)
    assert z.shape == (2, 2, *(math.ceil(side / 4) for side in sides))
    assert tiling.decode(z).shape == (2, shape[0], *(4 * math.ceil(side / 4) for side in sides))
    whole = tiling.reconstruct(x)
    assert whole.shape == x.shape
    assert torch.equal(whole, tiling.decode(z)[(..., *(slice(side) for side in sides))])
    for one in range(2):
        torch.testing.assert_close(whole[one], tiling.reconstruct(x[one : one + 1])[0])


@pytest.mark.parametrize("overlap", [0, 0.25, 0.3, 0.5])
@pytest.mark.parametrize("sides", [(100, 60), (16, 33), (7, 5)], ids=str)
def test_constant_latents_and_pictures_are_seamless(overlap, sides):
    """Pointwise networks map constants to constants, which blending must preserve."""
    vae = built((1, 16, 16))
    vae.encoder = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 4, 1), nn.Unflatten(1, (2, 2)))
    vae.decoder = nn.Sequential(nn.Conv2d(2, 1, 1), nn.Upsample(scale_factor=4))
    tiling = Tiling(vae, overlap=overlap)
    z = tiling.encode(torch.full((1, 1, *sides), 0.3))
    torch.testing.assert_close(z, z[..., :1, :1].expand_as(z), rtol=1e-6, atol=1e-6)
    x = tiling.decode(z)
    torch.testing.assert_close(x, x[..., :1, :1].expand_as(x), rtol=1e-6, atol=1e-6)


def test_blends_are_linear():
    """A network that returns the index of its tile reveals the weights."""

    class Counting(nn.Module):
        def forward(self, z):
            return torch.arange(len(z), dtype=z.dtype).view(-1, 1, 1).expand(-1, 1, 16)

    vae = built((1, 16), stride=4, likelihood="gaussian", **{"likelihood.link": "identity"})
    vae.decoder = Counting()
    line = Tiling(vae, overlap=0.25).decode(random(1, 2, 10))[0, 0]  # of 3 tiles, which share one position, 4 numbers
    ramp = (torch.arange(4) + 0.5) / 4
    expected = [torch.zeros(12), ramp, torch.ones(8), 1 + ramp, torch.full((12,), 2.0)]
    torch.testing.assert_close(line, torch.cat(expected)[:40])


def convolutions(*channels):
    """Return 3×3 convolutions with zero padding: with each, outputs depend on inputs one position further away."""
    layers = [each for a, b in itertools.pairwise(channels) for each in (nn.Conv2d(a, b, 3, padding=1), nn.SiLU())]
    return nn.Sequential(*layers[:-1])


def test_a_local_network_gives_the_same_result_except_near_tile_edges():
    """Exact except within r positions of tile edges inside the picture, for r 3×3 convolutions."""
    vae = built((1, 24, 24), stride=1, likelihood="gaussian", **{"likelihood.link": "identity"})
    torch.manual_seed(0)
    vae.encoder, vae.decoder = nn.Sequential(convolutions(1, 8, 8, 4), nn.Unflatten(1, (2, 2))), convolutions(2, 8, 8, 1)
    r, shared = 3, 8
    tiling = Tiling(vae, overlap=shared / 24)
    count, side = 3, 3 * 16 + shared
    x, z = random(1, 1, side, side), random(1, 2, side, side, seed=1)
    near = torch.zeros(side, dtype=torch.bool)
    for tile in range(1, count):
        begin, end = 16 * tile, 16 * (tile - 1) + 24  # of this tile, and of the one before
        near[begin : begin + r] = near[end - r : end] = True
    assert 0 < near.sum() < side / 2
    far = ~(near[:, None] | near)
    with torch.no_grad():
        pairs = [(tiling.encode(x), vae.encoder(x)[:, 0]), (tiling.decode(z), vae.decoder(z))]
    for tiled, whole in pairs:
        error = (tiled - whole).abs().amax((0, 1))
        assert error[far].max() < 1e-6
        assert error.max() > 1e-4  # near the edges, tiles see zeros in place of the picture


@pytest.mark.parametrize("posterior", ["vq", "vmf"])
def test_tiles_decode_codes_only(posterior):
    """A blend of two codes is not a code, so the nearest one is decoded."""
    vae = built(posterior=posterior, **({"num_codes": 8} if posterior == "vq" else {}))
    tiling, seen = Tiling(vae, overlap=0.5), []
    vae.decoder.register_forward_pre_hook(lambda module, given: seen.append(given[0].flatten(1)))
    z = tiling.encode(random(1, 1, 40, 40))
    tiling.decode(z)
    (codes,) = seen
    assert len(codes) == 16
    if posterior == "vq":
        assert torch.equal(vae.nearest(codes), codes)
        assert not torch.equal(vae.nearest(z[..., 1:5, 1:5].flatten(1)), z[..., 1:5, 1:5].flatten(1))
    else:  # decoders receive points of a sphere with a mean square of 1
        torch.testing.assert_close(codes.square().mean(1), torch.ones(16))


@pytest.mark.parametrize("at_once", [1, 5, 100])
def test_the_number_of_tiles_at_once_changes_nothing(at_once):
    vae, x = built(), random(2, 1, 50, 30)
    seen = []
    vae.encoder.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    torch.testing.assert_close(Tiling(vae, at_once=at_once).encode(x), Tiling(vae).encode(x), rtol=1e-5, atol=1e-6)
    assert max(seen[: -(-24 // at_once)]) <= at_once


def test_labels_belong_to_their_examples():
    vae, x = built(condition="label"), random(1, 1, 40, 40).expand(2, -1, -1, -1)
    both = Tiling(vae).reconstruct(x, torch.tensor([0, 2]))
    torch.testing.assert_close(both[1:], Tiling(vae).reconstruct(x[:1], torch.tensor([2])))
    assert not torch.allclose(both[0], both[1])
    with pytest.raises(UsageError, match="no labels are given"):
        Tiling(vae).encode(x)


def test_models_that_cannot_be_tiled_are_refused():
    with pytest.raises(UsageError, match="grid of latents"):
        Tiling(built(stride=None))
    with pytest.raises(UsageError, match="equal parts") as raised:
        Tiling(built((1, 18, 16)))
    assert "5×4 positions for 18×16" in str(raised.value)
    for wrong in ({"overlap": 0.6}, {"overlap": -0.1}, {"at_once": 0}):
        with pytest.raises(UsageError, match="invalid overlap"):
            Tiling(built(), **wrong)
    for shape in ((1, 3, 40, 40), (1, 40, 40), (1, 1, 0, 40)):
        with pytest.raises(UsageError, match="invalid shape for tiling"):
            Tiling(built()).encode(torch.zeros(shape))


def test_draws_of_the_prior_of_a_larger_grid_are_independent():
    vae, seen = built(condition="label"), []
    vae.decoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    tiling = Tiling(vae, overlap=0, at_once=10**6)
    x = tiling.sample(300, (22, 40), generator=torch.Generator().manual_seed(0))
    assert x.shape == (300, 1, 22, 40)
    (latents,) = seen  # of 2 × 3 tiles, of which the grid has 6 × 10 positions
    z = latents[:, :2].unflatten(0, (300, 2, 3)).permute(0, 3, 1, 4, 2, 5).reshape(300, 2, 8, 12)[..., :6, :10].flatten(1)
    assert z.mean().abs() < 5 / z.numel() ** 0.5
    assert abs(z.std() - 1) < 5 / (2 * z.numel()) ** 0.5
    correlations = torch.corrcoef(z.T).fill_diagonal_(0)
    assert correlations.abs().max() < 6 / 300**0.5
    assert torch.equal(latents[:, 2:].amax((2, 3)).argmax(1), torch.arange(300).remainder(3).repeat_interleave(6))


def test_a_draw_at_the_size_of_the_model_equals_its_sample():
    vae = built()
    draws = Tiling(vae).sample(5, (16, 16), temperature=0.7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draws, vae.sample(5, temperature=0.7, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(("options", "sides"), [({"prior": "mixture"}, (20, 20)), ({}, (20,)), ({}, (0, 20))], ids=str)
def test_draws_of_latents_that_depend_on_each_other_are_refused(options, sides):
    with pytest.raises(UsageError, match="sample examples of this size"):
        Tiling(built(**options)).sample(1, sides)


MEMORY = """
import sys, torch
from vaekit.benchmark.machine import peak_memory
from vaekit.data.facts import Facts
from vaekit.model.assembly import build_vae
from vaekit.model.tiling import Tiling
from vaekit.specs.options import build_spec

side, tiled = int(sys.argv[1]), sys.argv[2] == "tiles"
torch.set_num_threads(1)
channels = {"encoder.channels": (32, 32), "decoder.channels": (32, 32)}
spec = build_spec({}, {"latent_dim": 4, "latent_stride": 4, "encoder": "cnn", "decoder": "cnn", **channels})
vae = build_vae(spec.model, Facts(data_shape=(3, 64, 64) if tiled else (3, side, side)), seed=0).eval()
model = Tiling(vae) if tiled else vae
with torch.no_grad():
    model.reconstruct(torch.rand(1, 3, 64, 64) if tiled else torch.rand(1, 3, side, side))
    before = peak_memory(torch.device("cpu"))
    x = torch.rand(1, 3, side, side)
    model.reconstruct(x)
print(peak_memory(torch.device("cpu")) - before if tiled else peak_memory(torch.device("cpu")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_grows_by_the_pictures_only():
    """Four times the pixels take four times the memory for the picture, its blend and little else."""
    grown = {}
    for side in (512, 1024):
        command = [sys.executable, "-c", MEMORY, str(side), "tiles"]
        grown[side] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    picture = 4 * 3 * (1024**2 - 512**2)
    assert grown[1024] - grown[512] < 5 * picture
    features = 4 * 32 * (512**2 - 256**2)  # the first feature map of the whole picture would grow by that alone
    assert features > 2 * picture
