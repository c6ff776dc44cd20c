"""Reporters: they show the progress of a run in a terminal, a pipe or a program. All losses are in nats per image."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from vaekit.evaluation.metrics import metric_of, metrics_in
from vaekit.specs.text import duration
from vaekit.training.progress import Silent, Start

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

OUTPUTS = {
    "model.safetensors": "the best weights and everything needed to rebuild the model",
    "samples": "samples from the prior, epoch by epoch",
    "reconstructions": "images and their reconstructions below them",
    "training.gif": "samples from the first epoch to the last",
    "metrics.jsonl": "the metrics of each epoch",
    "evaluation.json": "the metrics below",
}


class Quiet(Silent):
    """Shows nothing, but remembers the run. Used as a context manager, it restores the terminal on exit."""

    started: Start | None = None

    def start(self, start: Start) -> None:
        self.started = start

    def close(self) -> None:
        """Restore the terminal."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class ErrorLines(Quiet):
    """Writes notes to stderr, for commands whose result goes to stdout."""

    def note(self, line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


class JsonReporter(Quiet):
    """Writes one JSON object per line: ``{"event": "start" | "epoch" | "end", …}``."""

    def start(self, start: Start) -> None:
        super().start(start)
        self._write("start", asdict(start))

    def epoch(self, record: Mapping[str, Any]) -> None:
        self._write("epoch", record)

    def end(self, evaluation: Mapping[str, Any]) -> None:
        self._write("end", evaluation)

    @staticmethod
    def _write(event: str, content: Mapping[str, Any]) -> None:
        sys.stdout.write(json.dumps({"event": event, **content}) + "\n")
        sys.stdout.flush()


class LineReporter(Quiet):
    """Writes plain lines, one per epoch, for pipes and logs."""

    def start(self, start: Start) -> None:
        super().start(start)
        self.began = time.monotonic()
        images = ", ".join(f"{num:,} {split}" for split, num in start.num_images.items())
        self.write(f"{start.run}: {images} images; {start.num_parameters:,} parameters; {start.device}")
        if start.first_epoch:
            self.write(f"resumed after epoch {start.first_epoch} of {start.epochs}")
        for note in start.notes:
            self.write(f"note: {note}")

    def epoch(self, record: Mapping[str, Any]) -> None:
        start = self._start
        halves = [f"{split}: {terms_text(record, f'{split}_', start.elbo)}" for split in ("train", "validation")]
        done, left = record["epoch"] - start.first_epoch, start.epochs - record["epoch"]
        seconds = (time.monotonic() - self.began) / done * left
        self.write(
            f"epoch {record['epoch']:>{len(str(start.epochs))}}/{start.epochs}  {'  '.join(halves)}"
            f"  {record['validation_active_units']} active  {record['images_per_second']:,.0f} images/s"
            f"  {duration(seconds)} left{'  best' if record['best'] else ''}"
        )

    def end(self, evaluation: Mapping[str, Any]) -> None:
        for line in closing_lines(self._start.run, evaluation):
            self.write(line)

    def note(self, line: str) -> None:
        self.write(line)

    def write(self, line: str) -> None:
        """Write a line."""
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    @property
    def _start(self) -> Start:
        assert self.started is not None  # a trainer starts before it reports
        return self.started


class RichReporter(LineReporter):
    """Draws live progress below a table with one row per epoch, for terminals."""

    live: Live | None = None

    @cached_property
    def console(self) -> Console:
        """The terminal."""
        from rich.console import Console

        return Console(highlight=False)

    def start(self, start: Start) -> None:
        from rich.console import Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.text import Text

        super().start(start)
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=20),
            TextColumn("step"),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:,.0f} images/s"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
        )
        done = start.first_epoch
        self.task = self.progress.add_task("", total=start.num_steps, epochs=start.epochs, epoch=done + 1, speed=0.0)
        self.progress.update(self.task, completed=done * start.steps_per_epoch)
        self.terms = Text(style="dim")
        self.live = Live(Group(self.progress, self.terms), console=self.console, transient=True, refresh_per_second=8)
        self.live.start()

    def step(self, epoch: int, step: int, images_per_second: float, means: Mapping[str, float]) -> None:
        done = (epoch - 1) * self._start.steps_per_epoch + step
        self.progress.update(self.task, completed=done, epoch=epoch, speed=images_per_second)
        self.terms.plain = f"train so far: {terms_text(means, '', self._start.elbo)}"

    def epoch(self, record: Mapping[str, Any]) -> None:
        start = self._start
        titles, cells = ["epoch"], [f"{record['epoch']}/{start.epochs}"]
        for split in ("train", "validation"):
            terms = terms_of(record, f"{split}_", start.elbo)
            titles += [f"{split} {label}" if i == 0 else label for i, label in enumerate(terms)]
            cells += terms.values()
        titles += ["active", "images/s"]
        cells += [str(record["validation_active_units"]), f"{record['images_per_second']:,.0f}"]
        widths = [max(len(title), 8) for title in titles]
        if record["epoch"] == start.first_epoch + 1:
            self.write("  ".join(title.rjust(width) for title, width in zip(titles, widths, strict=True)), "bold")
        row = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        self.write(f"{row}  {'best' if record['best'] else ''}")
        self.progress.update(self.task, completed=record["step"], epoch=min(record["epoch"] + 1, start.epochs))

    def end(self, evaluation: Mapping[str, Any]) -> None:
        self.close()
        super().end(evaluation)

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def write(self, line: str, style: str | None = None) -> None:
        self.console.print(line, style=style, markup=False, soft_wrap=True)


