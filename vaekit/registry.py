"""Registries of components by name. Names are read without importing anything; a component is imported when chosen."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vaekit.errors import PluginError, UnknownComponentError

if TYPE_CHECKING:
    from vaekit.interfaces import Backbone, Dataset, Likelihood, Loss, Posterior, Prior
    from vaekit.schema import ComponentSpec

T = TypeVar("T")
C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class Origin:
    """Where a component comes from: ``module:attribute`` and the distribution that installed it."""

    module: str
    attribute: str | None
    distribution: str
    version: str

    def __str__(self) -> str:
        return self.distribution if self.version == "" else f"{self.distribution} {self.version}"


class Registry(Generic[T]):
    """All components of one role (encoders, losses, …), by name.

    Built-ins are the files of ``vaekit.components.<role>s``, the file's stem being the name. Installed packages add theirs
    through the entry-point group ``vaekit.<role>s``; a script or notebook by the decorator alone::

        @vaekit.encoders("mine")
        class Mine(vaekit.Backbone): ...

    Args:
        role: The singular name of the role, as on the command line.
        plural: Name of the package and of the entry-point group.
        base: Name of the class in ``vaekit.interfaces`` that components derive from.
        wiring: What assembly can hand to a component, by the name of its positional parameter.
    """

    def __init__(self, role: str, plural: str, base: str, wiring: tuple[str, ...] = ()) -> None:
        self.role, self.plural, self.base, self.wiring = role, plural, base, wiring
        self.group = f"vaekit.{plural}"
        self._classes: dict[str, type[T]] = {}
        self._specs: dict[str, type[ComponentSpec]] = {}

    def __repr__(self) -> str:
        return f"<registry {self.group}: {', '.join(self.kinds())}>"

    # Registration

    def __call__(self, kind: str) -> Callable[[C], C]:
        """Return a decorator that registers a class under the name ``kind``."""

        def register(cls: C) -> C:
            self._register(kind, cls)
            return cls

        return register

    def _register(self, kind: str, cls: Any) -> None:
        base = getattr(importlib.import_module("vaekit.interfaces"), self.base)
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise PluginError(
                f"{self.role} {kind!r} is not a vaekit.{self.base}",
                given=getattr(cls, "__mro__", (None, type(cls)))[1] if isinstance(cls, type) else type(cls).__name__,
                expected=f"a class derived from vaekit.{self.base}",
            )
        known = self._classes.get(kind)
        redefined = known is not None and (known.__module__, known.__qualname__) == (cls.__module__, cls.__qualname__)
        declared = self._declared_module(kind)
        if (known is not None and not redefined) or (declared is not None and declared != cls.__module__):
            other = f"{known.__module__}.{known.__qualname__}" if known is not None else declared
            raise PluginError(
                f"two components claim the name {kind!r} among the {self.plural}",
                given=f"{other} and {cls.__module__}.{cls.__qualname__}",
                remedy="register one of them under another name",
            )
        setattr(cls, "kind", kind)  # noqa: B010 - T is any class, of which mypy knows no attribute
        self._classes[kind] = cls
        self._specs.pop(kind, None)

    # Discovery

    @cached_property
    def _builtin_files(self) -> dict[str, Path]:
        folder = Path(__file__).parent / "components" / self.plural
        return {file.stem: file for file in sorted(folder.glob("*.py")) if not file.stem.startswith("_")}

    @cached_property
    def _entry_points(self) -> dict[str, list[importlib.metadata.EntryPoint]]:
        found: dict[str, list[importlib.metadata.EntryPoint]] = {}
        if os.environ.get("VAEKIT_PLUGINS", "1") != "0":
            for entry_point in importlib.metadata.entry_points(group=self.group):
                found.setdefault(entry_point.name, []).append(entry_point)
        return found

    def refresh(self) -> None:
        """Read installed entry points again: after a package was installed, or VAEKIT_PLUGINS changed."""
        self.__dict__.pop("_entry_points", None)

    def _declared_module(self, kind: str) -> str | None:
        """The module that must define ``kind``, where a built-in file or exactly one entry point claims it."""
        if kind in self._builtin_files:
            return f"vaekit.components.{self.plural}.{kind}"
        return None

    def kinds(self) -> tuple[str, ...]:
        """Return every registered name, in alphabetical order."""
        return tuple(sorted({*self._builtin_files, *self._entry_points, *self._classes}))

    def __contains__(self, kind: object) -> bool:
        return kind in self._classes or kind in self._builtin_files or kind in self._entry_points

    def origin(self, kind: str) -> Origin:
        """Return where ``kind`` comes from, without importing it."""
        if kind in self._builtin_files:
            from vaekit import __version__

            return Origin(f"vaekit.components.{self.plural}.{kind}", None, "vaekit", __version__)
        if kind in self._entry_points:
            entry_point = self._entry_points[kind][0]
            dist = entry_point.dist
            name, version = (dist.name, dist.version) if dist is not None else ("unknown", "")
            return Origin(entry_point.module, entry_point.attr, name, version)
        if kind in self._classes:
            cls = self._classes[kind]
            return Origin(cls.__module__, cls.__qualname__, cls.__module__, "")
        raise self.unknown(kind)

    def unknown(self, kind: str) -> UnknownComponentError:
        """Return the error for a name that nothing is registered under."""
        near = difflib.get_close_matches(kind, self.kinds(), n=1)
        return UnknownComponentError(
            f"no {self.role} is called {kind!r}",
            expected=f"one of {', '.join(self.kinds())}",
            remedy=f"did you mean {near[0]!r}?" if near else "see `vaekit components list`",
        )

    def summary(self, kind: str) -> str:
        """Return the first line of the component's docstring, read from its source without importing it."""
        if kind in self._classes:
            return (self._classes[kind].__doc__ or "").strip().partition("\n")[0]
        origin = self.origin(kind)
        file = self._builtin_files.get(kind) or _source_file(self._entry_points[kind][0])
        if file is None:
            return ""
        classes = [node for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, ast.ClassDef)]
        chosen = [c for c in classes if c.name == origin.attribute] or [c for c in classes if _registers(c, kind)]
        return (ast.get_docstring(chosen[0]) or "").partition("\n")[0] if chosen else ""

    # Use

    def get(self, kind: str) -> type[T]:
        """Import and return the class registered under ``kind``.

        Raises:
            UnknownComponentError: Nothing has that name; the message lists what exists.
            PluginError: An installed plugin claims the name but cannot be used; the message says which and why.
        """
        if kind in self._classes:
            return self._classes[kind]
        if kind in self._builtin_files:
            if kind in self._entry_points:
                warnings.warn(
                    f"{self._entry_points[kind][0].dist} also claims the {self.role} {kind!r}; vaekit's own is used",
                    stacklevel=2,
                )
            importlib.import_module(f"vaekit.components.{self.plural}.{kind}")
            return self._classes[kind]
        if kind in self._entry_points:
            self._load_plugin(kind)
            return self._classes[kind]
        raise self.unknown(kind)

    def _load_plugin(self, kind: str) -> None:
        candidates = self._entry_points[kind]
        if len(candidates) > 1:
            raise PluginError(
                f"two installed plugins claim the {self.role} {kind!r}",
                given=" and ".join(f"{e.dist and e.dist.name} ({e.value})" for e in candidates),
                remedy="uninstall one of them",
            )
        entry_point, origin = candidates[0], self.origin(kind)
        try:
            cls = entry_point.load()
            if kind not in self._classes:
                self._register(kind, cls)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may even call sys.exit() on import
            raise PluginError(
                f"plugin {origin} cannot provide the {self.role} {kind!r}",
                given=f"entry point {entry_point.value} of group {self.group}: {type(error).__name__}: {error}",
                remedy=f"upgrade or uninstall {origin.distribution}; `vaekit plugins` shows its state",
            ) from error

    def spec(self, kind: str) -> type[ComponentSpec]:
        """Return the spec model of ``kind``, derived from the signature of its class."""
        if kind not in self._specs:
            from vaekit.schema import derive_spec

            self._specs[kind] = derive_spec(self.get(kind), kind, self.wiring)
        return self._specs[kind]

    def build(self, spec: ComponentSpec, **available: Any) -> T:
        """Build the component that ``spec`` names, with its options and the wiring that it asks for."""
        from vaekit.schema import wiring

        cls = self.get(spec.kind)
        options = {name: getattr(spec, name) for name in type(spec).model_fields if name != "kind"}
        return cls(*(available[name] for name in wiring(cls)), **options)


