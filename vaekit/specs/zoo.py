"""Models from the literature: data files that name the parts of a model, its reference and its results.

Built-in models are the files of ``vaekit/zoo``. A distribution adds models through the entry-point group ``vaekit.zoo``:
``hvae = "vaekit_hamiltonian"`` announces ``hvae.yaml`` in the folder of that package, which is not imported.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from vaekit import hub, plugins
from vaekit.errors import PluginError, SpecError, UsageError
from vaekit.schema import Spec
from vaekit.specs.models import SECTIONS, read_spec, spec_error, spec_file

FOLDER = Path(__file__).parents[1] / "zoo"
GROUP = "vaekit.zoo"


class Measurement(Spec):
    """A result and how it was measured."""

    number: str = Field(description="The result, with its name, its unit and the data.")
    protocol: str = Field(description="How it was measured.")


class Entry(Spec):
    """A model from the literature."""

    title: str = Field(description="Its name in the literature.")
    year: int = Field(ge=1950, le=2100, description="The year of its publication.")
    about: str = Field(description="A description, with advice on when to choose it.")
    reference: str = Field(description="The work that introduced it, in the form of docstrings.")
    paper: Measurement | None = Field(None, description="A result from the paper.")
    ours: Measurement | None = Field(None, description="A result measured with vaekit.")
    after: str | None = Field(None, description="The model to whose codes it is fitted; None for models trained by themselves.")
    spec: dict[str, Any] = Field(description="A partial spec: how it differs from the default model.")


def names() -> list[str]:
    """Return the names of all models, sorted."""
    return sorted({*_built_in(), *(kind.replace("_", "-") for kind in plugins.installed(GROUP))})


@cache
def _built_in() -> frozenset[str]:
    """Return the names of the models that come with vaekit."""
    return frozenset(file.stem.replace("_", "-") for file in FOLDER.glob("*.yaml"))


def read(name: str) -> Entry:
    """Read the file of a model.

    Raises:
        UsageError: The name is unknown; the message suggests close matches.
        PluginError: A plugin announces it, and its file is missing or invalid.
    """
    name = name.replace("_", "-")
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3)
        remedy = f"did you mean {' or '.join(near)}?" if near else "see `vaekit zoo`"
        raise UsageError(f"unknown model {name!r}", remedy=remedy)
    source = None if is_built_in(name) else _plugin(name)
    file = FOLDER / f"{name.replace('-', '_')}.yaml" if source is None else _file_of(source)
    try:
        return Entry.model_validate(read_spec(file))
    except (SpecError, ValidationError) as error:
        cause = spec_error(error, str(file)) if isinstance(error, ValidationError) else error
        raise cause if source is None else source.unusable(cause) from None


def announced() -> list[plugins.Plugin]:
    """Return the plugins that announce a model, one for each model."""
    return [plugin for claims in plugins.installed(GROUP).values() for plugin in claims]


def is_built_in(name: str) -> bool:
    """Whether a model comes with vaekit, whose models take precedence."""
    return name.replace("_", "-") in _built_in()


def _plugin(name: str) -> plugins.Plugin:
    """Return the plugin that announces a model."""
    found = [plugin for plugin in announced() if plugin.kind.replace("_", "-") == name]
    if len(found) > 1:
        raise PluginError(f"several plugins announce the model {name!r}", given=", ".join(map(str, found)), remedy="keep one")
    return found[0]


def _file_of(plugin: plugins.Plugin) -> Path:
    """Return the file of a model announced by a plugin."""
    roots = (str(plugin.source.locate_file("")), *sys.path)
    module = plugins.module_file(plugin.entry_point.module, roots)
    file = None if module is None else module.parent / f"{plugin.kind.replace('-', '_')}.yaml"
    if file is None or not file.is_file():
        raise plugin.unusable(UsageError("its file is missing", expected=f"{plugin.kind.replace('-', '_')}.yaml in that package"))
    return file


def state(plugin: plugins.Plugin) -> tuple[Literal["ready", "shadowed", "broken"], str]:
    """Return whether a model announced by a plugin can be used, and its name or the reason why not."""
    if is_built_in(plugin.kind):
        return "shadowed", f"vaekit's own model {plugin.kind!r} is used"
    try:
        return "ready", read(plugin.kind).title
    except PluginError as error:
        return "broken", str(error)


def base_of(name: str, base: Mapping[str, Any], init: Any = None) -> dict[str, Any]:
    """Return a spec to start from: that of a model, laid over ``base``.

    Its components replace those of the spec with their options; posterior, prior and losses are all the model's. A model
    fitted to the codes of a trained one keeps them instead; without a spec, it starts from that of the run that ``init`` names.

    Args:
        name: The model.
        base: Plain data of a spec; may be empty.
        init: The run whose weights the new one starts from, if any.

    Raises:
        UsageError: The model is unknown, or it is fitted to a trained one and none is given.
    """
    entry = read(name)
    if entry.after is not None and not base:
        file = None if init is None else spec_file(hub.local_run(init))
        if file is None or not file.is_file():
            raise UsageError(
                f"the model {name!r} is fitted to the codes of a trained {entry.after!r}",
                given="no run" if file is None else f"--init {init}, which is not a run folder",
                expected="--init RUN",
                remedy=f"train one first: vaekit train --model {entry.after}",
            )
        base = read_spec(file)
    if entry.after is None:
        kept = {role: part for role, part in (base.get("model") or {}).items() if role not in {"posterior", "prior", "loss"}}
        base = {**base, "model": kept}
    sections = {section: {**(base.get(section) or {}), **(entry.spec.get(section) or {})} for section in SECTIONS}
    return {**base, **{section: data for section, data in sections.items() if data}}
