"""Initial weights from another run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from vaekit import hub
from vaekit.compute.distributed import ProcessGroup
from vaekit.data.facts import Facts
from vaekit.data.pixels import UNIT
from vaekit.errors import CheckpointError, UsageError
from vaekit.interfaces import MODEL_PARTS
from vaekit.model.vae import VAE
from vaekit.schema import ComponentSpec, ModelPart
from vaekit.specs.models import RunSpec, spec_file
from vaekit.specs.resolve import resolve
from vaekit.specs.text import value_text
from vaekit.store import checkpoint, diffusers
from vaekit.store.folder import model_file


class Initial(NamedTuple):
    """Weights of another run, from which a run starts.

    Args:
        weights: The weights, and the buffers, by their names in the model.
        note: A sentence that states which parts are taken and which are not.
    """

    weights: dict[str, Tensor]
    note: str

    @property
    def digest(self) -> str:
        """A digest of the weights."""
        return checkpoint.digest_of({}, self.weights)


def read_initial(spec: RunSpec, vae: VAE, facts: Facts, processes: ProcessGroup | None = None) -> Initial | None:
    """Read the weights named by a spec's ``init``, as far as they fit the model; None if it names none.

    A part fits if its kind and its shapes match those of the run. A frozen part must fit and have the same options, since these
    may determine the meaning of its weights.

    Args:
        spec: A complete spec.
        vae: The model built from it, which is not changed.
        facts: The facts about its data.
        processes: The processes that train together, of which the leading one reads the file; default: this process alone.

    Raises:
        CheckpointError: The file is missing or damaged, or holds NaN or infinite weights.
        UsageError: No part fits, a frozen part does not, or the run was trained on data with other channels or another range.
    """
    if spec.train.init is None:
        return None
    init, source = hub.shown(spec.train.init), _source(spec.train.init, facts, processes)
    tensors, theirs = source.tensors, source.spec.model
    here, there = (_form(each) for each in (facts, source.facts))
    if here != there:
        raise UsageError(f"the model in {init} was trained on other data", given=here, expected=f"as there, {there}")
    taken: dict[str, Tensor] = {}
    parts: list[str] = []
    reasons: dict[ModelPart, str] = {}
    for part in MODEL_PARTS:
        here, there = getattr(spec.model, part), getattr(theirs, part)
        own, given = vae.get_submodule(part).state_dict(), checkpoint.without_prefix(f"{part}.", tensors)
        frozen, options = part in spec.train.freeze, _options(here, there)
        reason = _kinds(here, there) or _shapes(own, given) or (options if frozen else None)
        if reason is None:
            taken |= checkpoint.with_prefix(f"{part}.", given)
            parts += [f"{part} ({options})" if options else part] if given else []
        elif frozen:
            raise UsageError(
                f"the frozen {part} differs from that of {init}",
                given=reason,
                expected=f"the {part} of that run: a part frozen with other weights would never be trained",
                remedy=f"start from the spec.yaml of that run, or do not freeze the {part}",
            )
        else:
            reasons[part] = reason
    rejected = "; ".join(f"{part} ({reason})" for part, reason in reasons.items())
    if not taken:
        raise UsageError(
            f"no weights of {init} fit the model",
            given=rejected or "a model without weights",
            expected="a part of the same kind and shapes",
            remedy="start from the spec.yaml of that run",
        )
    if bad := [name for name, _ in vae.named_parameters() if name in taken and not taken[name].isfinite().all()]:
        raise CheckpointError(f"the weights in {init} are NaN or infinite", given=bad[0], remedy="use another --init")
    epoch = "" if source.epoch is None else f", epoch {source.epoch}"
    return Initial(
        taken, f"initial weights from {init}{epoch}: {', '.join(parts)}" + (f"; not taken: {rejected}" if rejected else "")
    )


class Source(NamedTuple):
    """A model whose weights a run may start from.

    Args:
        tensors: Its weights and buffers by name.
        spec: Its spec.
        facts: The facts about its data.
        epoch: The epoch of the weights, if known.
    """

    tensors: dict[str, Tensor]
    spec: RunSpec
    facts: Facts
    epoch: int | None


def _source(init: Path, facts: Facts, processes: ProcessGroup | None) -> Source:
    """Read the model named by ``init``: a run, a model file, or a diffusers folder, whose networks take data of any size."""
    leads = processes is None or processes.leads
    path = hub.local_run(init) if leads else init
    if leads and not path.exists():
        raise UsageError(f"--init {init} does not exist", expected="a run folder, a model file or a folder of diffusers")
    foreign = leads and not spec_file(path).is_file() and diffusers.is_diffusers(path)
    config = json.dumps(diffusers.read_config(path)) if foreign else ""
    config = config if processes is None else processes.share_text(config)
    if config:
        tensors = diffusers.read_weights(path) if leads else {}
        tensors = tensors if processes is None else processes.share_tensors(tensors)
        settings = json.loads(config)
        shape = (settings.get("in_channels", 3), *facts.data_shape[1:])
        spec = resolve({"model": diffusers.model_of(settings)}, str(init))
        return Source(tensors, spec, facts.model_copy(update={"data_shape": shape, "value_range": UNIT}), None)
    tensors, header = checkpoint.load(model_file(path) if leads else path, processes=processes)
    return Source(tensors, header.spec, header.facts, header.state.get("epoch"))


def _form(facts: Facts) -> str:
    """Describe what the data must have in common with those of the initial weights; networks with latent grids take any size."""
    channels, *sides = facts.data_shape
    return f"{channels} channels, {len(sides)} sides, values from {facts.value_range[0]:g} to {facts.value_range[1]:g}"


def _kinds(here: ComponentSpec, there: ComponentSpec) -> str | None:
    """Return how the kinds of two components differ; None if they do not."""
    return None if here.kind == there.kind else f"{here.kind!r} here, {there.kind!r} there"


def _shapes(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """Return how the names or shapes of two sets of tensors differ; None if they do not."""
    here, there = ({name: tuple(tensor.shape) for name, tensor in each.items()} for each in (own, given))
    changed = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    return f"{changed[0]} is {here.get(changed[0], 'absent')} here, {there.get(changed[0], 'absent')} there" if changed else None


def _options(here: ComponentSpec, there: ComponentSpec) -> str | None:
    """Return how the options of two components differ; None if they do not, or if the kinds differ."""
    for name, value in here if here.kind == there.kind else ():
        if value != getattr(there, name):
            return f"{name} is {value_text(value)} here, {value_text(getattr(there, name))} there"
    return None
