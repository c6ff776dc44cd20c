"""Missing values: the likelihood ignores them, and the encoder sees zeros instead, with or without a mask."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from small import small
from torch import Tensor

import vaekit
from vaekit import roles
from vaekit.data.facts import Facts
from vaekit.distributions import DiagonalGaussian, Observed
from vaekit.drawing.grid import MARGIN
from vaekit.drawing.tiles import EDGE, SMALL, WIDE
from vaekit.errors import DataError, UsageError
from vaekit.export.parts import part_of
from vaekit.interfaces import Likelihood, Shape
from vaekit.model.assembly import build_vae
from vaekit.model.vae import VAE
from vaekit.specs.options import build_spec
from vaekit.training.progress import Silent

FEATURES, SIGMA = 6, 1.0
LINEAR = {
    **{"encoder.hidden": (), "decoder.hidden": ()},
    **{"likelihood": "gaussian", "likelihood.link": "identity", "sigma": SIGMA, "learned": False},
}


def linear(latent_dim: int, missing: str = "zeros", features: int = FEATURES) -> VAE:
    """A VAE in float64 whose encoder and decoder are linear: p(x|z) = N(Wz + b, s² I)."""
    model = build_spec({}, {**LINEAR, "latent_dim": latent_dim}).model
    return build_vae(model, Facts(data_shape=(features,), missing=missing), seed=0).double()


def table(num: int = 5) -> Tensor:
    """Rows with different missing values; the last row is complete."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num, FEATURES, generator=generator, dtype=torch.float64)
    x[:-1][torch.rand(num - 1, FEATURES, generator=generator) < 0.4] = torch.nan
    assert x.isnan().any(1).sum() > 1
    return x


def weights_of(vae: VAE) -> tuple[Tensor, Tensor]:
    (layer,) = (module for module in vae.decoder.modules() if isinstance(module, torch.nn.Linear))
    return layer.weight.detach(), layer.bias.detach()


def test_the_bound_matches_a_linear_gaussian_model_of_the_observed_values() -> None:
    """The expectation of a quadratic function under q is its mean over z = mu ± sigma, in all combinations of signs."""
    vae, x = linear(3), table()
    noise = torch.tensor(list(product([-1.0, 1.0], repeat=3)), dtype=torch.float64)[:, None].expand(8, len(x), 3)
    trace = vae(x, noise)
    (weight, bias), q, known = weights_of(vae), trace.site.q, ~x.isnan()
    spread = (q.logvar.exp()[:, None] * weight.square()).sum(-1)
    terms = -0.5 * (math.log(2 * math.pi * SIGMA**2) + ((x - q.mu @ weight.T - bias).square() + spread) / SIGMA**2)
    expected = torch.where(known, terms, 0).sum(-1)
    torch.testing.assert_close(trace.log_likelihood.mean(0), expected, rtol=1e-12, atol=1e-12)
    filled = torch.where(known, x, 0)
    torch.testing.assert_close(q.mu, linear(3, "refuse").encode(filled).mean, rtol=0, atol=0)


def test_under_the_true_posterior_every_weight_is_the_marginal_likelihood() -> None:
    vae, x = linear(1), table()
    weight, bias = weights_of(vae)
    known = ~x.isnan()
    precision = 1 + (known * weight[:, 0].square()).sum(1, keepdim=True) / SIGMA**2
    mu = torch.where(known, (x - bias) * weight[:, 0], 0).sum(1, keepdim=True) / SIGMA**2 / precision
    trace = vae.trace_from(DiagonalGaussian(mu, -precision.log()), torch.randn(4, len(x), 1, dtype=torch.float64), x)
    covariance = weight @ weight.T + SIGMA**2 * torch.eye(FEATURES, dtype=torch.float64)
    exact = []
    for row, here in zip(x, known, strict=True):
        marginal = torch.distributions.MultivariateNormal(bias[here], covariance[here][:, here])
        exact.append(marginal.log_prob(row[here]))
    torch.testing.assert_close(trace.log_weight, torch.stack(exact).expand(4, -1), rtol=1e-10, atol=1e-10)


def test_gradients_match_the_model_of_the_observed_values() -> None:
    known = torch.tensor([0, 2, 3])
    whole, part = linear(2), linear(2, "refuse", len(known))
    state = {}
    for name, value in whole.state_dict().items():
        first, last = name.startswith("encoder.") and value.ndim == 2, name.startswith("decoder.")
        state[name.replace("encoder.encoder.", "encoder.")] = value[:, known] if first else value[known] if last else value
    part.load_state_dict(state)
    x = torch.full((4, FEATURES), torch.nan, dtype=torch.float64)
    x[:, known] = torch.randn(4, len(known), dtype=torch.float64)
    noise = torch.randn(4, 2, dtype=torch.float64)
    for vae, data in ((whole, x), (part, x[:, known])):
        vae(data, noise).log_weight.sum().backward()
    expected = dict(part.named_parameters())
    missing = [feature for feature in range(FEATURES) if feature not in known]
    for name, parameter in whole.named_parameters():
        assert parameter.grad is not None
        gradient = parameter.grad
        if name.startswith("encoder.") and gradient.ndim == 2:
            assert (gradient[:, missing] == 0).all()
            gradient = gradient[:, known]
        elif name.startswith("decoder."):
            assert (gradient[missing] == 0).all()
            gradient = gradient[known]
        own = expected[name.replace("encoder.encoder.", "encoder.")].grad
        assert own is not None
        torch.testing.assert_close(gradient, own, rtol=1e-12, atol=1e-12)


