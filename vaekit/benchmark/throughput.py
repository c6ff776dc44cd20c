"""The throughput of training, encoding, sampling and evaluation, part by part and relative to the machine's peak."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vaekit.benchmark.machine import (
    busy,
    calls_in_a_row,
    environment,
    forget_peak_memory,
    matrix_peak,
    memory_bandwidth,
    peak_memory,
    repeated,
    timed,
)
from vaekit.compute.process import threads
from vaekit.data.batches import Reading
from vaekit.data.sources import Splits
from vaekit.evaluation.bound import evaluate
from vaekit.evaluation.evaluator import Evaluator
from vaekit.model.assembly import assemble
from vaekit.model.objective import Inputs
from vaekit.specs.models import RunSpec
from vaekit.specs.options import build_spec
from vaekit.store.record import load_splits
from vaekit.training.checks import check_data
from vaekit.training.hardware import fit_to_machine, fit_to_model
from vaekit.training.meter import Meter
from vaekit.training.progress import Reporter, Silent
from vaekit.training.step import Step

TASKS = ("train", "encode", "sample", "evaluate")
PARTS = ("data", "forward", "backward", "optimiser")


def throughput(
    base: Mapping[str, Any] | None = None,
    *,
    batch_sizes: Sequence[int] = (128,),
    precisions: Sequence[str] = ("auto",),
    compilations: Sequence[str] = ("off",),
    devices: Sequence[str] = ("auto",),
    tasks: Sequence[str] = TASKS,
    seconds: float = 2.0,
    reporter: Reporter | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measure the throughput of a model for all combinations of batch size, precision, compilation and device.

    Args:
        base: Plain data of a spec.
        batch_sizes: Numbers of images per step.
        precisions: Any of ``fp32``, ``bf16`` and ``auto``.
        compilations: Any of ``on``, ``graph`` and ``off``; only training is compiled.
        devices: Any of ``cpu``, ``cuda``, ``mps`` and ``auto``.
        tasks: Any of ``train``, ``encode``, ``sample`` and ``evaluate``.
        seconds: The duration of each measurement, which takes at least five rounds.
        reporter: Receives a line before each measurement through its ``note`` method; default: none.
        options: As for `vaekit.train`.

    Returns:
        A dictionary with the following entries.

        ``rows`` has one row per task and combination: ``images_per_second`` with its quartiles ``lower`` and ``upper``; the
        ``flops`` of a batch and their ``flops_fraction`` of the matrix peak; and ``peak_bytes``, see `peak_memory`. For
        training, a row also has the milliseconds of its ``parts`` (timed separately on a GPU, where their sum exceeds the
        step); the minimum number of ``bytes`` that a step moves and its ``bytes_fraction`` of the memory bandwidth, unless a
        loss computes gradients with `torch.func`; ``first_step_seconds``, which includes compilation; and, on CUDA,
        ``busy_fraction``, the fraction of a step in which the GPU computes or copies.

        ``machine`` contains the peaks by device and precision, ``environment`` describes the machine and the versions, and
        ``spec`` contains the settings common to all rows.

    Raises:
        UsageError: An option or a device does not exist, or the device does not support a compilation.
        DataError: The dataset was not found.
    """
    rows: list[dict[str, Any]] = []
    machine: dict[str, Any] = {}
    count, reporter = torch.get_num_threads(), reporter or Silent()
    for device, precision, compiled, size in itertools.product(devices, precisions, compilations, batch_sizes):
        setting = {"device": device, "precision": precision, "compile": compiled, "batch_size": size}
        spec = fit_to_machine(build_spec(base or {}, {**options, **setting}))
        with threads(spec.train.threads):
            splits = load_splits(spec)
            objective = assemble(spec, splits)
            check_data(spec, objective.vae.likelihood, splits)
            spec = fit_to_model(spec, objective)
            place, chosen, count = torch.device(spec.train.device), spec.train.precision, spec.train.threads or count
            key = f"{place.type} {chosen}"
            reporter.note(f"{key}, batch {size}, compile {compiled}")
            if key not in machine:
                machine[key] = {"flops": matrix_peak(place, chosen), "bytes": memory_bandwidth(place)}
            for row in _measure(Step(spec, objective, splits), splits, machine[key], tasks, seconds):
                rows.append({"device": place.type, "precision": chosen, "compile": compiled, "batch": size, **row})
    return {"spec": _shared(spec), "rows": rows, "machine": machine, "environment": environment(count)}


def _shared(spec: RunSpec) -> dict[str, Any]:
    """Return the settings common to all measurements, without those recorded in rows and environment."""
    data = spec.model_dump(mode="json")
    elsewhere = {"device", "precision", "compile", "batch_size", "threads"}
    return {**data, "train": {name: value for name, value in data["train"].items() if name not in elsewhere}}


