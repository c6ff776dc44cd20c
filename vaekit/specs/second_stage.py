"""Second stages: a prior is fitted to the codes of a trained model, or a smaller decoder learns to decode them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vaekit import roles
from vaekit.errors import UsageError
from vaekit.files import local_path
from vaekit.interfaces import MODEL_PARTS
from vaekit.specs.models import RunSpec, read_spec, spec_file
from vaekit.specs.resolve import resolve

KEPT = frozenset(
    {"batch_size", "seed", "device", "precision", "parallel", "compile", "workers", "threads"}
    | {"checkpoint_seconds", "pictures", "animation", "logger"}
)
"""The training settings that a second stage takes from the run; the others start from their defaults."""
DEFAULTS: dict[str, Any] = {"lr": 1e-3, "ema": 0.999}
"""Its own defaults."""
OWN = frozenset({"name", "tag", "max_steps", "max_time", "patience", "best", "init", "freeze"})
"""The training settings that distillation does not take from the run."""


def second_stage(run: str | Path, prior: str | None) -> dict[str, Any]:
    """Return plain data of a spec that fits a prior to the codes of a run, to which options can be added.

    It has the run's data and model, with all parts frozen except the prior; the loss is the one that suits this prior, such as
    ``prior_nll``.

    Args:
        run: The run folder.
        prior: The kind of the prior.

    Raises:
        SpecError: The folder has no spec, or it is not valid.
        UnknownComponentError: The prior is not registered.
        UsageError: No prior is chosen; the message lists those on the space of the codes.
    """
    spec = _spec_of(run)
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


def distillation(run: str | Path, decoder: str | None) -> dict[str, Any]:
    """Return plain data of a spec that trains another decoder for the codes of a run, to which options can be added.

    It has the run's data, training settings and model. Only the decoder, and the parameters of the likelihood if it has any, are
    trained: encoder, posterior, prior and condition are frozen. The loss is ``-log p(x|z)`` of the images, for samples z from the
    frozen posterior, to which losses that compare pictures can be added.

    Args:
        run: The run folder.
        decoder: The kind of the decoder; its options start from their defaults, or from the run's if it has the same kind.

    Raises:
        SpecError: The folder has no ``spec.yaml``, or it is not valid.
        UsageError: No decoder is chosen; the message lists all.

    References:
        Bohan (2023), "TAESD: Tiny AutoEncoder for Stable Diffusion", https://github.com/madebyollin/taesd.
    """
    if decoder is None:
        fit = ", ".join(roles.decoders.kinds())
        raise UsageError("no decoder is chosen", expected=f"--decoder {fit}", remedy="see `vaekit components list`")
    data = _spec_of(run).model_dump(mode="json")
    data["model"]["loss"] = []
    kept = {name: value for name, value in data["train"].items() if name not in OWN}
    frozen = [part for part in MODEL_PARTS if part not in {"decoder", "likelihood"}]
    data["train"] = {**kept, "init": str(local_path(run)), "freeze": frozen}
    return data


def _spec_of(run: str | Path) -> RunSpec:
    """Return the spec of a run folder."""
    file = spec_file(local_path(run))
    return resolve(read_spec(file), str(file))
