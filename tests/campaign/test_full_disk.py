"""A full disk is an error that names the file, harms no earlier file, and costs nothing once there is space again."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import SMALL, Commands, Done, contents, wait_for
from test_side_files import USES

pytestmark = pytest.mark.slow

TRAIN = ("train", *SMALL, "--compile", "off", "--pictures", "every:1", "--checkpoint-seconds", "0.001", "--quiet", "--out", "run")
LONGER = ("--epochs", "60", "--pictures", "every:10")


def names_a_file(done: Done) -> None:
    """Check that a command failed, and that its error says which file could not be written and what to do."""
    assert done.code in {1, 2}, done
    assert any(name in done.err for name in ("run/", "out.", "run folder run")), done
    assert "remedy:" in done.err, done


def again(folder: Path) -> tuple[str, ...]:
    """The command that begins or continues a run."""
    return ("resume", "run") if (folder / "run" / "spec.yaml").exists() else TRAIN


@pytest.fixture(scope="module")
def whole(commands: Commands, ground: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed, and of another to compare it with."""
    folder = tmp_path_factory.mktemp("full") / "whole"
    folder.mkdir()
    shutil.copy(ground / "images.npy", folder.parent)
    commands(*TRAIN, cwd=folder)
    shutil.copytree(folder / "run", folder / "other")
    return folder


def limits_for(run: Path, chance: random.Random) -> Iterator[int]:
    """Sizes of files at which some file of a run can no longer be written."""
    sizes = sorted({path.stat().st_size for path in run.rglob("*") if path.stat().st_size > 2_000 and path.is_file()})
    while True:
        yield chance.choice([1_000, chance.choice(sizes) - 1, chance.randrange(1_000, sizes[-1])])


def test_a_limit_of_file_sizes(
    commands: Commands, whole: Path, tmp_path: Path, size: Callable[[int], int], tally: Callable[..., None]
) -> None:
    chance, counts = random.Random("limits"), Counter[str]()
    shutil.copy(whole.parent / "images.npy", tmp_path)
    expected = contents(whole / "run")
    for number, limit in zip(range(size(60)), limits_for(whole / "run", chance), strict=False):
        folder = tmp_path / str(number)
        folder.mkdir()
        last = folder / "run" / "checkpoints" / "last.safetensors"
        if chance.random() < 0.5:
            job = commands.start(*TRAIN, cwd=folder)
            wait_for(last.exists)
            job.send(signal.SIGKILL)
            job.finish()
            for stale in (folder / "run").rglob(".*tmp*"):  # see `test_a_death_at_the_worst_moment_is_mended`
                stale.unlink()
            counts["resumed_under_the_limit"] += 1
        before = last.read_bytes() if last.exists() else None
        done = commands(*again(folder), cwd=folder, limits={"RLIMIT_FSIZE": limit})
        if "is complete" in done.err or done.code == 0:
            counts["had_space"] += 1
        else:
            names_a_file(done)
        if not (folder / "run" / "spec.yaml").exists():  # see `test_a_run_that_cannot_begin_can_begin_later`
            shutil.rmtree(folder / "run")
        if before is not None and limit < len(before):
            assert last.read_bytes() == before
        done = commands(*again(folder), cwd=folder)
        assert done.code == 0 or "is complete" in done.err, done
        assert contents(folder / "run") == expected, limit
    tally("full disk, limits", size(60), **counts)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="its folders stay, which neither train nor resume accepts")
def test_a_run_that_cannot_begin_can_begin_later(commands: Commands, whole: Path, tmp_path: Path) -> None:
    shutil.copy(whole.parent / "images.npy", tmp_path)
    (tmp_path / "work").mkdir()
    names_a_file(commands(*TRAIN, cwd=tmp_path / "work", limits={"RLIMIT_FSIZE": 500}))
    assert commands(*TRAIN, cwd=tmp_path / "work").code == 0


UNNAMED = pytest.mark.xfail(strict=True, raises=AssertionError, reason="the system's error alone, without the file")


@pytest.mark.parametrize("name", [*sorted(USES.keys() - {"resume", "export"}), pytest.param("export", marks=UNNAMED)])
@pytest.mark.parametrize("older", [False, True])
def test_a_command_that_cannot_write_leaves_nothing_behind(
    name: str, older: bool, commands: Commands, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "work")
    shutil.copy(whole.parent / "images.npy", tmp_path)
    out = tmp_path / "work" / (USES[name][-1] if "." in USES[name][-1] else "run/evaluation.json")
    if older:
        out.write_bytes(b"older")
    else:
        out.unlink(missing_ok=True)
    names_a_file(commands(*USES[name], cwd=tmp_path / "work", limits={"RLIMIT_FSIZE": 450}))
    assert out.read_bytes() == b"older" if older else not out.exists()
    assert not [*(tmp_path / "work").rglob(".*tmp*")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB, where such may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_fills_up_during_a_run(
    commands: Commands, ground: Path, small_disk: Path, size: Callable[[int], int], tally: Callable[..., None]
) -> None:
    chance, counts = random.Random("disk"), Counter[str]()
    shutil.copy(ground / "images.npy", small_disk)
    folder, ballast = small_disk / "work", small_disk / "ballast"
    folder.mkdir()
    commands(*TRAIN, *LONGER, cwd=folder)
    expected = contents(folder / "run")
    lines = (folder / "run" / "metrics.jsonl").stat().st_size
    for _ in range(size(30)):
        shutil.rmtree(folder / "run")
        job = commands.start(*TRAIN, *LONGER, cwd=folder)
        metrics, moment = folder / "run" / "metrics.jsonl", chance.uniform(0, 0.8 * lines)
        wait_for(lambda: metrics.exists() and metrics.stat().st_size >= moment or not job.process.is_alive())  # noqa: B023
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(2**16)):
                    pass
            except OSError:
                pass
        done = job.finish().clean()
        counts["failed" if done.code else "finished"] += 1
        if done.code:
            names_a_file(done)
        ballast.unlink()
        done = commands(*again(folder), cwd=folder)
        assert done.code == 0 or "is complete" in done.err, done
        assert contents(folder / "run") == expected
    tally("full disk, filled", size(30), **counts)
