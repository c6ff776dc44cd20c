"""Checks of losses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from vaekit.distributions import DiagonalGaussian
from vaekit.errors import UsageError
from vaekit.interfaces import MODEL_PARTS, Aim, Capability, Loss, Posterior, Prior, Slot, required_of_prior
from vaekit.model.vae import VAE
from vaekit.roles import decoders, encoders, posteriors, priors
from vaekit.testing.backbones import expect_compiles
from vaekit.testing.common import expect_gradients, expect_pure_state, expect_same_after_loading, expect_stackable, module_of
from vaekit.testing.core import Candidate, ConformanceError, check, during, expect, expect_close, expect_finite
from vaekit.testing.densities import METHODS
from vaekit.testing.statistics import ERRORS, expect_mean
from vaekit.trace import Elsewhere, Site, Trace

LATENT_DIM, IMAGE, NUM_CLASSES = 3, (1, 6, 5), 4
NUM_DATA = 50
BATCH, NUM_BATCHES = 16, 64
"""Size and number of batches for estimating an expectation."""


def loss_of(candidate: Candidate, dtype: torch.dtype = torch.float64) -> Loss:
    """Build the loss."""
    loss: Loss = module_of(candidate, dtype, latent_dim=LATENT_DIM, data_shape=IMAGE, num_classes=NUM_CLASSES)
    return loss


def vae_of(loss: Loss, dtype: torch.dtype = torch.float64, *, prior: str | None = None) -> VAE:
    """Build a small VAE of Bernoulli pixels with a diagonal Gaussian posterior or the first one compatible with the loss.

    Args:
        loss: The loss.
        dtype: The dtype of the parameters.
        prior: The prior; default: see `prior_for`.
    """
    cls = next(each for kind in ("gaussian", *posteriors.kinds()) if loss.requires <= (each := posteriors.get(kind)).provides)
    shapes = {"latent_dim": LATENT_DIM, "latent_shape": (LATENT_DIM,), "data_shape": IMAGE}
    posterior: Posterior = posteriors.build(posteriors.spec(cls.kind)(kind=cls.kind), **shapes)
    prior = prior or prior_for(loss, cls)
    sizes = {"code_sizes": posterior.code_sizes, "condition_size": 0}
    density: Prior = priors.build(priors.spec(prior)(kind=prior), **shapes, **sizes)
    parts = (encoders, IMAGE, posterior.param_shape), (decoders, (LATENT_DIM,), IMAGE)
    encoder, decoder = (
        registry.build(registry.spec("mlp").model_validate({"hidden": (8,)}), in_shape=in_shape, out_shape=out_shape)
        for registry, in_shape, out_shape in parts
    )
    return VAE(encoder, decoder, posterior=posterior, prior=density).to(dtype)


def prior_for(loss: Loss, posterior: type[Posterior]) -> str:
    """Return the posterior's default prior or the first one on its space with the capabilities required by the loss."""
    required = required_of_prior(loss.requires) if loss.requires_of_prior is None else loss.requires_of_prior
    kinds = [kind for kind in (posterior.default_prior, *priors.kinds()) if priors.get(kind).space == posterior.space]
    return next((kind for kind in kinds if required <= priors.get(kind).provides), posterior.default_prior)


class Inputs(NamedTuple):
    """Images, labels, the noise of the codes, and the losses' own noise by name."""

    x: Tensor
    y: Tensor
    noise: Tensor
    draws: dict[str, Tensor]

    def to(self, kind: torch.dtype | str) -> Inputs:
        """Return the inputs with another floating-point dtype or on another device."""
        draws = {name: draw.to(kind) for name, draw in self.draws.items()}
        y = self.y.to(kind) if isinstance(kind, str) else self.y
        return Inputs(self.x.to(kind), y, self.noise.to(kind), draws)


def inputs_of(candidate: Candidate, loss: Loss, vae: VAE, num: int = 8, dtype: torch.dtype = torch.float64) -> Inputs:
    """Return random binary images, labels, noise for the samples requested by the loss, and the loss's own noise."""
    x = torch.rand(num, *IMAGE, dtype=dtype).round()
    noise = torch.randn(*(loss.samples or ()), num, LATENT_DIM, dtype=dtype)
    drawn = loss.draw_noise(num, like=x, model=vae)
    y = torch.arange(num) % NUM_CLASSES
    return Inputs(x, y, noise, {} if drawn is None else {candidate.kind: drawn})


