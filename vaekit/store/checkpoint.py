"""Checkpoints and model files: safetensors with JSON metadata, written atomically. Nothing is ever unpickled.

A *model file* contains the weights and everything needed to rebuild the model: its spec, the facts about its data, and the
versions of vaekit and of the distributions that its components come from. The *best* file is the same for the whole objective,
including the weights of its losses. A *checkpoint* adds the optimiser state, the moving average (EMA) of the weights and the
position in training.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vaekit import plugins, roles
from vaekit._version import __version__
from vaekit.compute.distributed import ProcessGroup
from vaekit.compute.sharding import like
from vaekit.data.facts import Facts
from vaekit.errors import CheckpointError, SpecError, UnknownComponentError, VaekitError, reason_of
from vaekit.files import write_atomically
from vaekit.registry import Registry
from vaekit.schema import ComponentSpec
from vaekit.specs.models import RunSpec
from vaekit.specs.resolve import resolve
from vaekit.specs.text import portable
from vaekit.store.folder import RunFolder
from vaekit.store.header import FORMAT

LONGEST_NAME = 200
"""The largest number of characters in the name of a component, of its distribution and in its version."""


OMITTED = {"train": {"name", "tag", "logger"}}
"""The settings that the spec in a file omits, since they do not affect the model."""


@dataclass(frozen=True)
class Header:
    """The metadata of a model file or checkpoint."""

    spec: RunSpec
    facts: Facts
    data: dict[str, Any]
    """Fingerprint of the training images; see `vaekit.data.Splits.fingerprint`."""
    versions: dict[str, Any]
    state: dict[str, Any]
    init: str | None = None
    """Digest of the initial weights, if they were taken from another run."""


def origins(spec: RunSpec) -> dict[str, dict[str, str]]:
    """Return, for each component of a resolved spec, the distribution and version that it came from."""
    model = spec.model
    chosen: list[tuple[Registry[Any], ComponentSpec]] = [
        (roles.encoders, model.encoder),
        (roles.decoders, model.decoder),
        (roles.posteriors, model.posterior),
        (roles.priors, model.prior),
        (roles.likelihoods, model.likelihood),
        (roles.conditions, model.condition),
        *((roles.losses, loss) for loss in model.loss),
        (roles.datasets, spec.data.dataset),
    ]
    found = {}
    for components, component in chosen:
        origin = components.origin(component.kind)
        found[f"{components.role}:{component.kind}"] = {"distribution": origin.distribution, "version": origin.version}
    return found


def _metadata(spec: RunSpec, facts: Facts, data: Mapping[str, Any], state: Mapping[str, Any], init: str | None) -> dict[str, Any]:
    return {
        "spec": spec.model_dump(mode="json", exclude=OMITTED),
        "facts": facts.model_dump(mode="json"),
        "data": dict(data),
        "versions": {"vaekit": __version__, "torch": torch.__version__, "components": origins(spec)},
        "state": dict(state),
        **({} if init is None else {"init": init}),
    }


def check_readable(path: Path, spec: RunSpec, *, facts: Facts, data: Mapping[str, Any], init: str | None = None) -> None:
    """Check that a run about to be trained can be read back once it is saved; the arguments are those of `save`.

    Raises:
        CheckpointError: It cannot, for example because the name of a component's module holds a control character.
    """
    metadata = _metadata(spec, facts, data, {}, init)
    try:
        read = _parse(path, json.dumps(metadata)).spec.model_dump(mode="json", exclude=OMITTED)
        if read != metadata["spec"]:
            raise ValueError("the spec read back differs from the one written")
    except (VaekitError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            "a checkpoint of this run could not be read",
            given=error.given if isinstance(error, VaekitError) and error.given else reason_of(error),
            expected="components and options that can be written as text and read again",
        ) from error


def save(
    path: Path,
    tensors: Mapping[str, Tensor],
    spec: RunSpec,
    *,
    facts: Facts,
    data: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
    init: str | None = None,
) -> None:
    """Write a model file or checkpoint atomically; its spec lacks the settings in `OMITTED`."""
    _write(path, tensors, _metadata(spec, facts, data, state or {}, init))


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    sealed = json.dumps({**metadata, "digest": digest_of(metadata, whole)})

    def write(temporary: Path) -> None:
        try:
            save_file(whole, temporary, {FORMAT: sealed})
        except SafetensorError as error:  # it hides the system's error, such as a full disk
            raise OSError(str(error)) from error

    write_atomically(path, write)


def digest_of(metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of a file's metadata and of the names, types, shapes and bytes of its tensors."""
    digest = hashlib.blake2b(json.dumps(metadata).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load(
    path: Path, *, device: str | torch.device = "cpu", processes: ProcessGroup | None = None
) -> tuple[dict[str, Tensor], Header]:
    """Read a model file or checkpoint.

    Args:
        path: The file.
        device: Where the tensors go.
        processes: The processes that load it together; the leading one reads the file, and the others need no access to it.

    Raises:
        CheckpointError: The file is missing, truncated or not vaekit's, or it names a component that is not installed.
    """
    tensors, text = _read(path) if processes is None or processes.leads else ({}, "")
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    if processes is not None:
        tensors, text = processes.share_tensors(tensors), processes.share_text(text)
    return tensors, _parse(path, text)


def copy_to_share(source: Path, target: Path, *, without: str | None = None) -> None:
    """Copy a model file, or the losses in it, for sharing: without local paths in its spec.

    The metadata say ``{"format": "pt"}`` too, which tells other readers of safetensors that the tensors are torch's. Equal
    files have equal copies.

    Args:
        source: The file.
        target: The copy; it is not written if no tensors are left.
        without: The prefix of the tensors to leave out.

    Raises:
        CheckpointError: The file is missing, truncated or not vaekit's.
    """
    tensors, text = _read(source)
    if without is not None:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(without)}
    if not tensors:
        return
    metadata = json.loads(text)
    del metadata["digest"]
    _write(target, tensors, {**metadata, "spec": portable(metadata["spec"])})
    content = target.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = {"format": "pt", **header["__metadata__"]}  # here, since safetensors writes several in any order
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    write_atomically(target, lambda path: path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + content[8 + size :]))


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read a file's tensors and metadata, and check that they are unchanged since they were written."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is not a regular file", remedy="name a run folder or a model file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if FORMAT not in metadata:
                raise CheckpointError(
                    f"{path} was not written by vaekit, or by another version of it",
                    given=f"metadata {', '.join(metadata) or 'absent'}",
                    expected=f"metadata {FORMAT}",
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist", remedy="continue the run: `vaekit resume RUN` writes it after the first epoch"
        ) from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file", given=error, remedy="use another checkpoint"
        ) from None
    text = metadata[FORMAT]
    try:
        content = json.loads(text)
        whole = content.pop("digest") == digest_of(content, tensors)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the metadata of {path} is damaged", given=reason_of(error)) from None
    if not whole:
        raise CheckpointError(
            f"{path} is damaged: its content has changed since it was written",
            expected="the digest in its metadata",
            remedy="use another checkpoint, or copy the file again",
        )
    return tensors, text


