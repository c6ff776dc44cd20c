"""What losses that draw noise of their own share."""

from __future__ import annotations

from torch import Tensor

from vaekit.errors import UsageError
from vaekit.trace import Trace


def draws_of(trace: Trace, kind: str) -> Tensor:
    """Return the noise that a loss drew for a trace.

    Raises:
        UsageError: It drew none: the trace was not made by an objective.
    """
    if kind not in trace.draws:
        raise UsageError(
            f"the loss {kind!r} needs noise of its own, and the trace has none",
            given=f"draws of {', '.join(trace.draws) or 'no loss'}",
            expected=f"noise under {kind!r} in trace.draws",
            remedy=f'call the model with draws={{"{kind}": loss.draw_noise(len(x), like=x, model=model)}}',
        )
    return trace.draws[kind]
