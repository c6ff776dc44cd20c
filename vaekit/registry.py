"""Registries of components by name. Names are read without importing anything; a component is imported when chosen."""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from vaekit import plugins
from vaekit._version import __version__
from vaekit.errors import PluginError, UnknownComponentError, VaekitError
from vaekit.plugins import Plugin

if TYPE_CHECKING:
    from vaekit.schema import ComponentSpec

T = TypeVar("T")
C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class Origin:
    """Where a component comes from: ``module:class`` and the distribution that installed it, or the module of a script."""

    value: str
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
        base: The class that components derive from, as ``module:class``; it is imported when the first one registers.
        wiring: What assembly can hand to a component, by the name of its positional parameter.
    """

    def __init__(self, role: str, plural: str, base: str, wiring: tuple[str, ...] = ()) -> None:
        self.role, self.plural, self.base, self.wiring = role, plural, base, wiring
        self.group = f"vaekit.{plural}"
        self._classes: dict[str, type[T]] = {}
        self._specs: dict[str, type[ComponentSpec]] = {}
        self._loaded: dict[str, Plugin] = {}

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
        module, _, name = self.base.partition(":")
        base = getattr(importlib.import_module(module), name)
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise PluginError(
                f"{self.role} {kind!r} is not a vaekit.{name}",
                given=getattr(cls, "__mro__", (None, type(cls)))[1] if isinstance(cls, type) else type(cls).__name__,
                expected=f"a class derived from vaekit.{name}",
            )
        if missing := sorted(getattr(cls, "__abstractmethods__", ())):
            raise PluginError(f"{self.role} {kind!r} does not define {', '.join(missing)}", given=cls.__qualname__)
        other_kind = cls.__dict__.get("kind", kind)
        if other_kind != kind:
            raise PluginError(
                f"{cls.__qualname__} is registered as {other_kind!r} already, and cannot be {kind!r} too",
                remedy="derive a class for the other name",
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

    @contextmanager
    def temporarily(self, **classes: type) -> Iterator[None]:
        """Register classes by name for a while; at the end they are forgotten, and all else that was registered but built-ins.

        For tests of components that should not outlive them.

        Example:
            >>> with vaekit.losses.temporarily(squared=Squared):  # doctest: +SKIP
            ...     vaekit.train(loss="squared")
        """
        before = dict(self._classes), dict(self._specs), dict(self._loaded)
        try:
            for kind, cls in classes.items():
                self._register(kind, cls)
            yield
        finally:
            now: dict[str, Any] = self._classes
            for kind, cls in now.items():
                if before[0].get(kind) is not cls and kind not in self._builtin_files:
                    del cls.kind  # so that it can be registered under another name
            imported = {kind: cls for kind, cls in now.items() if kind in self._builtin_files}  # modules register only once
            self._classes, self._specs, self._loaded = {**before[0], **imported}, before[1], before[2]

    # Discovery

    @cached_property
    def _builtin_files(self) -> dict[str, Path]:
        folder = Path(__file__).parent / "components" / self.plural
        return {file.stem: file for file in sorted(folder.glob("*.py")) if not file.stem.startswith("_")}

    @property
    def _plugins(self) -> dict[str, tuple[Plugin, ...]]:
        return plugins.installed(self.group)

    def _declared_module(self, kind: str) -> str | None:
        """The module that must define ``kind``, where it is a built-in one."""
        if kind in self._builtin_files:
            return f"vaekit.components.{self.plural}.{kind}"
        return None

    def kinds(self) -> tuple[str, ...]:
        """Return every registered name, in alphabetical order."""
        return tuple(sorted({*self._builtin_files, *self._plugins, *self._classes}))

    def __contains__(self, kind: object) -> bool:
        return kind in self._classes or kind in self._builtin_files or kind in self._plugins

    def origin(self, kind: str) -> Origin:
        """Return where ``kind`` comes from, without importing it."""
        if kind in self._builtin_files:
            return Origin(f"vaekit.components.{self.plural}.{kind}", "vaekit", __version__)
        if kind in self._plugins:
            plugin = self._plugins[kind][0]
            return Origin(plugin.entry_point.value, plugin.distribution, plugin.version)
        if kind in self._classes:
            cls = self._classes[kind]
            return Origin(f"{cls.__module__}:{cls.__qualname__}", cls.__module__, "")
        raise self.unknown(kind)

    def unknown(self, kind: str) -> UnknownComponentError:
        """Return the error for a name that nothing is registered under."""
        near = difflib.get_close_matches(kind, self.kinds(), n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "see `vaekit components list`"
        return UnknownComponentError(
            f"no {self.role} is called {kind!r}",
            expected=f"one of {', '.join(self.kinds())}",
            remedy=remedy if plugins.enabled() else f"{remedy}; plugins are switched off",
        )

    def summary(self, kind: str) -> str:
        """Return the first line of the component's docstring, read from its source without importing it."""
        if kind in self._classes:
            return (self._classes[kind].__doc__ or "").strip().partition("\n")[0]
        if kind in self._builtin_files:
            return plugins.first_line(self._builtin_files[kind], kind)
        return self._plugins[kind][0].summary() if kind in self._plugins else ""

    # Use

    def get(self, kind: str) -> type[T]:
        """Import and return the class registered under ``kind``.

        Raises:
            UnknownComponentError: Nothing has that name; the message lists what exists.
            PluginError: An installed plugin claims the name but cannot be used; the message says which and why.
        """
        if kind in self._builtin_files:
            if kind not in self._classes:
                self._warn_of_shadowed(kind)
                importlib.import_module(f"vaekit.components.{self.plural}.{kind}")
            return self._classes[kind]
        if kind in self._plugins:
            if kind not in self._loaded:
                self._load(self._plugins[kind])
            return self._classes[kind]
        if kind in self._classes:
            return self._classes[kind]
        raise self.unknown(kind)

    def _warn_of_shadowed(self, kind: str) -> None:
        for plugin in self._plugins.get(kind, ()):
            warnings.warn(f"plugin {plugin} also claims the {self.role} {kind!r}; vaekit's own is used", stacklevel=3)

    def _load(self, claims: tuple[Plugin, ...]) -> None:
        plugin = claims[0]
        if len(claims) > 1:
            raise PluginError(
                f"{len(claims)} installed plugins claim the {self.role} {plugin.kind!r}",
                given=" and ".join(f"{claim} ({claim.announcement})" for claim in claims),
                remedy=f"uninstall all but one of {', '.join(claim.distribution for claim in claims)}",
            )
        cls = plugin.load()
        try:
            if self._classes.get(plugin.kind) is not cls:
                self._register(plugin.kind, cls)
        except PluginError as error:
            raise plugin.unusable(error) from error
        self._loaded[plugin.kind] = plugin

    def state(self, plugin: Plugin) -> tuple[Literal["ready", "shadowed", "broken"], str]:
        """Import a plugin of this registry; return whether it can be used, and what it is or why it cannot be used."""
        if plugin.kind in self._builtin_files:
            return "shadowed", f"vaekit's own {self.role} {plugin.kind!r} is used"
        try:
            self.spec(plugin.kind)
        except PluginError as error:
            return "broken", str(error)
        return "ready", self.summary(plugin.kind)

    def spec(self, kind: str) -> type[ComponentSpec]:
        """Return the spec model of ``kind``, derived from the signature of its class."""
        cls = self.get(kind)
        if kind not in self._specs:
            from vaekit.schema import derive_spec

            with self._blaming(kind):
                self._specs[kind] = derive_spec(cls, kind, self.wiring)
        return self._specs[kind]

    def build(self, spec: ComponentSpec, **available: Any) -> T:
        """Build the component that ``spec`` names, with its options and the wiring that it asks for."""
        from vaekit.schema import wiring

        cls = self.get(spec.kind)
        options = {name: getattr(spec, name) for name in type(spec).model_fields if name != "kind"}
        with self._blaming(spec.kind):
            return cls(*(available[name] for name in wiring(cls)), **options)

    @contextmanager
    def _blaming(self, kind: str) -> Iterator[None]:
        """Turn what a plugin's component raises, other than a user's mistake, into an error that names the plugin."""
        try:
            yield
        except Exception as error:
            mistake = isinstance(error, VaekitError) and not isinstance(error, PluginError)
            if mistake or kind not in self._loaded:
                raise
            raise self._loaded[kind].unusable(error) from error
