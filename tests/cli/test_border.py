"""Any failure is reported by the command line in one line, with a remedy and without a traceback."""

from __future__ import annotations

import errno
import json
import tokenize
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from vaekit.cli import main
from vaekit.run import Run

Cli = Callable[..., tuple[int, str, str]]


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


FAILURES: dict[str, tuple[BaseException, list[str]]] = {
    "full disk": (OSError(errno.ENOSPC, "No space left on device"), ["No space left on device", "free disk space"]),
    "permission": (PermissionError(errno.EACCES, "Permission denied", "/x/y"), ["Permission denied: /x/y", "permissions"]),
    "no errno": (OSError("broken\x1b[31m"), ["broken?[31m"]),
    "memory": (MemoryError(), ["out of memory", "--batch-size"]),
    "numpy": (MemoryError("Unable to allocate 3.6 TiB for an array"), ["out of memory", "3.6 TiB"]),
    "torch on a GPU": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), ["out of memory", "9 GiB"]),
    "torch on a CPU": (
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes"
        ),
        ["out of memory", "80 bytes"],
    ),
    "torch on Windows": (
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried 8 bytes."),
        ["out of memory"],
    ),
    "torch overflows": (RuntimeError("numel: integer multiplication overflow"), ["out of memory"]),
    "recursion": (RecursionError("maximum recursion depth exceeded"), ["RecursionError: maximum recursion depth exceeded"]),
    "safetensors": (SafetensorError("header too large"), ["SafetensorError: header too large"]),
    "zlib": (zlib.error("Error -3"), ["error: Error -3"]),
    "tokenize": (tokenize.TokenError("EOF in multi-line statement", (2, 0)), ["TokenError"]),
    "json": (json.JSONDecodeError("Expecting value", "", 0), ["JSONDecodeError: Expecting value"]),
    "unicode": (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), ["UnicodeDecodeError", "invalid start byte"]),
    "key": (KeyError("x"), ["KeyError: 'x'"]),
    "a large number": (
        OverflowError("int too large to convert"),
        ["a number is too large", "int too large to convert"],
    ),
    "a large number of torch's": (ValueError("Overflow when unpacking long long"), ["a number is too large"]),
    "end of file": (EOFError("marshal data too short"), ["EOFError: marshal data too short"]),
    "exit": (SystemExit(3), ["exit(3) was called"]),
    "without a text": (Mute(), ["Mute"]),
    "long": (ValueError("x" * 10**6), ["ValueError: xxx"]),
}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[BaseException], None]:
    """Makes the command ``evaluate`` fail."""
    (tmp_path / "spec.yaml").touch()
    monkeypatch.chdir(tmp_path)

    def fail(error: BaseException) -> None:
        def evaluate(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(Run, "evaluate", evaluate)

    return fail


@pytest.mark.parametrize("case", FAILURES)
def test_every_failure_is_a_line_and_a_remedy(cli: Cli, failing: Callable[[BaseException], None], case: str) -> None:
    error, parts = FAILURES[case]
    failing(error)
    code, out, err = cli("evaluate", ".")
    assert (code, out) == (1, "")
    first, *more = err.splitlines()
    assert first.startswith("error: ")
    assert all(line.startswith("  ") for line in more)
    assert [part for part in parts if part not in err] == []
    assert "Traceback" not in err
    assert "\x1b" not in err
    assert len(err) < 1500


def test_a_bug_report_names_its_location_and_the_debug_option(cli: Cli, failing: Callable[[BaseException], None]) -> None:
    failing(KeyError("x"))
    _, _, err = cli("evaluate", ".")
    assert "test_border.py, line " in err
    assert "--debug" in err
    with pytest.raises(KeyError):
        main(["evaluate", ".", "--debug"])


@pytest.mark.parametrize("arguments", [("plugins",), ("plugins", "list")], ids=" ".join)
def test_ctrl_c_ends_a_command_of_a_group_with_130(cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("VAEKIT_PLUGINS", "1")
    monkeypatch.setattr("vaekit.plugins.installed", interrupted)
    assert cli(*arguments) == (130, "", "interrupted\n")
