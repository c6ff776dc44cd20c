"""Checks of encoders and decoders."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vaekit.errors import UsageError
from vaekit.interfaces import Backbone, Shape
from vaekit.testing.common import expect_gradients, expect_same_after_loading, expect_stackable, module_of
from vaekit.testing.core import Candidate, check, during, expect, expect_close, expect_finite

LATENT_DIM = 5
USUAL_SIZES: tuple[Shape, ...] = ((1, 28, 28), (3, 32, 32))
OTHER_SIZES: tuple[Shape, ...] = (
    (1, 31, 47),
    (3, 13, 18),
    (4, 28, 20),
    (1, 2, 9),
    (3, 1, 1),
    (3, 64, 64),
    (3, 150, 150),
    (3, 178, 218),
    (7,),
    (2, 9),
    (1, 128),
    (2, 3, 5, 4),
    (1, 16, 16, 16),
)


OTHER_RANKS: tuple[Shape, ...] = ((7,), (2, 9), (2, 3, 5, 4))
"""The shapes of a table row, a signal and a volume."""


def wiring_of(candidate: Candidate, data_shape: Shape) -> dict[str, Shape]:
    """Return the shapes that assembly passes to an encoder or decoder for data of a given shape."""
    if candidate.role == "encoder":
        return {"in_shape": data_shape, "out_shape": (2, LATENT_DIM)}
    return {"in_shape": (LATENT_DIM,), "out_shape": data_shape}


def backbone_of(candidate: Candidate, data_shape: Shape = (3, 32, 32)) -> Backbone:
    """Build the backbone for data of a given shape."""
    backbone: Backbone = module_of(candidate, **wiring_of(candidate, data_shape))
    return backbone


def accepted_of(candidate: Candidate, *data_shapes: Shape) -> list[Backbone]:
    """Build the backbone for each shape that it does not reject with a `UsageError`."""
    accepted = []
    for data_shape in data_shapes:
        try:
            accepted.append(candidate.build(**wiring_of(candidate, data_shape)))
        except UsageError:
            continue
    return accepted


def inputs_of(backbone: Backbone, num: int = 3, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    """Draw random inputs for a backbone."""
    return torch.randn(num, *backbone.in_shape, dtype=dtype).to(device)


@check("encoder", "decoder")
def check_output_shape(candidate: Candidate) -> None:
    """Outputs have the requested shape; images of any size, tables, signals and volumes work or raise a `UsageError`."""
    for data_shape in USUAL_SIZES + OTHER_SIZES:
        if data_shape in USUAL_SIZES:
            backbones = [backbone_of(candidate, data_shape)]
        else:
            with during(f"building it for data of shape {data_shape}; unsupported shapes must raise a UsageError"):
                backbones = accepted_of(candidate, data_shape)
        for backbone in backbones:
            shapes = wiring_of(candidate, data_shape)
            got = {name: getattr(backbone, name, None) for name in shapes}
            expect(got == shapes, "the attributes in_shape and out_shape", expected=shapes, got=got)
            for num in (1, 2):
                with during(f"a batch of {num} for data of shape {data_shape}"):
                    output = backbone(inputs_of(backbone, num))
                expected = (num, *shapes["out_shape"])
                what = f"the output shape for {num} examples of {data_shape}"
                expect(tuple(output.shape) == expected, what, expected=expected, got=tuple(output.shape))


@check("encoder", "decoder")
def check_gradient(candidate: Candidate) -> None:
    """Every parameter receives a gradient above rounding noise, unlike, for example, a bias before a normalisation."""
    for backbone in [backbone_of(candidate), *accepted_of(candidate, (3, 13, 18), (1, 1, 1), *OTHER_RANKS)]:
        output = backbone.double()(inputs_of(backbone, 16, torch.float64))
        shapes = f"from {backbone.in_shape} to {backbone.out_shape}"
        expect_gradients(backbone, (output * torch.randn_like(output)).sum(), shapes)


@check("encoder", "decoder")
def check_independence(candidate: Candidate) -> None:
    """In eval mode, the output for an example does not depend on the rest of the batch."""
    backbone = backbone_of(candidate).double().eval()
    x = inputs_of(backbone, 5, torch.float64)
    alone = torch.cat([backbone(example[None]) for example in x])
    expect_close(backbone(x), alone, "a batch, compared with its examples one by one", rtol=1e-10, atol=1e-12)


@check("encoder", "decoder")
def check_determinism(candidate: Candidate) -> None:
    """In eval mode, the same input gives bit-identical outputs."""
    backbone = backbone_of(candidate).eval()
    x = inputs_of(backbone)
    expect(torch.equal(backbone(x), backbone(x)), "the same input twice", expected="bit-identical outputs", got="different ones")


@check("encoder", "decoder")
def check_purity(candidate: Candidate) -> None:
    """A forward pass, even in training mode, modifies neither parameters nor buffers nor its input."""
    backbone = backbone_of(candidate).train()
    before, x = copy.deepcopy(backbone.state_dict()), inputs_of(backbone)
    given = x.clone()
    backbone(x)
    changed = [name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])]
    expect(not changed, "the state after a forward pass", expected="unchanged", got=f"{', '.join(changed)} changed")
    expect(torch.equal(x, given), "the input after a forward pass", expected="unchanged", got="modified")


@check("encoder", "decoder")
def check_state_dict(candidate: Candidate) -> None:
    """Saving the weights and loading them into a new backbone gives bit-identical outputs."""
    backbone, other = backbone_of(candidate).eval(), backbone_of(candidate).eval()
    x = inputs_of(backbone)
    expect_same_after_loading(backbone, other, lambda module: [module(x)])


@check("encoder", "decoder")
def check_dtype(candidate: Candidate) -> None:
    """Float32 inputs give float32 outputs, float64 inputs give float64 outputs, and both agree."""
    backbone = backbone_of(candidate).eval()
    x = inputs_of(backbone)
    single = backbone(x)
    with during("a forward pass in float64"):
        double = backbone.double()(x.double())
    for expected, got in ((torch.float32, single.dtype), (torch.float64, double.dtype)):
        expect(got == expected, f"the output dtype for {expected}", expected=expected, got=got)
    expect_close(single, double, "float32, compared with float64", rtol=1e-4, atol=1e-5)


@check("encoder", "decoder")
def check_device(candidate: Candidate) -> None:
    """The backbone moves to another device completely: `forward` creates no CPU tensors."""
    backbone = backbone_of(candidate).eval()
    x = inputs_of(backbone)
    expected = backbone(x)
    if torch.cuda.is_available():
        moved = copy.deepcopy(backbone).to("cuda")
        with during("a forward pass on the GPU"):
            output = moved(x.to("cuda"))
        expect_close(output.cpu(), expected, "the GPU, compared with the CPU", rtol=1e-2)  # convolutions may use TF32
    with during("a forward pass on torch's meta device"):
        output = backbone.to("meta")(x.to("meta"))
    expect(output.device.type == "meta", "the output's device", expected="meta", got=output.device.type)


@check("encoder", "decoder")
def check_autocast(candidate: Candidate) -> None:
    """Under bfloat16 autocast, outputs are close to those in float32 and gradients are finite."""
    backbone = backbone_of(candidate).eval()
    x = inputs_of(backbone)
    with during("a forward and a backward pass under bfloat16 autocast"), torch.autocast("cpu", torch.bfloat16):
        output = backbone(x)
    output.float().square().sum().backward()
    # bfloat16 has 8 significant bits: a relative error of 2^-8 per layer
    expect_close(output, backbone(x), "bfloat16 autocast, compared with float32", rtol=0.1, atol=0.1)
    for name, parameter in backbone.named_parameters():
        if parameter.grad is not None:
            expect_finite(parameter.grad, f"the gradient of {name} under autocast")


@check("encoder", "decoder")
def check_compile(candidate: Candidate) -> None:
    """`torch.compile` compiles it to a single graph that agrees with eager mode."""
    backbone = backbone_of(candidate).eval()
    expect_compiles(backbone, (inputs_of(backbone),))


def expect_compiles(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Raise unless a function of tensors compiles to a single graph that agrees with eager mode."""
    from vaekit.export.graph import silence

    torch.compiler.reset()
    with during("torch.compile(…, fullgraph=True)"), silence():
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True)(*arguments)
    expect_close(compiled, function(*arguments), "compiled, compared with eager", rtol=1e-5, atol=1e-6)


