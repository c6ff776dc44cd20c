"""A run that is killed at any moment, and again while resuming, ends as if it had never been killed."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import SMALL, Campaign, contents, listed, wait_for

pytestmark = pytest.mark.slow

RUNS = {
    "a checkpoint at every step": "--checkpoint-seconds 0.001 --pictures none",
    "pictures of every epoch": "--pictures every:1",
    "an average of the weights": "--checkpoint-seconds 0.001 --ema 0.9 --pictures 2,3 --animation webp",
    "binarised pixels": "--checkpoint-seconds 0.001 --loss tc --binarize dynamic --augment.translate 0.1 --pictures none",
    "a fresh interpreter": "--pictures every:1",
}
APPEARING = listed("""
    run | run/checkpoints | run/samples | run/spec.yaml | run/metrics.jsonl | run/checkpoints/best.safetensors | run/.*.tmp
    run/model.safetensors | run/checkpoints/last.safetensors | run/checkpoints/.last*.tmp | run/checkpoints/.best*.tmp
    run/checkpoints/frames/00002.png | run/samples/epoch-0002.png | run/training.* | run/evaluation.json
""")
"""Files whose appearance triggers the kill."""


@dataclass
class Victim:
    """A run that is killed and resumed until it is complete.

    Args:
        campaign: Runs it.
        folder: Where it is.
        kind: One of `RUNS`.
        chance: Draws signals and moments.
        duration: Seconds that a command takes.
        counts: What happened to it and others.
    """

    campaign: Campaign
    folder: Path
    kind: str
    chance: random.Random
    duration: float
    counts: Counter[str]

    @property
    def command(self) -> list[str]:
        """The command that starts or continues it."""
        begun = (self.folder / "run" / "spec.yaml").exists()
        return ["resume", "run"] if begun else ["train", *SMALL, *RUNS[self.kind].split(), "--out", "run"]

    def kill(self) -> bool:
        """Start it, and send a signal at a random moment or when a random file appears; return whether that ended it."""
        job = self.campaign.commands.start(*self.command, cwd=self.folder, fresh=self.kind == "a fresh interpreter")
        job.begun()
        if self.chance.random() < 0.5:
            time.sleep(self.chance.uniform(0, self.duration))
        else:
            pattern = self.chance.choice(APPEARING)
            wait_for(lambda: any(self.folder.glob(pattern)) or not job.process.is_alive())
            time.sleep(self.chance.choice([0, 0, self.chance.uniform(0, 0.02)]))
        job.send(self.chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        return job.finish().clean().code != 0

    def complete(self) -> dict[str, Any]:
        """Complete it, and return what it contains."""
        done = self.campaign.commands(*self.command, cwd=self.folder)
        assert done.code == 0 or "is complete" in done.err, done
        return contents(self.folder / "run")


@pytest.mark.parametrize("kind", RUNS)
def test_killed_runs_resume_to_the_same_result(kind: str, campaign: Campaign) -> None:
    fresh = kind == "a fresh interpreter"  # whose imports take most of the time
    chance, counts, kills = random.Random(kind), Counter[str](), campaign.size(8 if fresh else 48)
    undisturbed = Victim(campaign, campaign.place("whole"), kind, chance, 0, counts)
    began = time.monotonic()
    assert campaign.commands.start(*undisturbed.command, cwd=undisturbed.folder, fresh=fresh).finish().code == 0
    duration, whole = 1.1 * (time.monotonic() - began), contents(undisturbed.folder / "run")
    while counts["kills"] < kills:
        victim = Victim(campaign, campaign.place(counts["runs"]), kind, chance, duration, counts)
        counts["runs"] += 1
        for _ in range(min(chance.randint(1, 3), kills - counts["kills"])):
            if not victim.kill():
                counts["finished_before"] += 1
                break
            counts["kills"] += 1
        assert victim.complete() == whole
    campaign.tally(f"kills, {kind}", counts.pop("kills"), **counts, identical=counts["runs"])


def frame_lost(run: Path) -> None:
    """Reproduce the state after a death during the removal of the frames."""
    (run / "checkpoints" / ".frames" / "00001.png").unlink()


def death(dies_in: str, moment: str, after: Callable[[Path], None] | None = None) -> Any:
    """A function in which a process dies, and the resulting state of the folder."""
    return pytest.param(dies_in, after, id=moment)


@pytest.mark.parametrize(
    ("dies_in", "after"),
    [
        death("vaekit.training.checkpoints:Checkpoints.save_best", "before the first best weights"),
        death("vaekit.training.trainer:Trainer.finish", "before the end"),
        death("vaekit.store.folder:RunFolder.acquire", "before spec.yaml"),
        death("vaekit.run:load_splits", "before spec.yaml is complete"),
        death("vaekit.training.checkpoints:Checkpoints.save_last", "before the first checkpoint"),
        death("vaekit.store.checkpoint:save_file", "while a file is written"),
        death("vaekit.training.snapshots:shutil.rmtree", "while frames are removed", frame_lost),
    ],
)
def test_recovery_from_a_kill_at_the_worst_moment(dies_in: str, after: Callable[[Path], None] | None, campaign: Campaign) -> None:
    train = ["train", *SMALL, "--compile", "auto", "--out", "run"]
    whole, killed = campaign.place("whole"), campaign.place("killed")
    campaign.commands(*train, cwd=whole)
    assert campaign.commands.start(*train, cwd=killed, dies_in=dies_in).finish().code == 9
    if after is not None:
        after(killed / "run")
    again = campaign.commands(*(["resume", "run"] if (killed / "run" / "spec.yaml").exists() else train), cwd=killed)
    assert again.code == 0, again
    assert contents(killed / "run") == contents(whole / "run")


def test_ctrl_c_at_the_start_shows_no_traceback(campaign: Campaign) -> None:
    job = campaign.commands.start("train", *SMALL, "--out", "run", cwd=campaign.place("work"), fresh=True)
    job.begun()
    time.sleep(0.7)  # of the seconds that importing takes
    job.send(signal.SIGINT)
    assert job.finish().clean().code in {130, -signal.SIGINT}