def trace_of(vae: nn.Module, inputs: Inputs) -> Trace:
    """Trace a forward pass at half of training."""
    x, y, noise, draws = inputs
    trace: Trace = vae(x, noise, y=y, num_data=NUM_DATA, epoch=torch.tensor(1.5, device=x.device), draws=draws)
    return trace


def values_of(loss: Loss, trace: Trace) -> dict[str, Tensor]:
    """Return the value of each aim of the loss."""
    return {name: getattr(loss, aim.method)(trace) for name, aim in (loss.aims() or {"loss": Aim()}).items()}


@check("loss")
def check_value(candidate: Candidate) -> None:
    """Each aim is a finite number per example or, for batch statistics, per batch; a batch of one works as well."""
    loss = loss_of(candidate)
    vae = vae_of(loss)
    for num in (1, 2, 8):
        with during(f"the loss of {num} examples"):
            values = values_of(loss, trace_of(vae, inputs_of(candidate, loss, vae, num)))
        shapes: set[tuple[int, ...]] = {(num,), ()} if loss.batch_statistic else {(num,)}
        allowed = " or ".join(map(str, shapes)) + ("" if loss.batch_statistic else "; () where batch_statistic is declared")
        for name, value in values.items():
            got = tuple(value.shape)
            expect(got in shapes, f"the shape of the {name} for {num} examples", expected=allowed, got=got)
            expect_finite(value, f"the {name} of {num} examples")


@check("loss")
def check_aims(candidate: Candidate) -> None:
    """Each aim names a method of the loss, parts of the model and networks of the loss; at least one aim is judged."""
    loss = loss_of(candidate)
    aims = loss.aims() or {"loss": Aim()}
    for name, aim in aims.items():
        expect(callable(getattr(loss, aim.method, None)), f"the method of the aim {name!r}", expected="a method", got=aim.method)
        unknown = sorted(set(aim.moves) - set(MODEL_PARTS))
        expect(not unknown, f"what the aim {name!r} moves", expected=f"some of {', '.join(MODEL_PARTS)}", got=unknown)
        absent = [own for own in aim.own if not isinstance(getattr(loss, own, None), nn.Module | nn.Parameter)]
        expect(not absent, f"the networks of the aim {name!r}", expected="attributes of the loss", got=absent)
    expect(any(aim.judged for aim in aims.values()), "aims that are judged", expected="one or more", got="none")


@check("loss")
def check_declarations(candidate: Candidate) -> None:
    """The loss declares existing slots, capabilities and spaces, and covers the same slots once built."""
    declared, loss = candidate.cls.declare(candidate.keywords), loss_of(candidate)
    spaces = {posteriors.get(kind).space for kind in posteriors.kinds()}
    provided = {each for kind in posteriors.kinds() for each in posteriors.get(kind).provides} | set(Capability)
    for what, names, known in (
        ("covers", declared.covers, get_args(Slot)),
        ("requires", declared.requires, sorted(provided)),
        ("spaces", declared.spaces or (), sorted(spaces)),
    ):
        expect(set(names) <= set(known), what, expected=f"some of {', '.join(known)}", got=set(names))
    expect(set(loss.covers) == set(declared.covers), "covers, once built", expected=set(declared.covers), got=set(loss.covers))


@check("loss")
def check_requirements(candidate: Candidate) -> None:
    """The loss works with any posterior and prior that provide the required capabilities or rejects them with a `UsageError`."""
    declared, loss = candidate.cls.declare(candidate.keywords), loss_of(candidate)
    required, of_prior = declared.requires, declared.requires_of_prior
    if not required | of_prior <= METHODS.keys():  # capabilities of special distributions
        return
    vae = vae_of(loss)
    inputs = inputs_of(candidate, loss, vae)
    trace = trace_of(vae, inputs)
    q, p = least_of(required, trace.site.q), least_of(of_prior, trace.site.p)
    known = {Capability.LOG_PROB, Capability.LOG_PROB_OF_DRAWS} & required
    site = Site.drawn(q, inputs.noise, p, has_density=bool(known))
    provided = [
        ", ".join(["mean", "rsample", *(METHODS[each] for each in Capability if each in some)]) for some in (required, of_prior)
    ]
    who = "a posterior and a prior that have {}" if required == of_prior else "a posterior that has {}, and a prior that has {},"
    try:
        with during(f"the loss of {who.format(*provided)} and nothing else"):
            value = loss(replace(trace, sites=(site,)))
    except ConformanceError as error:
        if isinstance(error.__cause__, UsageError):
            return
        raise
    expect_finite(value, "the loss of a posterior and a prior that have no more than it requires")