def choose_reporter(*, json: bool = False, quiet: bool = False, stream: TextIO | None = None) -> Quiet:
    """Return the reporter for stdout: live on a terminal, otherwise plain lines; or JSON, or none, if requested."""
    if json or quiet:
        return JsonReporter() if json else Quiet()
    return RichReporter() if (stream or sys.stdout).isatty() else LineReporter()


def terms_of(record: Mapping[str, Any], prefix: str, elbo: str) -> dict[str, str]:
    """Format the reconstruction, KL and ELBO of a record, by label; missing ones are omitted.

    Args:
        record: The metrics by key.
        prefix: The prefix of the keys.
        elbo: The description of the ELBO.
    """
    metrics = [metric_of(key).read_as(elbo) for key in ("reconstruction", "kl", "elbo") if prefix + key in record]
    return {metric.label: metric.text(record[prefix + metric.key], digits=2) for metric in metrics}


def terms_text(record: Mapping[str, Any], prefix: str, elbo: str) -> str:
    """Format the result of `terms_of` as a line of text."""
    return "  ".join(f"{label} {text}" for label, text in terms_of(record, prefix, elbo).items())


def evaluation_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """Format an evaluation as lines, each with a metric and its meaning."""
    rows = [(metric.label, metric.text(evaluation[metric.key]), metric) for metric in metrics_in(evaluation)]
    lines = [f"  {label:<20}{text:>11}  {', '.join(filter(None, (metric.meaning, metric.unit)))}" for label, text, metric in rows]
    if "elbo" not in evaluation:
        lines.insert(0, f"  {'ELBO':<20}{'none':>11}  the posterior or the prior has no density")
    title = f"{evaluation['split']}, {evaluation['num_images']:,} images, weights of epoch {evaluation['epoch']}"
    return [title, *lines, *([f"  `features`: {features_text(evaluation['features'])}"] if "features" in evaluation else [])]


def features_text(protocol: Mapping[str, Any]) -> str:
    """Describe the features of an evaluation in a phrase."""
    size, digest = protocol["size"], protocol["sha256"][:8]
    images, samples = f"{protocol['num_images']:,} images", f"{protocol['num_samples']:,} samples"
    return f"{protocol['network']} ({digest}…), {size}×{size}, {images}, {samples}"


def closing_lines(run: str, evaluation: Mapping[str, Any]) -> list[str]:
    """Return the last lines of a run: its files, its evaluation, and commands to try next."""
    existing = [name for name in OUTPUTS if (Path(run) / name).exists()]
    bounds = "elbo" in evaluation and "bound" in evaluation["elbo_is"]
    importance = [f"  vaekit evaluate {run} --samples 1000"] if bounds else []
    return [
        "",
        f"{run}/",
        *(f"  {name:<18} {OUTPUTS[name]}" for name in existing),
        "",
        *evaluation_lines(evaluation),
        "",
        "next:",
        f"  vaekit sample {run}",
        f"  vaekit reconstruct {run} IMAGES…",
        *importance,
        f"  vaekit report {run}",
        f"  vaekit export {run} --onnx",
    ]
