"""Checks of posteriors and priors, except for sampling: see `vaekit.testing.draws`."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from vaekit.distributions import rsample_and_log_prob
from vaekit.errors import UsageError
from vaekit.interfaces import Capability, Posterior, Prior, Shape
from vaekit.model.vae import VAE
from vaekit.registry import Registry
from vaekit.roles import decoders, encoders, posteriors, priors
from vaekit.testing.backbones import expect_compiles
from vaekit.testing.common import (
    expect_detachable,
    expect_exact_gradient,
    expect_gradients,
    expect_pure_state,
    expect_same_after_loading,
    module_of,
)
from vaekit.testing.core import Candidate, check, during, expect, expect_close, expect_finite

F64 = torch.float64
METHODS = {
    Capability.LOG_PROB: "log_prob",
    Capability.LOG_PROB_OF_DRAWS: "rsample_and_log_prob",
    Capability.FACTORISED: "log_prob_per_dim",
}
FAR = 100.0
"""A value far from any code; in float64, a standard normal density underflows at 39."""

DATA = (1, 4, 3)
"""The shape of the images of the model for the posterior or prior."""


class Source(nn.Module):
    """A posterior or prior in a small model.

    Args:
        posterior: The posterior of the model.
        prior: Its prior.
        role: The role under test.
    """

    def __init__(self, posterior: Posterior, prior: Prior, role: str) -> None:
        super().__init__()
        self.role, dim = role, posterior.latent_dim
        encoder, decoder = encoders.get("mlp")(DATA, posterior.param_shape), decoders.get("mlp")((dim,), DATA)
        self.model = VAE(encoder, decoder, posterior=posterior, prior=prior)

    @property
    def part(self) -> Any:
        """The posterior or prior itself."""
        return getattr(self.model, self.role)

    def forward(self, *arguments: Tensor) -> Any:
        return self.part(*arguments, model=self.model)

    @property
    def provides(self) -> frozenset[Capability]:
        provided: frozenset[Capability] = self.part.provides
        return provided

    @property
    def latent_dim(self) -> int:
        return self.model.latent_dim


def _built(components: Registry[Any], kind: str, latent_dim: int, code_sizes: Shape = ()) -> Any:
    return components.build(components.spec(kind)(kind=kind), **_wiring(latent_dim, code_sizes))


def _wiring(latent_dim: int, code_sizes: Shape) -> dict[str, Any]:
    return {
        "latent_dim": latent_dim,
        "latent_shape": (latent_dim,),
        "data_shape": DATA,
        "code_sizes": code_sizes,
        "condition_size": 0,
    }


def source_of(
    candidate: Candidate, latent_dim: int = 3, dtype: torch.dtype = F64, *, posterior: Posterior | None = None
) -> Source:
    """Build the posterior or prior in a small model, in eval mode.

    Args:
        candidate: The posterior or prior.
        latent_dim: The number of latents.
        dtype: The dtype of its parameters.
        posterior: The posterior of a prior's model; default: the first compatible one.
    """
    if candidate.role == "posterior":
        part: Posterior = module_of(candidate, **_wiring(latent_dim, ()))
        source = Source(part, _built(priors, part.default_prior, latent_dim, part.code_sizes), "posterior")
    else:
        posterior = posterior or _fitting(candidate, latent_dim)
        source = Source(posterior, module_of(candidate, **_wiring(latent_dim, posterior.code_sizes)), "prior")
    source.eval()
    return source if dtype == torch.float32 else source.to(dtype)


def _fitting(candidate: Candidate, latent_dim: int) -> Posterior:
    """Build the first posterior compatible with a prior."""
    space, required = candidate.cls.space, candidate.cls.requires
    kinds = [kind for kind in ("gaussian", *posteriors.kinds()) if posteriors.get(kind).space == space]
    fitting = next((kind for kind in kinds if required <= posteriors.get(kind).provides), "gaussian")
    posterior: Posterior = _built(posteriors, fitting, latent_dim)
    return posterior


def takes_one_dimension(candidate: Candidate) -> bool:
    """Whether the component supports a single dimension; if not, it must raise a `UsageError`."""
    try:
        codes = _fitting(candidate, 1).code_sizes if candidate.role == "prior" else ()
        candidate.build(**_wiring(1, codes))
    except UsageError:
        return False
    return True


def arguments_of(source: Source, num: int = 6, dtype: torch.dtype = F64) -> tuple[Tensor, ...]:
    """Return random arguments of ``forward``: encoder outputs for a posterior, none for a prior."""
    part = source.part
    return (torch.randn(num, *part.param_shape, dtype=dtype),) if isinstance(part, Posterior) else ()


def returns_log_probs(density: Any) -> bool:
    """Whether a distribution returns its samples together with their log densities."""
    return hasattr(density, METHODS[Capability.LOG_PROB_OF_DRAWS])


def noise_of(source: Source, *shape: int, dtype: torch.dtype = F64) -> Tensor:
    """Return base noise for latent vectors of a shape, the same on every call."""
    generator, num = torch.Generator().manual_seed(0), torch.Size(shape).numel()
    noise: Tensor = source.part.draw_noise(num, generator, like=torch.zeros((), dtype=dtype))
    return noise.view(*shape, *noise.shape[1:])


@check("posterior", "prior")
def check_sampling(candidate: Candidate) -> None:
    """Samples have the right shape, with and without sample dimensions, and are determined by the noise.

    A component may reject a single dimension with a `UsageError`, like a sphere.
    """
    for latent_dim in (1, 2, 16) if takes_one_dimension(candidate) else (2, 16):
        source = source_of(candidate, latent_dim)
        with during(f"the {candidate.role} of {latent_dim} dimensions, and samples of it"):
            density = source(*arguments_of(source))
            z, more = density.rsample(noise_of(source, 6)), density.rsample(noise_of(source, 2, 6))
            again = density.rsample(noise_of(source, 6))
        expect(z.shape == (6, latent_dim), "the shape of a sample", expected=(6, latent_dim), got=tuple(z.shape))
        expect(more.shape == (2, 6, latent_dim), "the shape of 2 samples", expected=(2, 6, latent_dim), got=tuple(more.shape))
        mean = (6, latent_dim) if candidate.role == "posterior" else (latent_dim,)
        expect(density.mean.shape == mean, "the shape of the mean", expected=mean, got=tuple(density.mean.shape))
        expect(torch.equal(z, again), "samples from the same noise and seed, drawn twice", expected="equal", got="different")
        if returns_log_probs(density):
            for shape, expected in (((6,), z), ((2, 6), more)):
                what = f"rsample_and_log_prob of {' x '.join(map(str, shape))} samples of {latent_dim} dimensions"
                with during(what):
                    drawn, score = density.rsample_and_log_prob(noise_of(source, *shape))
                expect(score.shape == shape, f"the log densities of {what}", expected=shape, got=tuple(score.shape))
                expect_close(drawn, expected, f"the samples of {what}, compared with rsample", rtol=1e-10, atol=1e-12)
                expect_finite(score, f"the log densities of {what}")


@check("posterior")
def check_independence(candidate: Candidate) -> None:
    """The sample and log density of an image do not depend on the rest of the batch."""
    posterior = source_of(candidate)
    (params,), noise = arguments_of(posterior), noise_of(posterior, 6)
    q, alone = posterior(params), [posterior(row[None]) for row in params]
    z = torch.cat([each.rsample(n[None]) for each, n in zip(alone, noise, strict=True)])
    expect_close(q.rsample(noise), z, "samples of a batch, compared with its rows", rtol=1e-10, atol=1e-12)
    if Capability.LOG_PROB in posterior.provides:
        rows = torch.cat([each.log_prob(row[None]) for each, row in zip(alone, z, strict=True)])
        expect_close(q.log_prob(z), rows, "log_prob of a batch, compared with its rows", rtol=1e-10, atol=1e-12)
    if returns_log_probs(q):
        rows = torch.cat([each.rsample_and_log_prob(n[None])[1] for each, n in zip(alone, noise, strict=True)])
        stated = q.rsample_and_log_prob(noise)[1]
        expect_close(stated, rows, "log densities of the samples of a batch, compared with its rows", rtol=1e-10, atol=1e-12)


@check("posterior", "prior")
def check_capabilities(candidate: Candidate) -> None:
    """It provides exactly the declared capabilities.

    If any value can be scored, log densities returned with samples must agree.
    """
    source = source_of(candidate)
    density: Any = source(*arguments_of(source))
    z = density.rsample(noise_of(source, 6))
    anywhere = Capability.LOG_PROB in source.provides
    for capability, method in METHODS.items():
        declared = capability in source.provides
        if anywhere and capability == Capability.LOG_PROB_OF_DRAWS:
            continue
        has = "" if hasattr(density, method) else "not "
        what = f"{type(density).__name__}.{method}, capability {capability}"
        expect(hasattr(density, method) == declared, what, expected=f"declared: {declared}", got=f"{has}there")
    if anywhere:
        value = density.log_prob(z)
        expect(value.shape == (6,), "the shape of log_prob of 6 samples", expected=(6,), got=tuple(value.shape))
        expect_finite(value, "log_prob of its own samples")
        for method in ("log_prob_per_dim", "conditional_log_probs"):
            if hasattr(density, method):
                expect_close(getattr(density, method)(z).sum(-1), value, f"{method}, summed, compared with log_prob", rtol=1e-9)
        if returns_log_probs(density):
            stated = density.rsample_and_log_prob(noise_of(source, 6))[1]
            expect_close(stated, value, "log densities returned with samples, compared with log_prob", rtol=1e-9)


@check("posterior", "prior")
def check_detachment(candidate: Candidate) -> None:
    """When detached, it has the same values and no gradient to its inputs, not even through a nested density."""
    source = source_of(candidate)
    noise, z = noise_of(source, 6), torch.randn(6, source.latent_dim, dtype=F64)
    scored = Capability.LOG_PROB in source.provides

    def values(q: Any) -> list[Tensor]:
        stated = list(q.rsample_and_log_prob(noise)) if returns_log_probs(q) else []
        return [q.mean, q.rsample(noise), *stated, *([q.log_prob(z)] if scored else [])]

    expect_detachable(source, arguments_of(source), values)


@check("posterior", "prior")
def check_foreign_values(candidate: Candidate) -> None:
    """log_prob is correct for any value, not only the last sample: for samples of other posteriors, distant and stacked values.

    Importance-weighted bounds and the total correlation need this. A density with bounded support, such as a uniform density,
    is not finite everywhere and lists this check among its expected failures.
    """
    source = source_of(candidate)
    if Capability.LOG_PROB not in source.provides:
        return
    arguments, noise = arguments_of(source), noise_of(source, 6)
    density: Any = source(*arguments)
    z = density.rsample(noise)
    density.log_prob(z)
    fresh: Any = source(*arguments)  # no samples drawn yet
    values = {"its samples": z, "others' samples": z.roll(1, 0), "distant values": FAR * torch.randn(6, 3, dtype=F64).sign()}
    with during("log_prob of values other than its own samples"):
        scores = torch.stack([density.log_prob(value) for value in values.values()])
        unmoved = torch.stack([fresh.log_prob(value) for value in values.values()])
        stacked = density.log_prob(torch.stack([*values.values()]))
        nested = density.log_prob(torch.stack([*values.values(), z]).view(2, 2, 6, 3)).flatten(0, 1)[:3]
    for what, score, other in zip(values, scores, unmoved, strict=True):
        expect_finite(score, f"log_prob of {what}")
        expect_close(score, other, f"log_prob of {what}, after sampling, compared with a fresh density", rtol=1e-9)
    expect_close(stacked, scores, "log_prob of three sets of values at once, compared with one by one", rtol=1e-9)
    expect_close(nested, scores, "log_prob of values with two sample dimensions, compared with one by one", rtol=1e-9)
    if Capability.FACTORISED in source.provides:
        with during("log_prob_per_dim of values with sample dimensions"):
            per_dim = density.log_prob_per_dim(torch.stack([*values.values()])).sum(-1)
            pairs = density.log_prob_per_dim(z.unsqueeze(1)).sum(-1)
        expect_close(per_dim, scores, "log_prob_per_dim of any value, summed, compared with log_prob", rtol=1e-9)
        if candidate.role == "posterior":
            expected = torch.stack([fresh.log_prob(row.expand(6, 3)) for row in z])
            expect_close(pairs, expected, "log_prob_per_dim of every sample under every posterior of the batch", rtol=1e-9)


@check("posterior")
def check_extremes(candidate: Candidate) -> None:
    """Samples and log densities are finite for any output of the encoder."""
    posterior = source_of(candidate, dtype=torch.float32)
    for value in (1e4, -1e4):
        q = posterior(torch.full((2, *cast("Posterior", posterior.part).param_shape), value))
        z = q.rsample(noise_of(posterior, 2, dtype=torch.float32))
        expect_finite(z, f"samples for encoder outputs of {value:g}")
        if Capability.LOG_PROB in posterior.provides:
            expect_finite(q.log_prob(z), f"log_prob of samples for encoder outputs of {value:g}")
        if returns_log_probs(q):
            stated = q.rsample_and_log_prob(noise_of(posterior, 2, dtype=torch.float32))[1]
            expect_finite(stated, f"log densities of samples for encoder outputs of {value:g}")


@check("posterior", "prior")
def check_gradient(candidate: Candidate) -> None:
    """Every parameter receives a gradient, and so does the encoder's output."""
    source = source_of(candidate)
    arguments = tuple(argument.requires_grad_() for argument in arguments_of(source, 16))
    density = source(*arguments)
    z = density.rsample(noise_of(source, 16))
    value = (z * torch.randn_like(z)).sum()
    if arguments:
        (gradient,) = torch.autograd.grad(value, arguments, retain_graph=True, allow_unused=True)
        expect(gradient is not None, "the gradient of samples to the encoder's output", expected="one", got="none")
        expect_finite(gradient, "the gradient of samples to the encoder's output")
    if Capability.LOG_PROB in source.provides:
        value = value + density.log_prob(torch.randn_like(z)).square().sum()
    if returns_log_probs(density):
        value = value + density.rsample_and_log_prob(noise_of(source, 16))[1].square().sum()
    if any(parameter.requires_grad for parameter in source.part.parameters()):
        expect_gradients(source.part, value, "from samples and log densities")


