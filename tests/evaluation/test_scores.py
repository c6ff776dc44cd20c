"""Scores of single examples: in closed form, and the same for any size of batches."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from small import small
from torch import Tensor, nn

import vaekit
from vaekit import roles
from vaekit.data import TensorImages
from vaekit.data.batches import Batch, Batches
from vaekit.data.facts import Facts
from vaekit.errors import UsageError
from vaekit.evaluation.importance import log_likelihood
from vaekit.evaluation.scores import SCORES, available, error_map, measure, png_length, score_of
from vaekit.model.assembly import build_vae
from vaekit.specs.options import build_spec
from vaekit.streams import Streams

SHAPE = (1, 2, 3)
SIGMA = 0.4


class Linear(nn.Module):
    """The exact posterior of a linear decoder whose columns are orthogonal: a diagonal Gaussian."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        precision = 1 + weight.square().sum(0) / SIGMA**2
        self.map, self.bias = nn.Parameter(weight.T / SIGMA**2 / precision[:, None]), bias
        self.logvar = -precision.log()

    def forward(self, x: Tensor) -> Tensor:
        mean = (x.flatten(1) - self.bias) @ self.map.T
        return torch.stack([mean, self.logvar.expand_as(mean)], 1)


@pytest.fixture
def exact(double: None) -> tuple[vaekit.VAE, Tensor, Tensor]:
    """A linear VAE with its exact posterior, its decoder's matrix and bias; all is in double precision."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.linalg.qr(torch.randn(6, 2, generator=generator))[0] * torch.tensor([2.0, 0.5])
    bias = torch.randn(6, generator=generator)
    decoder = nn.Sequential(nn.Linear(2, 6), nn.Unflatten(1, SHAPE))
    decoder[0].weight.data, decoder[0].bias.data = weight, bias
    likelihood = roles.likelihoods.get("gaussian")(SHAPE, sigma=SIGMA, learned=False, link="identity")
    vae = vaekit.VAE(Linear(weight, bias), decoder, posterior=roles.posteriors.get("gaussian")(2), likelihood=likelihood)
    return vae.eval(), weight, bias


def batches(x: Tensor, size: int) -> Any:
    rows = torch.arange(len(x)).split(size)
    return [Batch(x[index], x[index], None, index, step=step) for step, index in enumerate(rows)]


def columns(vae: vaekit.VAE, x: Tensor, size: int = 8, **options: Any) -> dict[str, Tensor]:
    parts = [each.numbers for each in measure(vae, batches(x, size), **options)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_a_linear_model_has_the_scores_of_its_closed_form(exact: tuple[vaekit.VAE, Tensor, Tensor]) -> None:
    vae, weight, bias = exact
    x = torch.randn(20, *SHAPE, generator=torch.Generator().manual_seed(1))
    covariance = weight @ weight.T + SIGMA**2 * torch.eye(6)
    expected = stats.multivariate_normal(bias.numpy(), covariance.numpy()).logpdf(x.flatten(1).numpy())

    drawn = columns(vae, x, samples=3)
    np.testing.assert_allclose(drawn["log_likelihood"], expected, atol=1e-9)  # each weight is p(x), since q is the posterior
    np.testing.assert_allclose(drawn["effective_samples"], 3, atol=1e-9)
    torch.testing.assert_close(drawn["elbo"], -drawn["reconstruction"] - drawn["kl"])

    fixed = columns(vae, x, deterministic=True)
    variance = 1 / (1 + weight.square().sum(0) / SIGMA**2)
    gap = 0.5 * (weight.square().sum(0) * variance).sum() / SIGMA**2
    np.testing.assert_allclose(fixed["elbo"], expected + float(gap), atol=1e-9)
    mean = vae.encode(x).mean
    torch.testing.assert_close(fixed["kl"], drawn["kl"])
    torch.testing.assert_close(fixed["squared_error"], (x - vae.decode(mean)).square().flatten(1).sum(1))
    torch.testing.assert_close(drawn["squared_error"], fixed["squared_error"])
    quadratic = fixed["squared_error"] / (2 * SIGMA**2) + 6 * math.log(SIGMA * math.sqrt(2 * math.pi))
    torch.testing.assert_close(fixed["reconstruction"], quadratic)


def test_elbo_of_draws_averages_to_the_bound(exact: tuple[vaekit.VAE, Tensor, Tensor]) -> None:
    vae = exact[0]
    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    drawn = torch.stack([columns(vae, x, seed=seed)["elbo"] for seed in range(200)])
    expected = columns(vae, x, samples=1)["log_likelihood"]  # the bound is tight, since q is the posterior
    assert bool(((drawn.mean(0) - expected).abs() < 4 * drawn.std(0) / math.sqrt(200)).all())
    assert bool((drawn.std(0) > 0.01).all())


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("deterministic", [False, True])
def test_numbers_do_not_depend_on_the_size_of_batches(deterministic: bool) -> None:
    vae = model("gaussian")
    x = torch.rand(23, 1, 8, 6, generator=torch.Generator().manual_seed(0))
    samples = 0 if deterministic else 70  # more than are drawn at once
    found = [columns(vae, x, size, deterministic=deterministic, samples=samples, complexity=True) for size in (1, 7, 64)]
    for each in found[1:]:
        assert each.keys() == found[0].keys()
        for name, values in each.items():
            torch.testing.assert_close(values, found[0][name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("likelihood", roles.likelihoods.kinds())
def test_numbers_of_every_likelihood_belong_to_one_image(likelihood: str) -> None:
    vae = model("gaussian", likelihood=likelihood)
    x = torch.randint(2, (9, 1, 8, 6), generator=torch.Generator().manual_seed(0)).float()
    alone, together = columns(vae, x, 1), columns(vae, x, 9)
    for name, values in alone.items():
        torch.testing.assert_close(values, together[name], rtol=1e-5, atol=1e-4)


def test_draws_belong_to_the_position_and_the_seed() -> None:
    vae = model("gaussian")
    x = torch.rand(1, 1, 8, 6).expand(9, -1, -1, -1)
    first, other = columns(vae, x), columns(vae, x, seed=1)
    assert len(set(first["reconstruction"].tolist())) == 9
    assert not torch.equal(first["reconstruction"], other["reconstruction"])
    assert torch.equal(first["squared_error"], other["squared_error"])


def test_importance_samples_agree_with_those_of_an_evaluation() -> None:
    vae = model("gaussian")
    source = TensorImages(torch.rand(40, 1, 8, 6, generator=torch.Generator().manual_seed(0)))
    of_batches = Batches(source, batch_size=16, streams=Streams(0), train=False)
    evaluated = log_likelihood(vae, of_batches.epoch(0), Streams(0), samples=500)
    mine = columns(vae, source.images, samples=500)["log_likelihood"]
    assert float(mine.mean()) == pytest.approx(evaluated["log_likelihood"], abs=0.05)


def model(posterior: str, **options: Any) -> vaekit.VAE:
    parts = {"posterior": posterior, "encoder.hidden": (8,), "decoder.hidden": (8,), "latent_dim": 4}
    own = {f"posterior.{name}": value for name, value in small(roles.posteriors, posterior).items()}
    grid = {"encoder": "cnn", "decoder": "cnn", "encoder.channels": (4, 4), "decoder.channels": (4, 4), "latent_stride": 4}
    parts |= grid if posterior in ("vq", "residual_vq", "fsq") else {}
    spec = build_spec({}, parts | own | options)
    return build_vae(spec.model, Facts(data_shape=(1, 8, 6)), seed=0).eval().requires_grad_(False)


@pytest.mark.parametrize("posterior", roles.posteriors.kinds())
def test_every_posterior_has_the_scores_that_its_density_allows(posterior: str) -> None:
    vae = model(posterior)
    x = torch.rand(5, 1, 8, 6, generator=torch.Generator().manual_seed(0))
    provides = roles.posteriors.get(posterior).provides
    drawn, fixed = columns(vae, x), columns(vae, x, deterministic=True)
    assert ("elbo" in drawn) == (vaekit.Capability.LOG_PROB_OF_DRAWS in provides)
    assert "reconstruction" in fixed
    for each in (drawn, fixed):
        assert bool(torch.stack([each[name] for name in each.keys() - {"kl", "elbo"}]).isfinite().all())
    assert "elbo" not in drawn or bool(drawn["elbo"].isfinite().all())


def test_a_posterior_without_a_density_says_which_scores_remain() -> None:
    numbers = columns(model("delta"), torch.rand(5, 1, 8, 6))
    assert available(numbers) == ("reconstruction", "squared_error")
    with pytest.raises(UsageError, match="the score elbo needs a posterior and a prior with densities") as error:
        score_of("elbo", numbers)
    assert "--score reconstruction" in str(error.value)
    with pytest.raises(UsageError, match="log p"):
        columns(model("delta"), torch.rand(5, 1, 8, 6), samples=2)


# The formulas

NUMBERS = {"elbo": np.array([-3.0]), "reconstruction": np.array([2.0]), "kl": np.array([1.0]), "squared_error": np.array([0.5])}


def test_scores_are_higher_for_less_likely_examples() -> None:
    assert {name: float(score_of(name, NUMBERS)[0]) for name in available(NUMBERS)} == {
        "elbo": 3.0,
        "reconstruction": 2.0,
        "kl": 1.0,
        "squared_error": 0.5,
    }


def test_remedies_use_the_estimate_of_the_likelihood_where_there_is_one() -> None:
    more = NUMBERS | {"complexity": np.array([1.5]), "background": np.array([-2.0])}
    assert [float(score_of(name, more)[0]) for name in ("input_complexity", "likelihood_ratio")] == [3 - 1.5, -2 - -3]
    more |= {"log_likelihood": np.array([-2.5])}
    assert [float(score_of(name, more)[0]) for name in ("input_complexity", "likelihood_ratio")] == [2.5 - 1.5, -2 - -2.5]
    assert available(more) == tuple(SCORES)


@pytest.mark.parametrize(
    ("name", "lacking", "remedy"),
    [
        ("log_likelihood", "importance samples", "--samples"),
        ("input_complexity", "the complexity", "--score input_complexity"),
        ("likelihood_ratio", "a background model", "--background"),
    ],
)
def test_an_error_names_what_a_score_lacks_and_its_remedy(name: str, lacking: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=f"the score {name} needs {lacking}") as error:
        score_of(name, NUMBERS)
    assert remedy in str(error.value)


def test_an_unknown_score_lists_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="unknown score") as error:
        score_of("entropy", NUMBERS)
    assert "likelihood_ratio" in str(error.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_complexity_is_the_length_of_the_file_that_pillow_writes(channels: int) -> None:
    image = torch.rand(channels, 9, 7, generator=torch.Generator().manual_seed(0))
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "PNG", compress_level=9)
    assert png_length(image, binary=False) == pytest.approx(8 * math.log(2) * (len(file.getvalue()) - 57))
    assert png_length(torch.zeros(channels, 32, 32), binary=False) < png_length(torch.rand(channels, 32, 32), binary=False)


def test_binary_images_take_a_bit_per_pixel() -> None:
    noise = (torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    bits = png_length(noise, binary=True) / math.log(2)
    assert 64 * 64 < bits < 1.2 * 64 * 64 < png_length(noise, binary=False) / math.log(2)


def test_complexity_of_what_is_no_image_is_refused() -> None:
    vae = build_vae(build_spec({}, {"latent_dim": 2}).model, Facts(data_shape=(5,)), seed=0)
    with pytest.raises(UsageError, match="images of 1 or 3 channels"):
        columns(vae, torch.rand(2, 5), complexity=True)


@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 7), (1, 4, 3, 2)])
def test_maps_sum_to_the_squared_error_over_channels(shape: tuple[int, ...]) -> None:
    x, reconstruction = torch.rand(2, 4, *shape)
    found = error_map(x, reconstruction)
    assert found.shape == (4, *shape[1:])
    torch.testing.assert_close(found.flatten(1).sum(1), (x - reconstruction).square().flatten(1).sum(1))


def test_missing_numbers_and_features_of_a_table_have_their_own_places_in_a_map() -> None:
    x = torch.tensor([[1.0, torch.nan, 3.0]])
    assert error_map(x, torch.tensor([[0.0, 5.0, 1.0]])).tolist() == [[1.0, 0.0, 4.0]]
