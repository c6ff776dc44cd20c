"""Checks of likelihoods."""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.interfaces import Likelihood, Shape
from vaekit.testing.backbones import expect_compiles
from vaekit.testing.common import expect_gradients, expect_same_after_loading, module_of
from vaekit.testing.core import Subject, check, during, expect, expect_close, expect_finite

F64 = torch.float64
SIZES: tuple[Shape, ...] = ((1, 28, 28), (3, 5, 4), (4, 1, 1))


def likelihood_of(subject: Subject, image_shape: Shape = (2, 5, 4), dtype: torch.dtype = F64) -> Likelihood:
    """Build the likelihood for images of a size."""
    likelihood = module_of(subject, image_shape=image_shape).to(dtype)
    assert isinstance(likelihood, Likelihood)
    return likelihood


def params_of(likelihood: Likelihood, *batch: int, dtype: torch.dtype = F64) -> Tensor:
    """Draw what a decoder might emit."""
    return 3 * torch.randn(*batch, *likelihood.param_shape, dtype=dtype)


def images_of(likelihood: Likelihood, num: int = 6, dtype: torch.dtype = F64) -> Tensor:
    """Draw images that the likelihood scores: binary ones where it is a mass on binary pixels."""
    x = torch.rand(num, *likelihood.image_shape, dtype=dtype)
    return x if likelihood.continuous else x.round()


@check("likelihood")
def check_scores(subject: Subject) -> None:
    """Each image has one finite log-likelihood, under each of several samples; means have the image's shape and range."""
    for image_shape in SIZES:
        likelihood = likelihood_of(subject, image_shape)
        with during(f"p(x|z) over images of {image_shape}"):
            p = likelihood(params_of(likelihood, 2, 6))
            value = p.log_prob(images_of(likelihood))
            draws = p.rsample(torch.rand(2, 6, *image_shape, dtype=F64))
        expect(value.shape == (2, 6), "the shape of log_prob for 2 samples of 6 images", expected=(2, 6), came=tuple(value.shape))
        expect_finite(value, "log_prob of images")
        for what, came in (("the mean", p.mean), ("a draw", draws)):
            expected = (2, 6, *image_shape)
            expect(came.shape == expected, f"the shape of {what}", expected=expected, came=tuple(came.shape))
        low, high = p.mean.min().item(), p.mean.max().item()
        if likelihood.support == "unit":
            expect(low >= 0 and high <= 1, "means, the support being 'unit'", expected="within [0, 1]", came=f"{low} to {high}")


@check("likelihood")
def check_independence(subject: Subject) -> None:
    """An image's log-likelihood does not depend on the rest of the batch."""
    likelihood = likelihood_of(subject).eval()
    params, x = params_of(likelihood, 6), images_of(likelihood)
    alone = torch.cat([likelihood(params[i : i + 1]).log_prob(x[i : i + 1]) for i in range(6)])
    expect_close(likelihood(params).log_prob(x), alone, "a batch, against its images one by one", rtol=1e-10)


@check("likelihood")
def check_mean_scores_best(subject: Subject) -> None:
    """The mean image, rounded where pixels are binary, scores above one that is half the range away or more."""
    likelihood = likelihood_of(subject)
    p = likelihood(params_of(likelihood, 6))
    near, far = p.mean if likelihood.continuous else p.mean.round(), 1 - p.mean.round()
    came = (p.log_prob(near) - p.log_prob(far)).min().item()
    expect(came > 0, "log_prob of the mean over that of another image", expected="above 0", came=f"{came:.3f}")


@check("likelihood")
def check_normalised(subject: Subject) -> None:
    """Where ``normalised`` is declared, the likelihood of one pixel sums or integrates to 1."""
    likelihood = likelihood_of(subject, (1, 1, 1))
    if not likelihood.normalised:
        return
    params = params_of(likelihood, 1)

    def density(values: Tensor) -> Tensor:
        pixel = likelihood(params.expand(len(values), *params.shape[1:]))
        mass: Tensor = pixel.log_prob(values.view(-1, 1, 1, 1)).exp()
        return mass

    if likelihood.continuous:  # it may live on [0, 1] or on all reals
        grids = torch.linspace(0, 1, 20_001, dtype=F64), torch.linspace(-50, 50, 1_000_001, dtype=F64)
        masses = [torch.trapezoid(density(grid), grid).item() for grid in grids]
    else:
        masses = [density(torch.tensor([0.0, 1.0], dtype=F64)).sum().item()]
    expect(any(abs(mass - 1) < 1e-3 for mass in masses), "the mass of one pixel", expected=1, came=masses)


@check("likelihood")
def check_gradient(subject: Subject) -> None:
    """A gradient reaches the decoder's output and every parameter of the likelihood."""
    likelihood = likelihood_of(subject)
    params = params_of(likelihood, 6).requires_grad_()
    value = likelihood(params).log_prob(images_of(likelihood)).sum()
    (gradient,) = torch.autograd.grad(value, params, retain_graph=True, allow_unused=True)
    expect(gradient is not None and bool(gradient.any()), "the gradient to the decoder's output", expected="one", came="none")
    expect_finite(gradient, "the gradient to the decoder's output")
    expect_gradients(likelihood, value, "from log_prob")


@check("likelihood")
def check_extremes(subject: Subject) -> None:
    """Log-likelihoods are finite where the decoder emits 1e4."""
    likelihood = likelihood_of(subject, dtype=torch.float32)
    for value in (1e4, -1e4):
        p = likelihood(torch.full((6, *likelihood.param_shape), value))
        expect_finite(p.log_prob(images_of(likelihood, dtype=torch.float32)), f"log_prob where the decoder emits {value:g}")


@check("likelihood")
def check_dtype(subject: Subject) -> None:
    """Float64 stays float64; what a half-precision decoder emits is scored in float32."""
    for given, expected in ((F64, F64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)):
        likelihood = likelihood_of(subject, dtype=expected)
        p = likelihood(params_of(likelihood, 6, dtype=given))
        for what, came in (("the mean", p.mean), ("log_prob", p.log_prob(images_of(likelihood, dtype=expected)))):
            expect(came.dtype == expected, f"the type of {what} for {given}", expected=expected, came=came.dtype)


@check("likelihood")
def check_device(subject: Subject) -> None:
    """It moves to another device whole: no tensor that it makes stays on the CPU."""
    likelihood = likelihood_of(subject, dtype=torch.float32).to("meta")
    params, x = params_of(likelihood, 6, dtype=torch.float32), images_of(likelihood, dtype=torch.float32)
    with during("scoring on torch's meta device"):
        value = likelihood(params.to("meta")).log_prob(x.to("meta"))
    expect(value.device.type == "meta", "the device of log_prob", expected="meta", came=value.device.type)


@check("likelihood")
def check_compile(subject: Subject) -> None:
    """`torch.compile` makes one graph of scoring, without a break, that agrees with eager."""
    likelihood = likelihood_of(subject, dtype=torch.float32)
    arguments = params_of(likelihood, 6, dtype=torch.float32), images_of(likelihood, dtype=torch.float32)
    expect_compiles(lambda params, x: likelihood(params).log_prob(x), arguments)


@check("likelihood")
def check_state_dict(subject: Subject) -> None:
    """Weights that are saved and loaded into a new one give bit-equal scores."""
    likelihood, other = likelihood_of(subject), likelihood_of(subject)
    params, x = params_of(likelihood, 6), images_of(likelihood)
    expect_same_after_loading(likelihood, other, lambda module: [module(params).log_prob(x)])