def least_of(required: frozenset[Capability], density: Any) -> Any:
    """Reduce a factorised density to the methods of a distribution and of the required capabilities."""

    def rsample_and_log_prob(noise: Tensor) -> tuple[Tensor, Tensor]:
        z = density.rsample(noise)
        return z, density.log_prob(z)

    names = ["rsample", *(METHODS[each] for each in required)]
    methods = {name: staticmethod(getattr(density, name, rsample_and_log_prob)) for name in names}
    return type("Least", (), {"mean": density.mean, **methods})()


@check("loss")
def check_coverage(candidate: Candidate) -> None:
    """A loss that covers the divergence is never below 0, and 0 for q = p; one that covers the reconstruction is -log p(x|z).

    Let R be -log p(x|z), averaged over samples before the logarithm, if the loss covers the reconstruction, else 0. On average,
    the loss must exceed R:

    * If the loss does not cover the divergence: by 0.
    * If it does: never by less than 0; by 0 for q = p; by more than 0 if q is far from p. The last two must hold at the start
    of training, at its end, or both, since a weight or target capacity may grow from 0.

    This is only required for the default options. Others may shift a term by a constant, like free bits and the weighted
    estimator of total correlation. A loss that replaces a divergence without being one, such as an adversarial loss, lists this
    check among its expected failures.
    """
    candidate = candidate.by_default
    loss = loss_of(candidate).eval()
    vae = vae_of(loss).requires_grad_(False)
    covers = candidate.cls.declare(candidate.keywords).covers
    if not covers:
        return
    zero = torch.zeros(BATCH, LATENT_DIM, dtype=torch.float64)

    def excess(far: float, epoch: float) -> Tensor:
        values = []
        for _ in range(NUM_BATCHES):
            x, y, noise, draws = inputs_of(candidate, loss, vae, BATCH)
            q = DiagonalGaussian(zero + far, zero - far)
            time = torch.tensor(epoch, dtype=torch.float64)
            trace = vae.trace_from(q, noise, x, y=y, num_data=20 * BATCH, epoch=time, draws=draws)
            base = -_log_mean(trace.log_likelihood) if "reconstruction" in covers else torch.zeros(())
            values.append((loss(trace) - base).mean().detach())
        return torch.stack(values)

    times = {"at the start of training": 0.0, "at its end": math.inf}
    equal, other = ({when: excess(far, epoch) for when, epoch in times.items()} for far in (0.0, 1.5))
    over = "the loss" + (", less -log p(x|z)," if "reconstruction" in covers else "")
    if "divergence" not in covers:
        for when, values in other.items():
            expect_mean(values, 0.0, f"{over} {when}", atol=1e-6)
        return
    for where, each in (("where q = p", equal), ("where q is far from p", other)):
        for when, values in each.items():
            highest = _bounds(values)[1]
            expect(highest >= 0, f"{over} {where}, {when}", expected="0 or more on average", got=f"{values.mean():.4g}")
    zeros = [low <= 0 <= high for low, high in map(_bounds, equal.values())]
    expect(any(zeros), f"{over} where q = p, at either end of training", expected=0, got=_means(equal))
    above = [low > 0 for low, _ in map(_bounds, other.values())]
    expect(any(above), f"{over} where q is far from p, at either end of training", expected="above 0", got=_means(other))


def _log_mean(log_values: Tensor) -> Tensor:
    """Return the log of the mean of ``exp(log_values)`` ``(*S, B)`` over samples, ``(B,)``."""
    flat = log_values.reshape(-1, log_values.shape[-1])
    return torch.logsumexp(flat, 0) - math.log(len(flat))


def _bounds(values: Tensor) -> tuple[float, float]:
    """Return a confidence interval for the mean of ``(N,)`` values."""
    mean, error = values.mean().item(), ERRORS * values.std().item() / math.sqrt(len(values)) + 1e-6
    return mean - error, mean + error


def _means(values: dict[str, Tensor]) -> str:
    return ", ".join(f"{each.mean():.4g} {when}" for when, each in values.items())