@check("encoder", "decoder")
def check_vmap(candidate: Candidate) -> None:
    """Backbones stacked with `torch.vmap`, as in sweeps, have the same outputs and gradients as separate ones."""
    pairs = [[backbone_of(candidate) for _ in range(2)]]
    pairs += [[backbone, *accepted_of(candidate, shape)] for shape in OTHER_RANKS for backbone in accepted_of(candidate, shape)]
    for backbones in pairs:
        expect_stackable([backbone.double().eval() for backbone in backbones], inputs_of(backbones[0], dtype=torch.float64))


@check("decoder")
def check_onnx(candidate: Candidate) -> None:
    """The decoder exported to ONNX agrees with torch for batch sizes 1, 2 and 3."""
    import onnxruntime

    from vaekit.export.graph import to_onnx
    from vaekit.export.parts import Part, Port

    for decoder in [backbone_of(candidate), *accepted_of(candidate, *OTHER_RANKS)]:
        latent, params, inputs = Port("latent", decoder.in_shape), Port("params", decoder.out_shape), inputs_of(decoder, 3)
        part = Part("decoder", decoder.eval(), (latent,), (params,), reference=decoder, examples=(inputs,))
        with during(f"exporting it for data of shape {decoder.out_shape} to ONNX (opset 18), as `vaekit export` does"):
            session = onnxruntime.InferenceSession(to_onnx(part, 18).SerializeToString(), providers=["CPUExecutionProvider"])
            outputs = [torch.from_numpy(session.run(None, {latent.name: inputs[:num].numpy()})[0]) for num in (1, 2, 3)]
        for num, output in enumerate(outputs, 1):
            what = f"ONNX with a batch of {num}, compared with torch"
            expect_close(output, part.expected([inputs[:num]])[0], what, rtol=1e-4, atol=1e-5)
