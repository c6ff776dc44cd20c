"""Helpers of posteriors that depend on the prior."""

from __future__ import annotations

from typing import Any, TypeVar

from vaekit.errors import UsageError

P = TypeVar("P")


def prior_density(kind: str, model: Any, density: type[P], what: str) -> P:
    """Return the density of a model's prior.

    Args:
        kind: The name of the posterior, which requires the prior of the same name.
        model: The model.
        density: The required type.
        what: What the posterior takes from the prior, for the error message.

    Raises:
        UsageError: No model is given, or its prior is of another type.
    """
    p = None if model is None else model.prior(model)
    if not isinstance(p, density):
        raise UsageError(
            f"the posterior {kind!r} depends on {what}, which the prior does not provide",
            given="no model" if model is None else f"the prior {model.prior.kind!r}",
            expected=f"a model with the prior {kind!r}",
        )
    return p
