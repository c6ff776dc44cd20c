"""How the steps of a run are launched: kernel by kernel, compiled, or as a single CUDA graph."""

from __future__ import annotations

from vaekit.compute import graphs
from vaekit.compute.device import has_cpp_compiler
from vaekit.compute.layout import has_convolutions
from vaekit.errors import UsageError
from vaekit.model.assembly import example_inputs
from vaekit.model.objective import Objective
from vaekit.model.vae import VAE
from vaekit.specs.models import RunSpec, TrainSpec

WORTH_COMPILING_SECONDS = 600.0
"""The estimated training time on a CPU (`cpu_seconds`) above which compiling pays off; see `choose_compilation`."""
CPU_RATE = 3e10
"""The assumed training speed of one CPU thread, in floating-point operations per second."""


def cpu_seconds(vae: VAE, train: TrainSpec, num_images: int) -> float:
    """Estimate the training time of a model without convolutions on a CPU: each weight multiplies one number of each image."""
    products = sum(parameter.numel() for parameter in vae.parameters() if parameter.ndim > 1)
    work = 6 * products * num_images * train.epochs  # a product and a sum, and a backward pass costs about two forward passes
    return work / (CPU_RATE * (train.threads or 1))


def choose_compilation(spec: RunSpec, objective: Objective) -> RunSpec:
    """Replace ``auto`` compilation by a choice: on for long runs without convolutions on a CPU with a C++ compiler.

    Measured on 2 cores: compiling takes 20 to 30 s; a step of the MLP then takes 0.90 of its eager time, a step of the CNN 0.96,
    and a step with bilinear upsampling 1.67. Compilation is therefore chosen for runs of ten minutes or more. On CUDA the step
    becomes a single graph unless a component synchronises with the device; it is not compiled there or on other devices, for
    lack of measurements.

    Args:
        spec: A complete spec, fitted to this machine.
        objective: Its objective, on the CPU.

    Raises:
        UsageError: Compilation is requested without a C++ compiler or for a sharded model, or a CUDA graph on another device.
    """
    train = spec.train
    if train.compile in ("on", "graph") and train.parallel == "fsdp":
        raise UsageError(
            "a model that is sharded across processes cannot be compiled",
            given=f"--compile {train.compile} --parallel fsdp",
            remedy="pass --compile off, or --parallel ddp",
        )
    if train.compile == "graph" and train.device not in graphs.DEVICES:
        raise UsageError(
            "only CUDA supports graphs",
            given=f"--compile graph --device {train.device}",
            expected="--compile auto, on or off, or --device cuda",
        )
    if train.compile == "on" and not has_cpp_compiler():
        raise UsageError(
            "compiling needs a C++ compiler, but torch finds none",
            given="--compile on",
            remedy="install g++ or clang++, or pass --compile off",
        )
    if train.compile != "auto":
        return spec
    chosen = "off"
    if train.parallel == "ddp" and train.device == "cuda":
        chosen = "off" if _synchronises(objective.cuda()) else "graph"
    elif train.parallel == "ddp" and train.device == "cpu" and not has_convolutions(objective.vae):
        seconds = cpu_seconds(objective.vae, train, objective.num_data or 0)
        chosen = "on" if seconds > WORTH_COMPILING_SECONDS and has_cpp_compiler() else "off"
    return spec.model_copy(update={"train": train.model_copy(update={"compile": chosen})})


def _synchronises(objective: Objective) -> bool:
    """Whether the forward or backward pass of an objective synchronises with the GPU."""
    inputs = example_inputs(objective)

    def step() -> None:
        total, *_ = objective(inputs)
        total.backward()

    synchronises = graphs.synchronises(step)
    objective.zero_grad(set_to_none=True)
    return synchronises
