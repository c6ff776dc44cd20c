"""vaekit's exceptions. Each states what was given, what was expected, and what to do."""

from __future__ import annotations


def plain(text: object, most: int = 300) -> str:
    r"""Reduce foreign text to a printable line: without control characters, and not too long.

    Args:
        text: The text, or an object such as an exception; the result is empty if it has no readable text.
        most: The maximum number of characters; the rest is replaced by ``…``.

    Example:
        >>> plain("two\nlines, and an escape: \x1b[31m")
        'two lines, and an escape: ?[31m'
    """
    try:
        words = str(text)[: 10 * most].split()
    except Exception:  # the __str__ of a foreign class
        return ""
    line = "".join(character if character.isprintable() else "?" for character in " ".join(words))
    return line if len(line) <= most else f"{line[: most - 1]}…"


def reason_of(error: BaseException) -> str:
    """Return the type and message of an exception in one line."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ in {"builtins", "__main__"} else f"{kind.__module__}.{kind.__qualname__}"
    return f"{name}: {plain(error)}".removesuffix(": ")


class VaekitError(Exception):
    """The base class of vaekit's exceptions; the command line prints them without a traceback.

    Args:
        message: What is wrong, in one sentence.
        given: What was found.
        expected: What would have been valid.
        remedy: What to do next.

    Example:
        >>> print(VaekitError("the file does not exist", given="faces.npy", remedy="check the path"))
        the file does not exist
          given:    faces.npy
          remedy:   check the path
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        given: object | None = None,
        expected: object | None = None,
        remedy: str | None = None,
    ) -> None:
        lines = [message]
        if given is not None:
            lines.append(f"  given:    {given}")
        if expected is not None:
            lines.append(f"  expected: {expected}")
        if remedy is not None:
            lines.append(f"  remedy:   {remedy}")
        super().__init__("\n".join(lines))
        self.message, self.given, self.expected, self.remedy = message, given, expected, remedy


class UsageError(VaekitError):
    """The request is invalid: an unknown name, an option of the wrong type, or parts that do not fit together."""

    exit_code = 2


class SpecError(UsageError):
    """A spec is invalid; the message contains the path of the offending field, such as ``loss.beta``."""


class UnknownComponentError(UsageError):
    """No component is registered under that name."""


class PluginError(VaekitError):
    """An installed plugin cannot be used."""


class DataError(VaekitError):
    """The data are missing, unreadable, or do not fit the model."""


class CheckpointError(VaekitError):
    """A run or checkpoint is missing or truncated, or its architecture does not match."""


class HubError(VaekitError):
    """The Hub cannot be reached or refuses a request, or what it holds is not a run."""


class DivergenceError(VaekitError):
    """A loss became NaN or infinite."""


class ExportError(VaekitError):
    """A model cannot be exported, an exported file differs from its model, or a file was not exported by vaekit."""
