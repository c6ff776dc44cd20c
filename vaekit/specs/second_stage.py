"""The second stage of a generative model: a prior is fitted to the codes of a trained one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vaekit import roles
from vaekit.errors import UsageError
from vaekit.files import local_path
from vaekit.interfaces import MODEL_PARTS
from vaekit.specs.models import read_spec, spec_file
from vaekit.specs.resolve import resolve

KEPT = frozenset(
    {"batch_size", "seed", "device", "precision", "parallel", "compile", "workers", "threads"}
    | {"checkpoint_seconds", "pictures", "animation", "logger"}
)
"""The settings of training that a second stage takes from the run; the others start from their defaults."""
DEFAULTS: dict[str, Any] = {"lr": 1e-3, "ema": 0.999}
"""Its own defaults."""


def second_stage(run: str | Path, prior: str | None) -> dict[str, Any]:
    """Return plain data of a spec that fits a prior to the codes of a run, to which options can be added.

    It has the run's data and the run's model, all parts of which are frozen but the prior; the loss is the one that fits this
    prior, such as ``prior_nll``.

    Args:
        run: The run folder.
        prior: The kind of the prior.

    Raises:
        SpecError: The folder has no spec, or it is not valid.
        UnknownComponentError: The prior is not registered.
        UsageError: No prior is chosen; the message lists those on the space of the codes.
    """
    file = spec_file(local_path(run))
    spec = resolve(read_spec(file), str(file))
    space = roles.posteriors.get(spec.model.posterior.kind).space
    if prior is None:
        fit = [kind for kind in roles.priors.kinds() if roles.priors.get(kind).space == space]
        raise UsageError("no prior is chosen", expected=f"--prior {', '.join(fit)}", remedy="see `vaekit components list`")
    data = spec.model_dump(mode="json")
    data["model"]["loss"] = [roles.priors.get(prior).fitted_by]
    kept = {name: value for name, value in data["train"].items() if name in KEPT}
    frozen = [part for part in MODEL_PARTS if part != "prior"]
    data["train"] = {**kept, **DEFAULTS, "init": str(local_path(run)), "freeze": frozen}
    return data
