"""Two decoders of the same codes: their cost, quality and speed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from vaekit.benchmark.machine import environment
from vaekit.errors import UsageError
from vaekit.evaluation.features import FeatureRequest
from vaekit.evaluation.metrics import comparable_metrics
from vaekit.evaluation.tables import aligned, not_comparable
from vaekit.export.latency import latencies
from vaekit.files import write_text
from vaekit.run import Run
from vaekit.specs.text import counted
from vaekit.streams import Streams

FILE = "distillation.json"
SHOWN = ("elbo", "reconstruction", "psnr", "lpips", "feature_distance", "rfid", "fid")
"""The metrics that depend on the decoder, and are shown if both models have them."""


def compare_decoders(
    teacher: Run,
    student: Run,
    *,
    features: FeatureRequest | None = None,
    batches: Sequence[int] = (1, 64),
    seconds: float = 1.0,
) -> dict[str, Any]:
    """Compare the decoder of a run with that of another, distilled from it, and write the result to ``distillation.json``.

    Both decode the same samples from the first run's prior on the CPU, alternately, with torch. The test metrics are those of
    ``evaluation.json``, which is written if it does not exist; features are computed for both.

    Args:
        teacher: The run whose codes are decoded.
        student: The run with another decoder, to whose folder the result is written.
        features: The features in which reconstructions and samples are compared with images; default: none.
        batches: The batch sizes.
        seconds: The duration of the measurement for each decoder at each batch size.

    Returns:
        ``teacher`` and ``student``, each with its folder as ``run``, the ``decoder``, its ``parameters``, the ``test`` metrics,
        and ``milliseconds`` by batch size; ``speedup``, the ratio of the medians, by batch size; and the environment.

    Raises:
        CheckpointError: A run has no model.
        DataError: A file of weights is missing or of another network.
        UsageError: The encoders or the posteriors differ, so the decoders do not decode the same codes.
    """
    vaes = {"teacher": teacher.vae(), "student": student.vae()}
    for part in ("encoder", "posterior", "condition"):
        ours, theirs = (vae.get_submodule(part).state_dict() for vae in vaes.values())
        if ours.keys() != theirs.keys() or not all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items()):
            raise UsageError(
                "these decoders do not decode the same codes",
                given=f"{teacher.path} and {student.path}, whose weights of the {part} differ",
                expected="a run and one distilled from it by `vaekit distill`",
            )
    y = vaes["teacher"].classes_in_turn(max(batches))
    z = vaes["teacher"].sample_latent(max(batches), y=y, generator=Streams(0).generator("decoders"))
    result: dict[str, Any] = {}
    for name, run in (("teacher", teacher), ("student", student)):
        test = run.evaluate(features=features) if features is not None else run.evaluation() or run.evaluate()
        parameters = sum(parameter.numel() for parameter in vaes[name].decoder.parameters())
        decoder = run.spec.model.decoder.kind
        result[name] = {"run": str(run.path), "decoder": decoder, "parameters": parameters, "test": test, "milliseconds": {}}
    speedup: dict[str, float] = {}
    with torch.inference_mode():
        for batch in batches:
            labels = None if y is None else y[:batch]
            times = latencies({name: partial(vae.decode, z[:batch], labels) for name, vae in vaes.items()}, seconds=seconds)
            for name, time in times.items():
                result[name]["milliseconds"][str(batch)] = asdict(time)
            speedup[str(batch)] = times["teacher"].median / times["student"].median
    result |= {"speedup": speedup, "environment": environment(torch.get_num_threads())}
    write_text(student.path / FILE, json.dumps(result, indent=2) + "\n")
    return result


def decoder_table(result: Mapping[str, Any]) -> str:
    """Format the result of `compare_decoders` as a text table, with the gain in a sentence below it."""
    sides = {name: result[name] for name in ("teacher", "student")}
    tests = {name: side["test"] for name, side in sides.items()}
    metrics = [
        metric for metric in comparable_metrics(tests) if metric.key in SHOWN and all(metric.key in t for t in tests.values())
    ]
    batches = list(result["speedup"])
    units = [f"{metric.label}, {metric.unit}" if metric.unit == "dB" else metric.label for metric in metrics]
    titles = ["", "decoder", "parameters", *units, *(f"ms, batch of {batch}" for batch in batches)]
    rows = [
        [
            name,
            side["decoder"],
            f"{side['parameters']:,}",
            *(metric.text(side["test"][metric.key]) for metric in metrics),
            *(f"{side['milliseconds'][batch]['median']:.3g}" for batch in batches),
        ]
        for name, side in sides.items()
    ]
    share = result["student"]["parameters"] / max(1, result["teacher"]["parameters"])
    speeds = " and ".join(f"{result['speedup'][batch]:.1f}" for batch in batches)
    machine = result["environment"]
    warning = not_comparable(tests)
    return "\n".join(
        [
            *aligned(titles, rows),
            f"The student's decoder has {share:.1%} of the parameters, and is {speeds} times as fast as the teacher's for "
            f"batches of {' and '.join(batches)} ({machine['processor']}, {counted(machine['threads'], 'thread')}, torch).",
            *([warning] if warning else []),
        ]
    )
