"""What vaekit raises. Every error says what was given, what was expected and what to do."""

from __future__ import annotations


class VaekitError(Exception):
    """A failure that vaekit understands; the command line prints it without a traceback.

    Args:
        message: What went wrong, in one sentence.
        given: What was found.
        expected: What would have been right.
        remedy: What to do next.
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
    """The request itself is wrong: an unknown name, an option of the wrong type, parts that do not fit."""

    exit_code = 2


class SpecError(UsageError):
    """A spec does not validate; the message holds the path into it, as ``loss.beta``."""


class UnknownComponentError(UsageError):
    """No component of that name is registered."""


class PluginError(VaekitError):
    """An installed plugin cannot be used."""


class DataError(VaekitError):
    """Data are missing, unreadable or do not fit the model."""


class CheckpointError(VaekitError):
    """A run or checkpoint is missing, truncated, or of another architecture."""


class DivergenceError(VaekitError):
    """A loss became NaN or infinite."""


class ExportError(VaekitError):
    """A model cannot be exported, an exported file differs from its model, or a file is no export of vaekit."""