FACTORISED = [kind for kind in roles.likelihoods.kinds() if roles.likelihoods.get(kind).factorised]


@pytest.mark.parametrize("kind", FACTORISED)
@pytest.mark.parametrize("shape", [(7,), (2, 9), (2, 5, 4), (2, 3, 4, 5)], ids=str)
def test_missing_values_have_no_term_and_a_gradient_of_exactly_0(kind: str, shape: Shape) -> None:
    spec = roles.likelihoods.spec(kind)(kind=kind, **small(roles.likelihoods, kind))
    likelihood: Likelihood = roles.likelihoods.build(spec, data_shape=shape)
    x = (255 * torch.rand(6, *shape)).round() / 255
    x = x.round() if likelihood.scores == "binary" else x
    holes = torch.rand(x.shape) < 0.3
    params = torch.randn(3, 6, *likelihood.param_shape, requires_grad=True)
    p = Observed(likelihood(params), len(shape))
    value = p.log_prob(torch.where(holes, torch.nan, x))
    expected = torch.where(holes, 0, likelihood(params).log_prob_per_dim(x)).flatten(2).sum(-1)
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value.sum(), params)
    assert gradient.isfinite().all()
    each = gradient.unflatten(2, (-1, shape[0])).movedim(2, 0)  # by parameter of a number
    assert (each[:, :, holes] == 0).all()
    assert (each[:, :, ~holes] != 0).flatten(1).any(1).all()


@pytest.mark.parametrize("shape", [(7,), (2, 9), (2, 5, 4), (2, 3, 4, 5)], ids=str)
def test_a_mask_distinguishes_missing_values_from_zeros(shape: Shape) -> None:
    for encoder in ("mlp", "cnn") if len(shape) > 1 else ("mlp",):
        spec = build_spec({}, {"encoder": encoder, "latent_dim": 2}).model
        zeros, channel = (build_vae(spec, Facts(data_shape=shape, missing=each), seed=0) for each in ("zeros", "channel"))
        x = torch.rand(4, *shape)
        x[:, 0] = 0
        holes = x.clone()
        holes[:, 0] = torch.nan
        assert torch.equal(zeros.encode(x).mean, zeros.encode(holes).mean)
        assert not torch.allclose(channel.encode(x).mean, channel.encode(holes).mean)
        assert channel.encoder.encoder.in_shape == (2 * shape[0], *shape[1:])  # type: ignore[union-attr]
        assert channel.reconstruct(holes).isfinite().all()


def test_a_model_of_complete_data_has_no_overhead() -> None:
    vae = build_vae(build_spec({}, {}).model, Facts(data_shape=(1, 8, 8)))
    assert type(vae.encoder) is roles.encoders.get("mlp")
    assert not isinstance(vae.likelihood_of(torch.zeros(2, vae.latent_dim)), Observed)


def test_a_likelihood_that_is_not_factorised_is_refused_before_data_are_read() -> None:
    class Joint(roles.likelihoods.get("gaussian")):  # type: ignore[misc]
        """Dependent values."""

        factorised = False

    with roles.likelihoods.temporarily(joint=Joint):
        build_spec({}, {"likelihood": "joint"})
        with pytest.raises(UsageError, match=r"likelihood 'joint'(.*\n)*.*--missing zeros(.*\n)*.*gaussian"):
            build_spec({}, {"likelihood": "joint", "missing": "zeros"})
    with pytest.raises(UsageError, match="augmentation needs images without missing"):
        build_spec({}, {"missing": "channel", "augment.rotate": 5})


class Died(BaseException):
    """Simulates a kill."""