@check("posterior", "prior")
def check_gradient_of_density(candidate: Candidate) -> None:
    """The gradients of log_prob and of a posterior's samples and their log densities agree with finite differences."""
    source = source_of(candidate)
    arguments, noise = arguments_of(source), noise_of(source, 6)
    if arguments and returns_log_probs(source(*arguments)):
        what = "the derivative of samples and their log densities with respect to the encoder's output"
        expect_exact_gradient(lambda given: _sample(source, given, noise), arguments[0], what)
    if Capability.LOG_PROB not in source.provides:
        return
    z = source(*arguments).rsample(noise).detach()
    expect_exact_gradient(
        lambda value: source(*arguments).log_prob(value), z, "the derivative of log_prob with respect to the value"
    )
    for params in arguments:
        what = "with respect to the encoder's output"
        expect_exact_gradient(lambda given: source(given).rsample(noise), params, f"the derivative of samples {what}")
        expect_exact_gradient(lambda given: source(given).log_prob(z), params, f"the derivative of log_prob {what}")


@check("posterior", "prior")
def check_dtype(candidate: Candidate) -> None:
    """Float32 stays float32 and float64 stays float64; half-precision encoder outputs are promoted to float32."""
    given = [(F64, F64), (torch.float32, torch.float32)]
    if candidate.role == "posterior":
        given.append((torch.bfloat16, torch.float32))
    for emitted, expected in given:
        source = source_of(candidate, dtype=expected)
        density = source(*arguments_of(source, dtype=emitted))
        z = density.rsample(noise_of(source, 6, dtype=expected))
        got = {"samples": z, "the mean": density.mean}
        if Capability.LOG_PROB in source.provides:
            got["log_prob"] = density.log_prob(z.to(expected))
        if returns_log_probs(density):
            got["the log density"] = density.rsample_and_log_prob(noise_of(source, 6, dtype=expected))[1]
        for what, value in got.items():
            expect(
                value.dtype == expected, f"the dtype of {what} for {emitted} encoder outputs", expected=expected, got=value.dtype
            )