def _registers(node: ast.ClassDef, kind: str) -> bool:
    """Whether a class statement is decorated with ``@<registry>("kind")``."""
    return any(
        isinstance(d, ast.Call) and any(isinstance(a, ast.Constant) and a.value == kind for a in d.args)
        for d in node.decorator_list
    )


def _source_file(entry_point: importlib.metadata.EntryPoint) -> Path | None:
    """The file of an entry point's module, found without importing its package."""
    relative = Path(*entry_point.module.split("."))
    roots = [Path(str(entry_point.dist.locate_file("")))] if entry_point.dist is not None else []
    for root in [*roots, *map(Path, sys.path)]:
        for file in (root / relative.with_suffix(".py"), root / relative / "__init__.py"):
            if file.is_file():
                return file
    return None


encoders: Registry[Backbone] = Registry("encoder", "encoders", "Backbone", ("in_shape", "out_shape"))
decoders: Registry[Backbone] = Registry("decoder", "decoders", "Backbone", ("in_shape", "out_shape"))
posteriors: Registry[Posterior] = Registry("posterior", "posteriors", "Posterior", ("latent_dim",))
priors: Registry[Prior] = Registry("prior", "priors", "Prior", ("latent_dim",))
likelihoods: Registry[Likelihood] = Registry("likelihood", "likelihoods", "Likelihood", ("image_shape",))
losses: Registry[Loss] = Registry("loss", "losses", "Loss", ("latent_dim", "image_shape"))
datasets: Registry[Dataset] = Registry("dataset", "datasets", "Dataset")

REGISTRIES: tuple[Registry[Any], ...] = (encoders, decoders, posteriors, priors, likelihoods, losses, datasets)