def _measure(
    step: Step, splits: Splits, peak: Mapping[str, float], tasks: Sequence[str], seconds: float
) -> Iterator[dict[str, Any]]:
    """Measure the tasks of one model."""
    spec, device, vae = step.spec, step.device, step.objective.vae
    size = spec.train.batch_size
    forget_peak_memory(device)
    if "train" in tasks:
        yield _train(step, peak, seconds) | {"peak_bytes": peak_memory(device)}
    if spec.train.compile != "off":
        return
    evaluator = Evaluator(spec, step.objective, splits, step.processes, step.memory_format)
    batch = next(iter(evaluator.batches("train").epoch(0)))
    generator = step.streams.generator("bench", 0, device)
    others: dict[str, Callable[[], object]] = {
        "encode": lambda: vae.encode(batch.inputs, batch.y),
        "sample": lambda: vae.sample(size, generator=generator),
        "evaluate": lambda: evaluate(step.objective, [batch], step.streams, split="bench"),
    }
    vae.eval()
    for task in tasks:
        if task in others:
            forget_peak_memory(device)
            with torch.no_grad(), step.autocast():
                times = repeated(others[task], device, seconds)
                flops = _flops(others[task])
            yield {
                "task": task,
                **_speed(times, size),
                **_fraction("flops", flops, times, peak),
                "peak_bytes": peak_memory(device),
            }


def _train(step: Step, peak: Mapping[str, float], seconds: float) -> dict[str, Any]:
    """Measure training: whole steps and, alternating with them, their parts."""
    device, size, meter = step.device, step.spec.train.batch_size, Meter()
    readings = (reading for epoch in itertools.count() for reading in step.batches.readings(epoch))
    step.objective.train()

    def whole() -> None:
        meter.add(step(next(readings)))

    first, _ = timed(whole, device)
    calls = calls_in_a_row(device)
    timed(whole, device, calls)
    wholes: list[float] = []
    parts: dict[str, list[float]] = {name: [] for name in PARTS}
    end = time.perf_counter() + seconds
    while len(wholes) < 5 or time.perf_counter() < end:
        wholes.append(timed(whole, device, calls)[0])
        for name, spent in _parts(step, readings).items():
            parts[name].append(spent)
    used = {"busy_fraction": busy(whole) / statistics.median(wholes)} if device.type == "cuda" else {}
    pieces = step.objective.parts_of(step.inputs(next(readings)))

    def eager() -> None:
        with step.autocast():
            total, *_ = step.objective(pieces[0])
        total.backward()
        step.objective.zero_grad(set_to_none=True)

    flops, saved, moved = len(pieces) * _flops(eager), _saved_bytes(eager, step.objective), {}
    if saved is not None:
        # forward and backward read parameters, backward writes gradients, AdamW reads four arrays and writes three; tensors saved
        # for the backward pass are written and read
        weights = sum(p.numel() * p.element_size() for p in step.objective.parameters())
        least = 7 * weights + len(pieces) * (3 * weights + 2 * saved)
        moved = _fraction("bytes", least, wholes, peak)
    return {
        "task": "train",
        **_speed(wholes, size),
        "parts": {name: statistics.median(values) for name, values in parts.items()},
        **_fraction("flops", flops, wholes, peak),
        **moved,
        **used,
        "first_step_seconds": first / 1e3,
    }


def _parts(step: Step, readings: Iterator[Reading]) -> dict[str, float]:
    """Run one step part by part; return the milliseconds of each part."""
    device = step.device
    data, inputs = timed(lambda: step.inputs(next(readings)), device)

    def forward(part: Inputs) -> Tensor:
        with step.autocast():
            total: Tensor = step.forward(part)[0]
        return total

    parts = step.objective.parts_of(inputs)
    ahead, back = timed(partial(step.learn, inputs), device)[0] if len(parts) > 1 else 0.0, 0.0
    for part in parts:
        spent, total = timed(partial(forward, part), device)
        ahead += spent
        back += timed(total.backward, device)[0]
    optimiser, _ = timed(partial(step.update, {}), device)
    return dict(zip(PARTS, (data, ahead, back, optimiser), strict=True))


def _speed(times: Sequence[float], size: int) -> dict[str, float | int]:
    """Convert milliseconds per batch into images per second: the median and the quartiles."""
    slow, median, fast = (1e-3 * value for value in reversed(statistics.quantiles(times, n=4)))
    return {"images_per_second": size / median, "lower": size / slow, "upper": size / fast, "rounds": len(times)}


def _fraction(what: str, amount: float, times: Sequence[float], peak: Mapping[str, float]) -> dict[str, float]:
    return {what: amount, f"{what}_fraction": amount / (1e-3 * statistics.median(times)) / peak[what]}


def _saved_bytes(function: Callable[[], object], model: nn.Module) -> int | None:
    """Return the size in bytes of the tensors, except parameters, that a function saves for its backward pass.

    None if it computes gradients with `torch.func`, which does not support hooks on saved tensors.
    """
    saved: dict[int, int] = {}
    own = {parameter.data_ptr() for parameter in model.parameters()}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            saved[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            function()
    except RuntimeError as error:
        if "saved tensor hooks" not in str(error):
            raise
        return None
    return sum(saved.values())


class _NoModules(nullcontext[None]):
    """Replaces the module tracker of `FlopCounterMode`, whose hooks fail under `torch.func` transforms."""

    parents = frozenset({"Global"})


def _flops(function: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = cast("Any", _NoModules())
    with counter:
        function()
    return int(counter.get_total_flops())
