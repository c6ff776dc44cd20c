"""Checks of posteriors and priors."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from vaekit.distributions import Density, FactorisedDensity
from vaekit.interfaces import Capability, Posterior, Prior
from vaekit.testing.backbones import expect_compiles
from vaekit.testing.common import expect_gradients, expect_same_after_loading, module_of
from vaekit.testing.core import Subject, check, during, expect, expect_close, expect_finite
from vaekit.trace import Site, Trace

F64 = torch.float64
METHODS = {Capability.LOG_PROB: "log_prob", Capability.FACTORISED: "log_prob_per_dim"}


def posterior_of(subject: Subject, latent_dim: int = 3, dtype: torch.dtype = F64) -> Posterior:
    """Build the posterior."""
    posterior = module_of(subject, latent_dim=latent_dim).to(dtype)
    assert isinstance(posterior, Posterior)
    return posterior


def prior_of(subject: Subject, latent_dim: int = 3, dtype: torch.dtype = F64) -> Prior:
    """Build the prior."""
    prior = module_of(subject, latent_dim=latent_dim).to(dtype)
    assert isinstance(prior, Prior)
    return prior


def params_of(posterior: Posterior, num: int = 6, dtype: torch.dtype = F64) -> Tensor:
    """Draw what an encoder might emit."""
    return torch.randn(num, *posterior.param_shape, dtype=dtype)


def noise_of(posterior: Posterior, num: int, like: Tensor) -> Tensor:
    """Draw the posterior's noise, the same at each call."""
    return posterior.draw_noise(num, torch.Generator().manual_seed(0), like=like)


@check("posterior")
def check_sampling(subject: Subject) -> None:
    """Samples have the latent's shape, with sample dimensions too, and carry gradients to the encoder's output."""
    for latent_dim in (1, 2, 16):
        posterior = posterior_of(subject, latent_dim)
        params = params_of(posterior).requires_grad_()
        with during(f"q(z|x) of {latent_dim} dimensions, and samples of it"):
            q = posterior(params)
            z = q.rsample(noise_of(posterior, 6, params))
            more = q.rsample(noise_of(posterior, 12, params).unflatten(0, (2, 6)))
        expect(z.shape == (6, latent_dim), "the shape of a sample", expected=(6, latent_dim), came=tuple(z.shape))
        expect(q.mean.shape == z.shape, "the shape of the mean", expected=tuple(z.shape), came=tuple(q.mean.shape))
        expect(more.shape == (2, 6, latent_dim), "the shape of 2 samples", expected=(2, 6, latent_dim), came=tuple(more.shape))
        (gradient,) = torch.autograd.grad(z.square().sum(), params, allow_unused=True)
        expect(gradient is not None, "the gradient of samples to the encoder's output", expected="one", came="none")
        expect_finite(gradient, "the gradient of samples to the encoder's output")
    again = noise_of(posterior, 6, params)
    expect(torch.equal(again, noise_of(posterior, 6, params)), "noise of one seed", expected="the same twice", came="others")


@check("posterior")
def check_independence(subject: Subject) -> None:
    """An image's sample does not depend on the rest of the batch."""
    posterior = posterior_of(subject).eval()
    params = params_of(posterior)
    noise = noise_of(posterior, 6, params)
    rows = [posterior(row[None]).rsample(n[None]) for row, n in zip(params, noise, strict=True)]
    expect_close(posterior(params).rsample(noise), torch.cat(rows), "a batch, against its rows", rtol=1e-10, atol=1e-12)


@check("posterior")
def check_capabilities(subject: Subject) -> None:
    """The posterior provides what it declares, and declares what it provides."""
    posterior = posterior_of(subject)
    params = params_of(posterior)
    q = posterior(params)
    expect_capabilities(q, posterior.provides, q.rsample(noise_of(posterior, 6, params)))
    with during("detaching q(z|x): a named tuple, or an object with a method detach"):
        Trace(x=params, sites=(Site(q.mean, q, q, has_density=False),), likelihood=cast("Density", q)).detach()


@check("prior")
def check_sampling_and_capabilities(subject: Subject) -> None:
    """Draws and their log densities have the right shapes, and the prior provides exactly what it declares."""
    for latent_dim in (1, 2, 16):
        prior = prior_of(subject, latent_dim)
        with during(f"drawing from p(z) of {latent_dim} dimensions"):
            z = prior().rsample(torch.randn(6, latent_dim, dtype=F64))
        expect(z.shape == (6, latent_dim), "the shape of draws", expected=(6, latent_dim), came=tuple(z.shape))
        expect_capabilities(prior(), prior.provides, z)


def expect_capabilities(density: Any, provides: frozenset[Capability], z: Tensor) -> None:
    """Raise unless a density has exactly the methods of its capabilities, and they give numbers of the right shapes."""
    for capability, method in METHODS.items():
        declared = capability in provides
        has = "" if hasattr(density, method) else "not "
        what = f"{type(density).__name__}.{method}, capability {capability!r}"
        expect(hasattr(density, method) == declared, what, expected=f"declared: {declared}", came=f"{has}there")
    if Capability.LOG_PROB in provides:
        value = density.log_prob(z)
        expect(value.shape == z.shape[:-1], "the shape of log_prob", expected=tuple(z.shape[:-1]), came=tuple(value.shape))
        expect_finite(value, "log_prob of its own samples")
        if Capability.FACTORISED in provides:
            expect_close(density.log_prob_per_dim(z).sum(-1), value, "log_prob_per_dim, summed, against log_prob", rtol=1e-9)