@check("posterior", "prior")
def check_device(candidate: Candidate) -> None:
    """It moves to another device completely: it creates no CPU tensors."""
    source = source_of(candidate, dtype=torch.float32).to("meta")
    with during("sampling on torch's meta device"):
        z = _sample(source, *(tensor.to("meta") for tensor in _inputs(source)))
    expect(z.device.type == "meta", "the device of samples", expected="meta", got=z.device.type)


@check("posterior", "prior")
def check_compile(candidate: Candidate) -> None:
    """`torch.compile` compiles sampling to a single graph that agrees with eager mode."""
    source = source_of(candidate, dtype=torch.float32)
    expect_compiles(lambda *inputs: _sample(source, *inputs), _inputs(source))


@check("posterior", "prior")
def check_state_dict(candidate: Candidate) -> None:
    """Saving the weights and loading them into a new instance gives bit-identical samples."""
    source = source_of(candidate, dtype=torch.float32)
    inputs = _inputs(source)
    expect_same_after_loading(source, source_of(candidate, dtype=torch.float32), lambda other: [_sample(other, *inputs)])


@check("posterior", "prior")
def check_state(candidate: Candidate) -> None:
    """State learned without gradients is persistent, and its next values are a pure function of a trace.

    Initial values belong to its own parameters and buffers.
    """
    source = source_of(candidate)
    part: Posterior | Prior = source.part
    x = torch.rand(20, *DATA, dtype=F64, generator=torch.Generator().manual_seed(0))
    expect_pure_state(part, source, source.model(x, generator=torch.Generator().manual_seed(0)))


def _inputs(source: Source) -> tuple[Tensor, ...]:
    return *arguments_of(source, dtype=torch.float32), noise_of(source, 6, dtype=torch.float32)


def _sample(source: nn.Module, *inputs: Tensor) -> Tensor:
    """Return samples with their log densities, if returned together, as the last element."""
    z, stated = rsample_and_log_prob(source(*inputs[:-1]), inputs[-1])
    return z if stated is None else torch.cat([z, stated.unsqueeze(-1)], -1)
