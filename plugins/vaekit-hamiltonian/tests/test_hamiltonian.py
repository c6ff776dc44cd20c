"""The losses pass vaekit's checks; trajectories are those of Hamiltonian mechanics; the bounds are bounds, in closed form."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import distributions as D
from vaekit_hamiltonian.integrators import Metric, gradient_of, leapfrog, quadratic_cooling, riemannian_leapfrog
from vaekit_hamiltonian.joint import Bounded

import vaekit
from vaekit.distributions import DiagonalGaussian, StandardNormal
from vaekit.specs.options import build_spec
from vaekit.testing import checks
from vaekit.trace import Site, Trace

F64 = torch.float64
SMALL = {"num_centroids": 5, "hidden": (8,)}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def number(value):
    return torch.tensor(value, dtype=F64)


def potential(z):
    """A potential with curvature that varies, ``(B, D) -> (B,)``."""
    return 0.5 * (z.square() * torch.arange(1, z.shape[-1] + 1)).sum(-1) + torch.cos(2 * z).sum(-1) + 0.1 * z.pow(4).sum(-1)


def metric_of(dim, num=6):
    factors = random(num, dim, dim, seed=5).tril()
    return Metric(random(num, dim, seed=4), 0.3 * factors + torch.eye(dim, dtype=F64), number(1.5), number(0.1))


def euclidean(z, rho, step, cooling):
    return leapfrog(z, rho, gradient_of(potential), step=step, cooling=cooling)


def riemannian(z, rho, step, cooling):
    """Iterations are as many as an implicit equation needs to be solved to rounding."""
    return riemannian_leapfrog(z, rho, gradient_of(potential), metric_of(z.shape[-1]), step=step, cooling=cooling, iterations=40)


@pytest.mark.parametrize("check", checks("loss"))
def test_hvae_conforms(check):
    check("hvae")


@pytest.mark.parametrize("check", checks("loss"))
def test_rhvae_conforms(check):
    check("rhvae", options=SMALL)


@pytest.mark.parametrize("follow", [euclidean, riemannian])
def test_a_trajectory_with_reversed_momentum_returns(follow):
    z, rho, cooling = random(7, 3), random(7, 3, seed=1), torch.ones(5, dtype=F64)
    there, momentum = follow(z, rho, number(0.1), cooling)
    back, turned = follow(there, -momentum, number(0.1), cooling)
    assert (there - z).abs().min() > 1e-3
    torch.testing.assert_close(back, z, rtol=0, atol=1e-10)
    torch.testing.assert_close(turned, -rho, rtol=0, atol=1e-10)


@pytest.mark.parametrize("follow", [euclidean, riemannian])
@pytest.mark.parametrize("beta_zero", [1.0, 0.3])
def test_volume_is_preserved_except_for_cooling(follow, beta_zero):
    """The determinant of the Jacobian is β₀ to the power D / 2."""
    cooling = quadratic_cooling(number(beta_zero), 4)

    def flat(state):
        z, rho = state.unsqueeze(0).split(2, -1)
        return torch.cat(follow(z, rho, number(0.15), cooling), -1)[0]

    jacobian = torch.autograd.functional.jacobian(flat, random(4, seed=2))
    assert torch.linalg.det(jacobian).item() == pytest.approx(beta_zero ** (2 / 2), rel=1e-9)


def test_each_latent_may_have_its_own_step_size():
    step = number([0.05, 0.3])
    flat = lambda s: torch.cat(euclidean(s[None, :2], s[None, 2:], step, torch.ones(3, dtype=F64)), -1)[0]  # noqa: E731
    assert torch.linalg.det(torch.autograd.functional.jacobian(flat, random(4))).item() == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("follow", [euclidean, riemannian])
def test_the_error_of_the_energy_is_of_second_order_in_the_step(follow):
    """Halving the step of a trajectory of one length divides the error by 4."""
    z, rho = random(50, 3), random(50, 3, seed=1)
    kinetic = metric_of(3).kinetic if follow is riemannian else lambda z, rho: 0.5 * rho.square().sum(-1)
    energy = lambda z, rho: potential(z) + kinetic(z, rho)  # noqa: E731
    errors = []
    for num in (8, 16, 32):
        end = follow(z, rho, number(0.4 / num), torch.ones(num, dtype=F64))
        errors.append((energy(*end) - energy(z, rho)).abs().mean().item())
    assert errors[0] < 0.1
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_a_constant_metric_is_a_change_of_coordinates():
    """With G⁻¹ = λ I, steps are those of unit mass whose size is larger by the square root of λ."""
    flat = Metric(torch.zeros(1, 3, dtype=F64), torch.zeros(1, 3, 3, dtype=F64), number(1.0), number(0.25))
    z, rho, cooling = random(6, 3), random(6, 3, seed=1), quadratic_cooling(number(0.5), 4)
    end, momentum = leapfrog(z, rho, gradient_of(potential), step=number(0.1), cooling=cooling)
    start = flat.momentum(z, rho)
    moved, scaled = riemannian_leapfrog(z, start, gradient_of(potential), flat, step=number(0.2), cooling=cooling, iterations=1)
    torch.testing.assert_close(moved, end)
    torch.testing.assert_close(scaled * 0.5, momentum)  # momenta are larger by what velocities are smaller


def test_the_metric_matches_its_definition_and_momenta_follow_it():
    metric, z = metric_of(3), random(2, 3, seed=7)
    for i, point in enumerate(z):
        parts = zip(metric.centroids, metric.factors, strict=True)
        inverse = 0.1 * torch.eye(3, dtype=F64) + sum(
            factor @ factor.T * math.exp(-(point - centroid).square().sum() / 1.5**2) for centroid, factor in parts
        )
        torch.testing.assert_close(metric.inverse(z)[i], inverse)
        rho = random(3, seed=8)
        expected = 0.5 * rho @ inverse @ rho - 0.5 * torch.logdet(inverse)
        torch.testing.assert_close(metric.kinetic(z[i : i + 1], rho[None])[0], expected)
        columns = metric.momentum(point.expand(3, 3), torch.eye(3, dtype=F64))  # row n is the n-th column of a root of G
        torch.testing.assert_close(columns.T @ columns, torch.linalg.inv(inverse))


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_cooling_ends_at_temperature_one(num_steps):
    factors = quadratic_cooling(number(0.3), num_steps)
    assert factors.shape == (num_steps,)
    assert (factors <= 1).all()
    assert factors.prod().item() == pytest.approx(math.sqrt(0.3), rel=1e-12)
    assert torch.equal(quadratic_cooling(number(1.0), num_steps), torch.ones(num_steps, dtype=F64))


def test_zero_steps_change_nothing():
    z, rho = random(3, 2), random(3, 2, seed=1)
    assert all(map(torch.equal, leapfrog(z, rho, gradient_of(potential), step=number(0.1), cooling=torch.ones(0)), (z, rho)))
    assert quadratic_cooling(number(0.3), 0).shape == (0,)


# Bounds of a model whose evidence is known: x = W z + b + σ ε with z of two dimensions and x of four


class Linear:
    """A trace's model: linear decoder, Gaussian pixels, and an encoder of four numbers to two means."""

    posterior = SimpleNamespace(space="real", kind="gaussian")

    def __init__(self):
        self.weight, self.bias, self.sigma = random(4, 2), random(4, seed=1), 0.6

    def condition_on(self, y):
        return None

    def likelihood_of(self, z, c=None):
        mean = z @ self.weight.T + self.bias
        return SimpleNamespace(mean=mean, log_prob=lambda x: D.Normal(mean, self.sigma).log_prob(x).sum(-1))

    def encode(self, x, y=None):
        return DiagonalGaussian(0.5 * x[:, :2], torch.zeros(len(x), 2, dtype=F64))

    def log_evidence(self, x):
        covariance = self.weight @ self.weight.T + self.sigma**2 * torch.eye(4, dtype=F64)
        return D.MultivariateNormal(self.bias, covariance).log_prob(x)