@check("posterior")
def check_density(subject: Subject) -> None:
    """A factorised density integrates to 1."""
    posterior = posterior_of(subject, 1)
    if Capability.FACTORISED in posterior.provides:
        params = params_of(posterior)
        q = posterior(params)
        for row in range(6):
            expect_mass(
                posterior(params[row : row + 1]), q.rsample(noise_of(posterior, 600, params).unflatten(0, (100, 6)))[:, row]
            )


@check("prior")
def check_prior_density(subject: Subject) -> None:
    """A factorised density integrates to 1."""
    prior = prior_of(subject, 1)
    if Capability.FACTORISED in prior.provides:
        expect_mass(prior(), prior().rsample(torch.randn(100, 1, dtype=F64)))


def expect_mass(density: Any, samples: Tensor) -> None:
    """Raise unless a density over one dimension integrates to 1, over a range well beyond its samples."""
    width = (samples.max() - samples.min()).item()
    grid = torch.linspace(samples.min().item() - 10 * width, samples.max().item() + 10 * width, 100_001, dtype=F64)
    logs = cast("FactorisedDensity", density).log_prob_per_dim(grid[:, None, None] if density.mean.ndim == 2 else grid[:, None])
    mass = torch.trapezoid(logs.flatten().exp(), grid).item()
    expect(math.isclose(mass, 1, abs_tol=1e-3), "the integral of a density over one dimension", expected=1, came=f"{mass:.5f}")


@check("posterior")
def check_extremes(subject: Subject) -> None:
    """Samples and log densities are finite whatever the encoder emits."""
    posterior = posterior_of(subject, dtype=torch.float32)
    for value in (1e4, -1e4):
        q = posterior(torch.full((2, *posterior.param_shape), value))
        z = q.rsample(noise_of(posterior, 2, q.mean))
        expect_finite(z, f"samples where the encoder emits {value:g}")
        if Capability.LOG_PROB in posterior.provides:
            expect_finite(q.log_prob(z), f"log_prob of samples where the encoder emits {value:g}")


@check("posterior")
def check_gradient(subject: Subject) -> None:
    """A gradient reaches every parameter of the posterior, and the encoder's output."""
    posterior = posterior_of(subject)
    params = params_of(posterior, 16).requires_grad_()
    q = posterior(params)
    z = q.rsample(noise_of(posterior, 16, params))
    value = (z * torch.randn_like(z)).sum()
    if Capability.LOG_PROB in posterior.provides:
        value = value + q.log_prob(z).sum()
    expect_gradients(posterior, value, "from samples and their log densities")


@check("prior")
def check_prior_gradient(subject: Subject) -> None:
    """A gradient reaches every parameter of the prior."""
    prior = prior_of(subject)
    z = torch.randn(16, 3, dtype=F64)
    if Capability.LOG_PROB in prior.provides:
        value = cast("Density", prior()).log_prob(z).square().sum()
    else:
        value = prior().rsample(z).square().sum()
    if any(parameter.requires_grad for parameter in prior.parameters()):
        expect_gradients(prior, value, "from log densities, or samples where there are none")


@check("posterior")
def check_dtype(subject: Subject) -> None:
    """Float64 stays float64; what a half-precision encoder emits is computed with in float32 at least."""
    for given, expected in ((F64, F64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)):
        posterior = posterior_of(subject, dtype=expected)
        q = posterior(params_of(posterior, dtype=given))
        z = q.rsample(noise_of(posterior, 6, q.mean))
        expect(z.dtype == expected, f"the type of samples from parameters in {given}", expected=expected, came=z.dtype)


@check("prior")
def check_prior_dtype(subject: Subject) -> None:
    """Float64 stays float64, and float32 float32."""
    for dtype in (F64, torch.float32):
        z = prior_of(subject, dtype=dtype)().rsample(torch.randn(6, 3, dtype=dtype))
        expect(z.dtype == dtype, f"the type of draws in {dtype}", expected=dtype, came=z.dtype)


@check("posterior", "prior")
def check_device(subject: Subject) -> None:
    """It moves to another device whole: no tensor that it makes stays on the CPU."""
    module = _float32(subject).to("meta")
    with during("sampling on torch's meta device"):
        z = _sample(module, *(t.to("meta") for t in _arguments(module)))
    expect(z.device.type == "meta", "the device of samples", expected="meta", came=z.device.type)


@check("posterior", "prior")
def check_compile(subject: Subject) -> None:
    """`torch.compile` makes one graph of sampling, without a break, that agrees with eager."""
    module = _float32(subject)
    expect_compiles(lambda *arguments: _sample(module, *arguments), _arguments(module))


@check("posterior", "prior")
def check_state_dict(subject: Subject) -> None:
    """Weights that are saved and loaded into a new one give bit-equal samples."""
    module = _float32(subject)
    arguments = _arguments(module)
    expect_same_after_loading(module, _float32(subject), lambda m: [_sample(m, *arguments)])


def _float32(subject: Subject) -> nn.Module:
    build = posterior_of if subject.role == "posterior" else prior_of
    return build(subject, dtype=torch.float32).eval()


def _arguments(module: nn.Module) -> tuple[Tensor, ...]:
    if not isinstance(module, Posterior):
        return (torch.randn(6, 3),)
    params = torch.randn(6, *module.param_shape)
    return params, noise_of(module, 6, params)


def _sample(module: nn.Module, *arguments: Tensor) -> Tensor:
    z: Tensor = module(*arguments[:-1]).rsample(arguments[-1])
    return z
