"""How the steps of a run are launched: kernel by kernel, compiled, or as one recorded CUDA graph."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from vaekit.compute import graphs
from vaekit.compute.device import has_cpp_compiler
from vaekit.compute.layout import has_convolutions
from vaekit.errors import UsageError
from vaekit.model.assembly import example_inputs
from vaekit.model.objective import Objective
from vaekit.model.vae import VAE
from vaekit.specs.models import RunSpec, TrainSpec

WORTH_COMPILING_SECONDS = 600.0
"""Training on a CPU, by `cpu_seconds`, from which compiling pays; see `choose_compilation`."""
CPU_RATE = 3e10
"""Floating-point operations a second at which a thread of a CPU is assumed to train."""


def cpu_seconds(vae: VAE, train: TrainSpec, num_images: int) -> float:
    """Estimate how long training takes on a CPU, from the matrix products in it."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vae(torch.zeros(1, *vae.image_shape), generator=torch.Generator())
    work = 3 * counter.get_total_flops() * num_images * train.epochs  # a backward pass is about two forward ones
    return float(work) / (CPU_RATE * (train.threads or 1))


def choose_compilation(spec: RunSpec, objective: Objective) -> RunSpec:
    """Replace ``auto`` compilation: on for long runs without convolutions on a CPU that has a C++ compiler.

    Measured on 2 cores: compiling takes 20 to 30 s; then a step of the MLP takes 0.90 of its time, one of the CNN 0.96, and one
    with bilinear upsampling 1.67. So it is chosen for runs of ten minutes and more. On CUDA the step becomes one graph unless
    some component waits for the device; it is not compiled there, and neither is it elsewhere, as nothing was measured.

    Args:
        spec: A whole spec, fitted to this machine.
        objective: Its objective, on the CPU.

    Raises:
        UsageError: Compilation is asked for, and there is no C++ compiler; or of a model divided over processes; or a
            CUDA graph on another device.
    """
    train = spec.train
    if train.compile in ("on", "graph") and train.parallel == "fsdp":
        raise UsageError(
            "a model divided over processes is not compiled",
            given=f"--compile {train.compile} --parallel fsdp",
            remedy="pass --compile off, or --parallel ddp",
        )
    if train.compile == "graph" and train.device not in graphs.DEVICES:
        raise UsageError(
            "only CUDA has graphs",
            given=f"--compile graph --device {train.device}",
            expected="--compile auto, on or off, or --device cuda",
        )
    if train.compile == "on" and not has_cpp_compiler():
        raise UsageError(
            "compiling needs a C++ compiler, and torch finds none",
            given="--compile on",
            remedy="install g++ or clang++, or pass --compile off",
        )
    if train.compile != "auto":
        return spec
    chosen = "off"
    if train.parallel == "ddp" and train.device == "cuda":
        chosen = "off" if _waits(objective.cuda()) else "graph"
    elif train.parallel == "ddp" and train.device == "cpu" and not has_convolutions(objective.vae):
        seconds = cpu_seconds(objective.vae, train, objective.num_data or 0)
        chosen = "on" if seconds > WORTH_COMPILING_SECONDS and has_cpp_compiler() else "off"
    return spec.model_copy(update={"train": train.model_copy(update={"compile": chosen})})


def _waits(objective: Objective) -> bool:
    """Whether computing or differentiating an objective waits for the GPU."""
    inputs = example_inputs(objective.vae)

    def step() -> None:
        total, _ = objective(inputs)
        total.backward()

    waits = graphs.waits(step)
    objective.zero_grad(set_to_none=True)
    return waits
