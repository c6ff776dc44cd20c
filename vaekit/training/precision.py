"""The precision of the matrix products of training."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vaekit.compute.device import has_bf16
from vaekit.compute.layout import CONVOLUTIONS
from vaekit.model.assembly import example_inputs
from vaekit.model.objective import Objective
from vaekit.specs.models import RunSpec

WORTH_HALVING = 1e8
"""The number of products in the forward pass of a batch from which bf16 pays off on a CPU; see `choose_precision`."""


def choose_precision(spec: RunSpec, objective: Objective) -> RunSpec:
    """Replace ``auto`` precision by a choice: bf16 where the device is faster with it, and fp32 elsewhere.

    On a CPU, converting numbers to bfloat16 takes longer than it saves if batches or networks are small. Measured on an Intel
    Xeon with AMX, 2 threads: for MLPs 784-512-20, a step in bf16 is 0.85 times as fast as in fp32 with batches of 32, 1.1 times
    with 128 and 1.8 times with 512; for convolutional networks and batches of 128, it is 1.1 to 1.5 times as fast. After 25
    seconds of training on MNIST, the ELBO was higher for each network and seed. CPUs that have bfloat16 arithmetic without AMX
    use fp32, for lack of measurements.

    Args:
        spec: A complete spec, fitted to this machine.
        objective: Its objective, on the CPU.
    """
    train = spec.train
    if train.precision != "auto":
        return spec
    fast = has_bf16(train.device)
    if fast and train.device == "cpu":
        fast = num_products(objective) * train.batch_size >= WORTH_HALVING
    return spec.model_copy(update={"train": train.model_copy(update={"precision": "bf16" if fast else "fp32"})})


def num_products(objective: Objective) -> float:
    """Return the number of products of weights and inputs that linear layers and convolutions compute for one example."""
    products = 0

    def count(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal products
        uses = inputs[0] if getattr(layer, "transposed", False) else output  # each of whose positions uses all weights
        products += layer.weight.numel() * uses.numel() // layer.weight.shape[0]

    layers = (module for module in objective.modules() if isinstance(module, (nn.Linear, *CONVOLUTIONS)))
    hooks = [layer.register_forward_hook(count) for layer in layers]
    inputs, training = example_inputs(objective), objective.training
    objective.eval()(inputs)  # in training mode, layers and losses might draw from the global generator
    objective.train(training)
    for hook in hooks:
        hook.remove()
    return products / inputs.noise.shape[-2]
