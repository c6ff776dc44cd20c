"""A full disk is an error that names the file, harms no existing file, and has no effect once space is available again."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import SMALL, Campaign, Commands, Done, contents, wait_for
from test_side_files import USES

pytestmark = pytest.mark.slow

TRAIN = ["train", *SMALL, "--pictures", "every:1", "--checkpoint-seconds", "0.001", "--quiet", "--out", "run"]
LONGER = ["--epochs", "60", "--pictures", "every:10"]


def names_a_file(done: Done) -> None:
    """Check that a command failed with an error that names the file and a remedy."""
    assert done.code in {1, 2}, done
    assert any(name in done.err for name in ("run/", "out.", "run folder run")), done
    assert "remedy:" in done.err, done


def continued(commands: Commands, folder: Path, **more: object) -> Done:
    """Start or continue a run."""
    begun = (folder / "run" / "spec.yaml").exists()
    return commands(*(["resume", "run"] if begun else TRAIN), cwd=folder, **more)


@pytest.fixture(scope="module")
def runs(commands: Commands, work: Path) -> Path:
    """The folder of an undisturbed run, and of another to compare it with."""
    commands(*TRAIN, cwd=work)
    shutil.copytree(work / "run", work / "other")
    return work


def test_a_limit_of_file_sizes(campaign: Campaign, runs: Path) -> None:
    chance, counts, expected = random.Random("limits"), Counter[str](), contents(runs / "run")
    sizes = sorted({path.stat().st_size for path in (runs / "run").rglob("*") if path.is_file()})
    for number in range(campaign.size(60)):
        folder = campaign.place(number)
        limit = chance.choice([1_000, max(1_000, chance.choice(sizes) - 1), chance.randrange(1_000, sizes[-1])])
        last = folder / "run" / "checkpoints" / "last.safetensors"
        if chance.random() < 0.5:
            job = campaign.commands.start(*TRAIN, cwd=folder)
            wait_for(last.exists)
            job.send(signal.SIGKILL)
            job.finish()
            for stale in (folder / "run").rglob(".*tmp*"):  # see `test_recovery_from_a_kill_at_the_worst_moment`
                stale.unlink()
            counts["resumed_under_the_limit"] += 1
        before = last.read_bytes() if last.exists() else None
        done = continued(campaign.commands, folder, limits={"RLIMIT_FSIZE": limit})
        if "is complete" in done.err or done.code == 0:
            counts["had_space"] += 1
        else:
            names_a_file(done)
        assert before is None or limit >= len(before) or last.read_bytes() == before
        done = continued(campaign.commands, folder)
        assert done.code == 0 or "is complete" in done.err, done
        assert contents(folder / "run") == expected, limit
    campaign.tally("full disk, limits", campaign.size(60), **counts)


def test_a_run_that_failed_to_start_can_start_later(campaign: Campaign) -> None:
    folder = campaign.place("work")
    names_a_file(continued(campaign.commands, folder, limits={"RLIMIT_FSIZE": 500}))
    assert continued(campaign.commands, folder).code == 0


@pytest.mark.parametrize("name", sorted(USES.keys() - {"resume"}))
@pytest.mark.parametrize("older", [False, True])
def test_a_command_that_cannot_write_leaves_nothing_behind(name: str, older: bool, campaign: Campaign, runs: Path) -> None:
    folder = shutil.copytree(runs, campaign.folder / "work")
    command = USES[name].split()
    out = folder / (command[-1] if "." in command[-1] else "run/evaluation.json")
    if older:
        out.write_bytes(b"older")
    else:
        out.unlink(missing_ok=True)
    names_a_file(campaign.commands(*command, cwd=folder, limits={"RLIMIT_FSIZE": 450}))
    assert out.read_bytes() == b"older" if older else not out.exists()
    assert not [*folder.rglob(".*tmp*")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB, if mounting is permitted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_fills_up_during_a_run(campaign: Campaign, images: Path, disk: Path) -> None:
    chance, counts = random.Random("disk"), Counter[str]()
    shutil.copy(images, disk)
    folder, ballast, metrics = disk / "work", disk / "ballast", disk / "work" / "run" / "metrics.jsonl"
    folder.mkdir()
    campaign.commands(*TRAIN, *LONGER, cwd=folder)
    expected, size = contents(folder / "run"), metrics.stat().st_size
    for _ in range(campaign.size(30)):
        shutil.rmtree(folder / "run")
        job, moment = campaign.commands.start(*TRAIN, *LONGER, cwd=folder), chance.uniform(0, 0.8 * size)
        while job.process.is_alive() and not (metrics.exists() and metrics.stat().st_size >= moment):
            pass
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(2**16)):
                pass
        done = job.finish().clean()
        counts["failed" if done.code else "finished"] += 1
        if done.code:
            names_a_file(done)
        ballast.unlink()
        done = continued(campaign.commands, folder)
        assert done.code == 0 or "is complete" in done.err, done
        assert contents(folder / "run") == expected
    campaign.tally("full disk, filled", campaign.size(30), **counts)