def _parse(path: Path, text: str) -> Header:
    try:
        metadata = json.loads(text)
        plain, facts, init = metadata["spec"], Facts.model_validate(metadata["facts"]), metadata.get("init")
        data, versions, state = (metadata[key] for key in ("data", "versions", "state"))
        parts = (data, versions, state, *data.values()) if isinstance(data, dict) else (data,)
        if not (all(isinstance(part, dict) for part in parts) and isinstance(versions.get("torch"), str)):
            raise TypeError(f"data {data!r:.80}, versions {versions!r:.80}")
        if not isinstance(init, str | None):
            raise TypeError(f"init {init!r:.80}")
        for key in ("epoch", "step", "best_epoch"):
            if type(number := state.get(key, 0)) is not int or not 0 <= number < 2**53:
                raise TypeError(f"{key} {number!r:.80}")
        recorded = _recorded(versions)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the metadata of {path} is damaged", given=reason_of(error)) from None
    changes = _changes(recorded)
    try:
        spec = resolve(plain, f"the spec in {path}")
    except UnknownComponentError as error:
        raise _missing_component(path, error, recorded) from None
    except SpecError as error:
        if not changes:
            raise
        raise CheckpointError(error.message, given=_described(changes), remedy=_install(changes)) from None
    if changes:
        warnings.warn(f"{path} was written with other versions: {_described(changes)}", stacklevel=3)
    return Header(spec, facts, data, versions, state, init)


class Recorded(NamedTuple):
    """A component recorded in a file, with the distribution that provided it when the file was written."""

    components: Registry[Any]
    kind: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.components.role}:{self.kind} from {self.distribution} {self.version}".strip()


def _recorded(versions: Mapping[str, Any]) -> list[Recorded]:
    """Read the components recorded in a file; unprintable names raise ValueError."""
    registries = {components.role: components for components in roles.REGISTRIES}
    found = []
    for component, origin in versions.get("components", {}).items():
        role, _, kind = component.partition(":")
        names = kind, origin["distribution"], origin["version"]
        if not all(name.isprintable() and len(name) <= LONGEST_NAME for name in names):
            raise ValueError(f"{role} {' '.join(names)!r:.100} is not a component, a distribution and a version")
        found.append(Recorded(registries[role], *names))
    return found


def _changes(recorded: Iterable[Recorded]) -> list[Recorded]:
    """Return the components that are installed in another version or from another distribution."""
    changed = []
    for component in recorded:
        if component.kind in component.components:
            now = component.components.origin(component.kind)
            same = (now.distribution, now.version) == component[2:]
            own = now.distribution == component.distribution == "vaekit"
            scripted = not now.version and not component.version
            changed += [] if same or own or scripted else [component]
    return changed


def _described(changes: Iterable[Recorded]) -> str:
    return "; ".join(f"{change}, now from {change.components.origin(change.kind)}" for change in changes)