@check("loss")
def check_independence(candidate: Candidate) -> None:
    """The loss of an example does not depend on the rest of the batch unless ``batch_statistic`` is set."""
    loss = loss_of(candidate)
    vae = vae_of(loss)
    if loss.batch_statistic:
        return
    inputs = inputs_of(candidate, loss, vae)
    x, y, noise, draws = inputs
    parts = [slice(i, i + 1) for i in range(len(x))]
    each = [Inputs(x[i], y[i], noise[..., i, :], {kind: draw[i] for kind, draw in draws.items()}) for i in parts]
    alone = torch.cat([loss(trace_of(vae, part)) for part in each])
    expect_close(loss(trace_of(vae, inputs)), alone, "a batch, compared with its examples one by one", rtol=1e-10, atol=1e-12)


@check("loss")
def check_determinism(candidate: Candidate) -> None:
    """The same trace always gives the same loss: random numbers are only drawn in ``draw_noise``."""
    loss = loss_of(candidate).eval()
    vae = vae_of(loss)
    inputs = inputs_of(candidate, loss, vae)
    values = [loss(trace_of(vae, inputs)) for _ in range(2)]
    expect(torch.equal(*values), "the loss of the same trace, twice", expected="bit-identical values", got="different ones")


@check("loss")
def check_draws(candidate: Candidate) -> None:
    """The loss's own noise has one row per example, depends only on the generator, and is sufficient to compute the loss.

    It is checked with the default prior and, if supported, with a mixture, since the noise may depend on the model.
    """
    loss, required = loss_of(candidate), candidate.cls.declare(candidate.keywords).requires_of_prior
    models, mixture = [vae_of(loss)], priors.get("mixture")
    if required <= mixture.provides and models[0].posterior.space == mixture.space:
        models.append(vae_of(loss, prior="mixture"))
    like = torch.zeros((), dtype=torch.float64)
    for vae in models:
        about = f"a model with the prior {vae.prior.kind!r}"
        for num in (1, 8):
            what = f"the noise for {num} examples and {about}"
            with during(what):
                one, other = (loss.draw_noise(num, torch.Generator().manual_seed(0), like=like, model=vae) for _ in range(2))
            if one is None or other is None:
                expect(one is other, what, expected="always None, or never", got="None at times")
                continue
            expect(isinstance(one, Tensor), what, expected="a tensor or None", got=type(one).__name__)
            expect(one.shape[:1] == (num,), f"the shape of {what}", expected=f"({num}, ...)", got=tuple(one.shape))
            expect(one.dtype == like.dtype, f"the type of {what}", expected=like.dtype, got=one.dtype)
            expect(not one.requires_grad, what, expected="no gradient", got="a gradient")
            expect(torch.equal(one, other), f"{what}, from equal generators", expected="equal draws", got="different draws")
        with during(f"the loss of {about}"):
            value = loss(trace_of(vae, inputs_of(candidate, loss, vae)))
        expect_finite(value, f"the loss of {about}")


@check("loss")
def check_gradient(candidate: Candidate) -> None:
    """The model receives a gradient from the loss, and every parameter of the loss from the aim that trains it."""
    loss = loss_of(candidate)
    vae = vae_of(loss)
    aims = loss.aims() or {"loss": Aim()}
    named = {f"{own}.{name}" for aim in aims.values() for own in aim.own for name, _ in getattr(loss, own).named_parameters()}
    others = {name.replace(".", "_"): p for name, p in loss.named_parameters() if name not in named}
    for number, (name, aim) in enumerate(aims.items()):
        value = values_of(loss, trace_of(vae, inputs_of(candidate, loss, vae, 16)))[name]
        expect(value.requires_grad, f"the {name}", expected="a function of parameters", got="a constant")
        loss.zero_grad()
        moved = nn.ModuleDict({own: getattr(loss, own) for own in aim.own})
        if number == 0:  # networks that no aim names are trained by the first aim
            moved["loss"] = nn.ParameterDict(others)
        expect_gradients(moved, value.mean(), f"from the {name}")
    gradients = [p.grad for p in vae.parameters() if p.grad is not None]
    expect(any(bool(g.any()) for g in gradients), "the gradient to the model", expected="one that is not 0", got="0")
    for gradient in gradients:
        expect_finite(gradient, "the gradient to the model")


@check("loss")
def check_purity(candidate: Candidate) -> None:
    """A forward pass modifies neither the state of the loss nor the latents of the trace."""
    loss = loss_of(candidate)
    vae = vae_of(loss)
    trace = trace_of(vae, inputs_of(candidate, loss, vae))
    state, z = {name: value.clone() for name, value in loss.state_dict().items()}, trace.z.clone()
    loss(trace)
    changed = [name for name, value in loss.state_dict().items() if not torch.equal(value, state[name])]
    expect(not changed, "the state after a forward pass", expected="unchanged", got=f"{', '.join(changed)} changed")
    expect(torch.equal(trace.z, z), "the trace's latents after a forward pass", expected="unchanged", got="modified")