class Killer(Silent):
    def epoch(self, record: object) -> None:
        raise Died


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The options of a small run on a table of 300 rows with a fifth of the values missing."""
    file = tmp_path_factory.mktemp("missing") / "table.npy"
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((300, 2)) @ rng.standard_normal((2, 5)) + 0.1 * rng.standard_normal((300, 5))).astype(np.float32)
    x[rng.random(x.shape) < 0.2] = np.nan
    np.save(file, x)
    training = {"epochs": 2, "batch_size": 16, "threads": 1, "device": "cpu", "latent_dim": 2, "pictures": "none"}
    hidden = {"encoder.hidden": (8,), "decoder.hidden": (8,), "likelihood.link": "identity"}
    return {"dataset": "array", "dataset.path": str(file), "missing": "channel", **hidden, **training}


@pytest.fixture(scope="module")
def run(options: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> vaekit.Run:
    return vaekit.train(**options, out=tmp_path_factory.mktemp("run") / "run")


def test_a_killed_run_resumes_to_the_same_weights(options: dict[str, object], run: vaekit.Run, tmp_path: Path) -> None:
    with pytest.raises(Died):
        vaekit.train(**options, out=tmp_path / "run", reporter=Killer())
    vaekit.resume(tmp_path / "run")
    assert (tmp_path / "run/model.safetensors").read_bytes() == (run.path / "model.safetensors").read_bytes()


def test_metrics_are_labelled_as_sums_over_observed_values(run: vaekit.Run) -> None:
    evaluation, vae = run.evaluation(), run.vae()
    assert evaluation is not None
    assert "known pixels" in evaluation["elbo_is"]
    assert "bits_per_dim" not in evaluation
    x = run.splits.test.gather(torch.arange(len(run.splits.test)))
    with torch.no_grad():
        q, scale = vae.encode(x), vae.likelihood.scale().exp()  # type: ignore[operator,union-attr]
        mean = vae.decode(q.rsample(torch.randn(4000, len(x), 2)))
    terms = torch.distributions.Normal(mean, scale).log_prob(torch.where(x.isnan(), 0, x))
    expected = -torch.where(x.isnan(), 0, terms).sum(-1).mean()
    assert evaluation["reconstruction"] == pytest.approx(expected.item(), rel=0.2)
    assert evaluation["elbo"] == pytest.approx(-evaluation["reconstruction"] - evaluation["kl"], rel=1e-5)


@pytest.mark.parametrize("part", ["encoder", "autoencoder"])
def test_an_exported_encoder_accepts_missing_values(run: vaekit.Run, tmp_path: Path, part: str) -> None:
    assert part_of(run.trained(), part).examples[0].isnan().any()  # type: ignore[arg-type]
    exported = run.export("onnx", part=part, out=tmp_path / f"{part}.onnx")  # type: ignore[arg-type]
    x = run.splits.test.gather(torch.arange(10))
    assert x.isnan().any()
    output = onnxruntime.InferenceSession(exported.path).run(None, {"image": x.numpy()})[0]
    expected = run.vae().encode(x).mean if part == "encoder" else run.vae().reconstruct(x).clamp(*run.vae().value_range)
    np.testing.assert_allclose(output, expected.numpy(), atol=1e-5)


def test_scores_and_exported_scorers_leave_missing_numbers_out(run: vaekit.Run, tmp_path: Path) -> None:
    scores = run.score(deterministic=True, quantile=0.8)
    exported = run.export("onnx", part="scorer", out=tmp_path / "scorer.onnx")
    x = run.splits.test.gather(torch.arange(len(scores)))
    score, error, flagged, _ = onnxruntime.InferenceSession(exported.path).run(None, {"image": x.numpy()})
    np.testing.assert_allclose(score, scores.score, rtol=1e-5, atol=1e-5)
    assert (flagged == scores["above_threshold"]).all()
    assert (error[x.isnan().numpy()] == 0).all()
    np.testing.assert_allclose(error.sum(1), scores["squared_error"], rtol=1e-5)


def test_pictures_show_missing_values_next_to_complete_reconstructions(run: vaekit.Run, tmp_path: Path) -> None:
    from PIL import Image

    x = run.splits.test.gather(torch.arange(10))
    row = int(x.isnan().any(1).nonzero()[0])
    picture = np.asarray(Image.open(run.reconstruct([row], out=tmp_path / "a.png")).convert("L"))
    places = [MARGIN + EDGE + round((i + 0.5) * (WIDE * SMALL - 2 * EDGE) / 5) for i in range(5)]
    upper, lower = picture[MARGIN + 1 :][: SMALL - 2, places], picture[2 * MARGIN + SMALL + 1 :][: SMALL - 2, places]
    assert ((upper < 200).any(0) == ~x[row].isnan().numpy()).all()
    assert (lower < 200).any(0).all()


def test_a_table_with_missing_values_states_its_requirements(options: dict[str, object], tmp_path: Path) -> None:
    given = {name: value for name, value in options.items() if name not in ("missing", "likelihood.link")}
    with pytest.raises(DataError, match=r"of 1,200 values are NaN(.*\n)*.*--missing zeros"):
        vaekit.train(**given, out=tmp_path / "run")
    with pytest.raises(DataError, match=r"remedy: +use a likelihood on all reals: .*--likelihood\.link identity"):
        vaekit.train(**given, missing="zeros", out=tmp_path / "run")
    given |= {"encoder": "cnn", "likelihood.link": "identity"}
    del given["encoder.hidden"]
    with pytest.raises(
        UsageError, match=r"the encoder 'cnn' supports signals, images and volumes only(.*\n)*.*a table(.*\n)*.*mlp"
    ):
        vaekit.train(**given, missing="zeros", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_models_of_a_sweep_see_the_data_as_their_spec_says(options: dict[str, object], tmp_path: Path) -> None:
    fixed = {name: value for name, value in options.items() if name != "missing"}
    swept = vaekit.sweep(over={"missing": ("zeros", "channel")}, **fixed, out=tmp_path / "sweep")
    assert [run.header.facts.missing for run in swept] == ["zeros", "channel"]
    assert [run.vae().encoder.channels for run in swept] == [0, swept[0].header.facts.data_shape[0]]