def _install(components: Iterable[Recorded]) -> str | None:
    """Return the command that installs distributions; a file may hold anything, so only plausible names make a command."""
    names = sorted({f"{c.distribution}=={c.version}" for c in components if c.distribution != "vaekit"})
    safe = [name for name in names if re.fullmatch(r"[a-z0-9][\w.-]*==\w[\w.!+-]*", name, re.ASCII | re.IGNORECASE)]
    return f"pip install {' '.join(safe)}" if safe else None


def _missing_component(path: Path, error: UnknownComponentError, recorded: Iterable[Recorded]) -> CheckpointError:
    absent = [component for component in recorded if component.kind not in component.components]
    remedy = _install(absent)
    remedy = f"{remedy}, if you trust the author of the file" if remedy else "define and register it before loading"
    return CheckpointError(
        f"{path} uses components that are not available: {error.message}",
        given=", ".join(map(str, absent)) or None,
        remedy=remedy if plugins.enabled() else f"{remedy}; plugins are disabled",
    )


def load_best(
    objective: nn.Module, folder: RunFolder, *, device: str | torch.device, processes: ProcessGroup | None = None
) -> int:
    """Load the best weights of a run into its objective; return the epoch they come from.

    In shared form, the weights of the model and of its losses are in separate files.

    Raises:
        CheckpointError: The weights are missing or truncated, or their architecture does not match.
    """
    if folder.is_shared:
        tensors, header = load(folder.model, device=device, processes=processes)
        tensors = with_prefix("vae.", tensors)
        if folder.losses.is_file():
            tensors |= load(folder.losses, device=device, processes=processes)[0]
    else:
        tensors, header = load(folder.best, device=device, processes=processes)
    load_weights(objective, tensors, folder.model if folder.is_shared else folder.best)
    epoch: int = header.state.get("epoch", 0)
    return epoch


def space_for(objective: nn.Module) -> int:
    """Return the approximate size of a run's files in bytes."""
    return 40 * sum(parameter.numel() for parameter in objective.parameters()) + 20_000_000


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load weights into a module with the same names and shapes.

    Raises:
        CheckpointError: The names or shapes differ, in which case the message lists the differences; or weights are NaN or
            infinite.
    """
    own = matched(module.state_dict(), tensors, path)
    bad = [name for name, _ in module.named_parameters() if not tensors[name].isfinite().all()]  # buffers may be infinite
    if bad:
        raise CheckpointError(f"the weights in {path} are NaN or infinite", given=_few(bad), remedy="train the model again")
    module.load_state_dict(own)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def matched(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return a file's tensors, sharded and laid out like this process's own tensors of the same names and shapes.

    Raises:
        CheckpointError: The names or shapes differ; the message lists the differences.
    """
    different = [
        *(f"{name}: missing from the file" for name in own.keys() - tensors.keys()),
        *(f"{name}: not in the model" for name in tensors.keys() - own.keys()),
        *(
            f"{name}: {tuple(tensors[name].shape)} in the file, {tuple(own[name].shape)} in the model"
            for name in own.keys() & tensors.keys()
            if own[name].shape != tensors[name].shape
        ),
    ]
    if different:
        shown = "\n            ".join(sorted(different)[:8])
        changes = _changes_of(path)
        raise CheckpointError(
            f"the weights in {path} do not match the model's architecture ({len(different)} differences)",
            given=shown + (f"\n            {_described(changes)}" if changes else ""),
            remedy=_install(changes) or "load them with the spec and the versions used in training",
        )
    return {name: like(tensor, own[name]) for name, tensor in tensors.items()}


def _changes_of(path: Path) -> list[Recorded]:
    with safe_open(path, framework="pt") as file:
        return _changes(_recorded(json.loads(file.metadata()[FORMAT])["versions"]))


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with ``prefix`` prepended to their names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with ``prefix``, with it removed."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def optimizer_tensors(optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Flatten the states of optimisers into ``{player.parameter.key: tensor}``."""
    flat = {}
    for player, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                flat[f"{player}.{index}.{key}"] = torch.as_tensor(value)
    return flat


def load_optimizer_tensors(optimizers: Iterable[torch.optim.Optimizer], flat: Mapping[str, Tensor]) -> None:
    """Restore optimiser states from `optimizer_tensors`, in the parameters' memory layout, which fused optimisers rely on.

    Raises:
        ValueError: A tensor belongs to no parameter, has another shape than its parameter, or is NaN or infinite.
    """
    for player, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, Tensor]] = {}
        (group,) = optimizer.param_groups
        for name, value in without_prefix(f"{player}.", flat).items():
            index, _, key = name.partition(".")
            if not (index.isdecimal() and int(index) < len(group["params"])):
                raise ValueError(f"{name} belongs to no parameter")
            parameter = group["params"][int(index)]
            if value.shape != (() if key == "step" else parameter.shape) or not value.isfinite().all():
                raise ValueError(f"{name} has shape {tuple(value.shape)}, or is NaN or infinite")
            states.setdefault(int(index), {})[key] = like(value, parameter) if value.shape == parameter.shape else value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