@check("loss")
def check_metrics(candidate: Candidate) -> None:
    """Each metric logged by the loss is a tensor with one number per example or a single number."""
    loss = loss_of(candidate)
    vae = vae_of(loss)
    trace = trace_of(vae, inputs_of(candidate, loss, vae))
    loss(trace)
    for name, value in trace.metrics.items():
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        expect(got in {(8,), ()}, f"the metric {name!r}", expected="a tensor of shape (8,) or ()", got=got)


@check("loss")
def check_dtype(candidate: Candidate) -> None:
    """Float32 traces give float32 losses that agree with float64."""
    loss = loss_of(candidate)
    vae = vae_of(loss)
    inputs = inputs_of(candidate, loss, vae)
    double = loss(trace_of(vae, inputs))
    loss, trace = loss_of(candidate, torch.float32), trace_of(vae.float(), inputs.to(torch.float32))
    single = loss(trace)
    expect(single.dtype == torch.float32, "the dtype of the loss for float32", expected=torch.float32, got=single.dtype)
    if not list(loss.parameters()):
        expect_close(single, double, "float32, compared with float64", rtol=1e-3, atol=1e-4)


@check("loss")
def check_device(candidate: Candidate) -> None:
    """The loss moves to another device completely: it creates no CPU tensors."""
    loss = loss_of(candidate, torch.float32)
    vae = vae_of(loss, torch.float32)
    inputs = inputs_of(candidate, loss, vae, dtype=torch.float32).to("meta")
    with during("the loss on torch's meta device"):
        value = loss.to("meta")(trace_of(vae.to("meta"), inputs))
    expect(value.device.type == "meta", "the device of the loss", expected="meta", got=value.device.type)


@check("loss")
def check_compile(candidate: Candidate) -> None:
    """`torch.compile` compiles model and loss to a single graph that agrees with eager mode."""
    loss = loss_of(candidate, torch.float32)
    vae = vae_of(loss, torch.float32)
    inputs = inputs_of(candidate, loss, vae, dtype=torch.float32)
    expect_compiles(lambda *inputs: loss(trace_of(vae, Inputs(*inputs))), inputs)


class _Model(nn.Module):
    """A small VAE and its loss."""

    def __init__(self, vae: VAE, loss: Loss) -> None:
        super().__init__()
        self.vae, self.loss = vae, loss

    def forward(self, *inputs: Any) -> Tensor:
        value: Tensor = self.loss(trace_of(self.vae, Inputs(*inputs)))
        return value


@check("loss")
def check_vmap(candidate: Candidate) -> None:
    """Models stacked with `torch.vmap`, as in sweeps, have the same losses and gradients as separate ones."""
    losses = [loss_of(candidate) for _ in range(2)]
    models = [_Model(vae_of(loss), loss).eval() for loss in losses]
    expect_stackable(models, *inputs_of(candidate, losses[0], models[0].vae))


@check("loss")
def check_state(candidate: Candidate) -> None:
    """State learned without gradients is persistent, and its next values are a pure function of a trace.

    If several processes share the batch, the trace has latents, labels and the log-likelihood, but no images.
    """
    loss = loss_of(candidate)
    vae = vae_of(loss)
    trace = trace_of(vae, inputs_of(candidate, loss, vae, 16))
    expect_pure_state(loss, loss, trace)
    absent: Any = Elsewhere()
    shared = replace(trace, x=absent, decoded=absent, _log_likelihood=trace.log_likelihood)
    with torch.no_grad(), during("computing its next state from a batch that several processes share"):
        here, there = loss.next_state(trace), loss.next_state(shared)
    for name, value in here.items():
        expect_close(there[name], value, f"the next {name} of a batch that several processes share", rtol=1e-12, atol=0)


@check("loss")
def check_state_dict(candidate: Candidate) -> None:
    """Saving the weights and loading them into a new instance gives a bit-identical loss."""
    loss, other = loss_of(candidate), loss_of(candidate)
    vae = vae_of(loss)
    inputs = inputs_of(candidate, loss, vae)
    expect_same_after_loading(loss, other, lambda module: [module(trace_of(vae, inputs))])