def trace_of(kind, num, q=None):
    """A trace of a repeated example, with a posterior that is too narrow and shifted from the true one."""
    model, x = Linear(), random(1, 4, seed=2).expand(num, 4)
    q = q or DiagonalGaussian(torch.tensor([[0.4, -0.3]], dtype=F64).expand(num, 2), torch.full((num, 2), -1.5, dtype=F64))
    z = q.rsample(random(num, 2, seed=3))
    site = Site(z, q, StandardNormal(torch.zeros(2, dtype=F64)))
    return Trace(x, (site,), model.likelihood_of(z), model=model, draws={kind: random(num, 2, seed=4)})


def loss_of(kind, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wiring = (2, (4,)) if kind == "rhvae" else (2,)
        small = {"iterations": 12, **SMALL} if kind == "rhvae" else {}
        return vaekit.losses.get(kind)(*wiring, **{**small, **options}).double()


@pytest.mark.parametrize(
    ("kind", "beta_zero", "step"), [("hvae", 0.3, 0.12), ("hvae", 1.0, 0.12), ("rhvae", 0.3, 0.03), ("rhvae", 1.0, 0.03)]
)
@torch.no_grad()
def test_the_mean_weight_of_trajectories_is_the_evidence(kind, beta_zero, step):
    """So its logarithm is a bound in expectation; a wrong volume, density or constant would show."""
    num = 20_000 if kind == "hvae" else 5_000
    trace = trace_of(kind, num)
    log_weight = -loss_of(kind, steps=4, step_size=step, beta_zero=beta_zero)(trace)
    exact = trace.model.log_evidence(trace.x)[0]
    ratio = (log_weight - exact).exp()
    error = ratio.std() / math.sqrt(num)
    assert error < 0.05
    assert abs(ratio.mean() - 1) < 4 * error
    assert log_weight.mean() < exact


@pytest.mark.parametrize(("kind", "beta_zero", "step"), [("hvae", 1.0, 0.25), ("hvae", 0.7, 0.25), ("rhvae", 1.0, 0.03)])
@torch.no_grad()
def test_the_bound_is_tighter_than_the_elbo(kind, beta_zero, step):
    trace = trace_of(kind, 5_000)
    bound = -loss_of(kind, steps=4, step_size=step, beta_zero=beta_zero)(trace)
    gain = trace.metrics["gain"]
    torch.testing.assert_close(gain, bound - trace.log_weight)
    assert gain.mean() > 5 * gain.std() / math.sqrt(len(gain)) > 0


@pytest.mark.parametrize("kind", ["hvae", "rhvae"])
def test_without_steps_the_bound_is_the_elbo_of_the_vae(kind):
    """As a value for each example and as a gradient."""
    trace = trace_of(kind, 5)
    loss = loss_of(kind, steps=0, beta_zero=1.0)
    torch.testing.assert_close(loss(trace), -trace.log_weight, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["hvae", "rhvae"])
def test_the_bound_approaches_the_elbo_as_steps_vanish(kind):
    trace = trace_of(kind, 5)
    loss = loss_of(kind, step_size=1e-9, beta_zero=1.0)
    torch.testing.assert_close(loss(trace), -trace.log_weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["hvae", "rhvae"])
def test_gradients_of_gradients_are_those_of_finite_differences(kind):
    loss = loss_of(kind, steps=2, step_size=0.05)
    mu, logvar = random(3, 2, seed=6), random(3, 2, seed=7) - 1

    def value(mu, logvar, weight):
        trace = trace_of(kind, 3, DiagonalGaussian(mu, logvar))
        trace.model.weight = weight
        return loss(trace)

    inputs = [each.clone().requires_grad_() for each in (mu, logvar, random(4, 2))]
    assert torch.autograd.gradcheck(value, inputs, fast_mode=True)
    total = value(*inputs).sum()
    parameters = dict(loss.named_parameters())
    for name, gradient in zip(parameters, torch.autograd.grad(total, parameters.values()), strict=True):
        parameter, direction = parameters[name], random(*parameters[name].shape, seed=9)
        values = []
        for shift in (1e-6, -1e-6):
            with torch.no_grad():
                trace = trace_of(kind, 3, DiagonalGaussian(mu, logvar))
                values.append(torch.func.functional_call(loss, {name: parameter + shift * direction}, (trace,)).sum())
        assert (gradient * direction).sum().item() == pytest.approx(((values[0] - values[1]) / 2e-6).item(), rel=1e-4, abs=1e-7)


def test_bounded_parameters_stay_within_their_bounds():
    step = Bounded(0.05, 0.5, (3,)).double()
    torch.testing.assert_close(step(), torch.full((3,), 0.05, dtype=F64), rtol=1e-6, atol=0)
    torch.nn.init.constant_(step.logit, 100.0)
    assert (step() <= 0.5).all()
    with pytest.raises(vaekit.VaekitError, match="not below its bound"):
        vaekit.losses.get("hvae")(2, step_size=0.7, max_step_size=0.5)


@pytest.mark.parametrize("loss", ["hvae", "rhvae"])
def test_codes_other_than_real_vectors_are_refused(loss):
    with pytest.raises(vaekit.VaekitError, match=f"loss '{loss}' is not defined on the space of the posterior 'vmf'") as refusal:
        build_spec({}, {"loss": loss, "posterior": "vmf", "prior": "hypersphere"})
    assert "gaussian" in refusal.value.remedy


def test_centroids_are_the_codes_of_training_images_and_of_their_labels():
    loss, x = loss_of("rhvae"), random(13, 4)
    site = trace_of("rhvae", 13).site
    state = loss.initial_state(Trace(x, (site,), None, y=torch.arange(13)))
    assert torch.equal(state["images"], x[[0, 2, 4, 6, 8]])
    assert torch.equal(state["labels"], torch.tensor([0, 2, 4, 6, 8]))
    loss.images = state["images"]
    torch.testing.assert_close(loss.metric(Linear()).centroids, 0.5 * x[[0, 2, 4, 6, 8], :2])


OPTIONS = {"encoder.hidden": (64,), "decoder.hidden": (64,), "latent_dim": 4, "epochs": 2, "threads": 1, "pictures": "none"}


def test_the_bound_of_a_trained_model_is_above_its_elbo(tmp_path):
    run = vaekit.train(**OPTIONS, loss="hvae", device="cpu", out=tmp_path / "run")
    numbers = run.evaluation()
    assert -numbers["loss"] == pytest.approx(numbers["elbo"] + numbers["gain"], abs=0.5)
    assert numbers["gain"] > 0
