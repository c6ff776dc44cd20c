"""Checks of losses."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from vaekit.interfaces import Capability, Loss, Slot
from vaekit.model.vae import VAE
from vaekit.roles import decoders, encoders
from vaekit.testing.backbones import expect_compiles
from vaekit.testing.common import expect_gradients, expect_same_after_loading, module_of
from vaekit.testing.core import Subject, check, during, expect, expect_close, expect_finite
from vaekit.trace import Trace

LATENT_DIM, IMAGE = 3, (1, 6, 5)
NUM_DATA = 50


def loss_of(subject: Subject, dtype: torch.dtype = torch.float64) -> Loss:
    """Build the loss."""
    loss = module_of(subject, latent_dim=LATENT_DIM, image_shape=IMAGE).to(dtype)
    assert isinstance(loss, Loss)
    return loss


def vae_of(dtype: torch.dtype = torch.float64) -> VAE:
    """Build a small VAE: diagonal Gaussian, standard normal, Bernoulli pixels."""
    parts = (encoders, IMAGE, (2, LATENT_DIM)), (decoders, (LATENT_DIM,), IMAGE)
    encoder, decoder = (
        registry.build(registry.spec("mlp").model_validate({"hidden": (8,)}), in_shape=in_shape, out_shape=out_shape)
        for registry, in_shape, out_shape in parts
    )
    return VAE(encoder, decoder).to(dtype)


def inputs_of(num: int = 8, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Draw binary images, and noise for their codes."""
    return torch.rand(num, *IMAGE, dtype=dtype).round(), torch.randn(num, LATENT_DIM, dtype=dtype)


def trace_of(vae: nn.Module, x: Tensor, noise: Tensor) -> Trace:
    """Trace a forward pass in the midst of training."""
    trace: Trace = vae(x, noise, num_data=NUM_DATA, epoch=torch.tensor(1.5, device=x.device))
    return trace


@check("loss")
def check_value(subject: Subject) -> None:
    """The loss is one finite number per example, or one for a batch whose statistic it is, for a batch of one too."""
    loss, vae = loss_of(subject), vae_of()
    for num in (1, 2, 8):
        with during(f"the loss of {num} examples"):
            value = loss(trace_of(vae, *inputs_of(num)))
        shapes: set[tuple[int, ...]] = {(num,), ()} if loss.batch_statistic else {(num,)}
        allowed = " or ".join(map(str, shapes)) + ("" if loss.batch_statistic else "; () where batch_statistic is declared")
        expect(tuple(value.shape) in shapes, f"the shape for {num} examples", expected=allowed, came=tuple(value.shape))
        expect_finite(value, f"the loss of {num} examples")


@check("loss")
def check_declarations(subject: Subject) -> None:
    """What the loss covers and requires are names that assembly knows."""
    loss = loss_of(subject)
    unknown = set(loss.covers) - set(get_args(Slot))
    expect(not unknown, "covers", expected=f"some of {', '.join(get_args(Slot))}", came=set(loss.covers))
    expect(
        set(loss.requires) <= set(Capability), "requires", expected=f"some of {', '.join(Capability)}", came=set(loss.requires)
    )


@check("loss")
def check_independence(subject: Subject) -> None:
    """An example's loss does not depend on the rest of the batch, unless ``batch_statistic`` says so."""
    loss, vae = loss_of(subject), vae_of()
    if loss.batch_statistic:
        return
    x, noise = inputs_of()
    alone = torch.cat([loss(trace_of(vae, x[i : i + 1], noise[i : i + 1])) for i in range(len(x))])
    expect_close(loss(trace_of(vae, x, noise)), alone, "a batch, against its examples one by one", rtol=1e-10, atol=1e-12)


@check("loss")
def check_determinism(subject: Subject) -> None:
    """The same trace gives the same loss: its draws, if any, are not its own."""
    loss, vae = loss_of(subject).eval(), vae_of()
    inputs = inputs_of()
    values = [loss(trace_of(vae, *inputs)) for _ in range(2)]
    expect(torch.equal(*values), "the loss of one trace, twice", expected="bit-equal values", came="other ones")


@check("loss")
def check_gradient(subject: Subject) -> None:
    """The loss moves the model, and its own parameters where it has any."""
    loss, vae = loss_of(subject), vae_of()
    value = loss(trace_of(vae, *inputs_of(16))).mean()
    expect(value.requires_grad, "the loss", expected="a function of the model's parameters", came="a constant")
    expect_gradients(loss, value, "from the loss")
    gradients = [p.grad for p in vae.parameters() if p.grad is not None]
    expect(any(bool(g.any()) for g in gradients), "the gradient to the model", expected="one that is not 0", came="0")
    for gradient in gradients:
        expect_finite(gradient, "the gradient to the model")


@check("loss")
def check_purity(subject: Subject) -> None:
    """A forward pass leaves the loss's own state and the trace's latents as they were."""
    loss, trace = loss_of(subject), trace_of(vae_of(), *inputs_of())
    state, z = {name: value.clone() for name, value in loss.state_dict().items()}, trace.z.clone()
    loss(trace)
    changed = [name for name, value in loss.state_dict().items() if not torch.equal(value, state[name])]
    expect(not changed, "the state after a forward pass", expected="unchanged", came=f"{', '.join(changed)} changed")
    expect(torch.equal(trace.z, z), "the trace's latents after a forward pass", expected="unchanged", came="written into")


@check("loss")
def check_metrics(subject: Subject) -> None:
    """What the loss leaves to be logged are tensors of one number per example, or one in all."""
    trace = trace_of(vae_of(), *inputs_of())
    loss_of(subject)(trace)
    for name, value in trace.metrics.items():
        came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        expect(came in {(8,), ()}, f"the metric {name!r}", expected="a tensor of shape (8,) or ()", came=came)


@check("loss")
def check_dtype(subject: Subject) -> None:
    """Float32 agrees with float64."""
    vae = vae_of()
    x, noise = inputs_of()
    double = loss_of(subject)(trace_of(vae, x, noise))
    loss, trace = loss_of(subject, torch.float32), trace_of(vae.float(), x.float(), noise.float())
    single = loss(trace)
    expect(single.dtype == torch.float32, "the type of the loss in float32", expected=torch.float32, came=single.dtype)
    if not list(loss.parameters()):
        expect_close(single, double, "float32, against float64", rtol=1e-3, atol=1e-4)


@check("loss")
def check_device(subject: Subject) -> None:
    """The loss moves to another device whole: no tensor that it makes stays on the CPU."""
    loss, vae = loss_of(subject, torch.float32).to("meta"), vae_of(torch.float32).to("meta")
    inputs = [tensor.to("meta") for tensor in inputs_of(dtype=torch.float32)]
    with during("the loss on torch's meta device"):
        value = loss(trace_of(vae, *inputs))
    expect(value.device.type == "meta", "the device of the loss", expected="meta", came=value.device.type)


@check("loss")
def check_compile(subject: Subject) -> None:
    """`torch.compile` makes one graph of model and loss, without a break, that agrees with eager."""
    loss, vae = loss_of(subject, torch.float32), vae_of(torch.float32)
    expect_compiles(lambda *inputs: loss(trace_of(vae, *inputs)), inputs_of(dtype=torch.float32))


@check("loss")
def check_state_dict(subject: Subject) -> None:
    """Weights that are saved and loaded into a new one give a bit-equal loss."""
    loss, other, vae = loss_of(subject), loss_of(subject), vae_of()
    inputs = inputs_of()
    expect_same_after_loading(loss, other, lambda module: [module(trace_of(vae, *inputs))])
