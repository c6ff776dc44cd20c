"""Registries of components by name. Names are listed without imports; a component is imported when it is chosen."""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from vaekit import plugins
from vaekit._version import __version__
from vaekit.errors import PluginError, UnknownComponentError, UsageError, VaekitError
from vaekit.plugins import Plugin

if TYPE_CHECKING:
    from vaekit.schema import ComponentSpec

T = TypeVar("T")
C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class Origin:
    """The origin of a component: ``module:class`` and the distribution that provides it, or the script's module."""

    value: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return self.distribution if self.version == "" else f"{self.distribution} {self.version}"


class Registry(Generic[T]):
    """All components of one role (encoders, losses, …), by name.

    Built-in components are the files of ``vaekit.components.<role>s``, named by file stem. Installed packages add components
    through the entry-point group ``vaekit.<role>s``; in a script or notebook, the decorator is enough::

        @vaekit.encoders("mine")
        class Mine(vaekit.Backbone): ...

    Args:
        role: The role's singular name, as on the command line.
        plural: The role's plural name, used for the package and the entry-point group.
        base: The base class of the components, as ``module:class``; imported when the first component is registered.
        wiring: The positional parameters that assembly can supply.
    """

    def __init__(self, role: str, plural: str, base: str, wiring: tuple[str, ...] = ()) -> None:
        self.role, self.plural, self.base, self.wiring = role, plural, base, wiring
        self.group = f"vaekit.{plural}"
        self._classes: dict[str, type[T]] = {}
        self._specs: dict[str, type[ComponentSpec]] = {}
        self._loaded: dict[str, Plugin] = {}

    def __repr__(self) -> str:
        return f"<registry {self.group}: {', '.join(self.kinds())}>"

    @property
    def base_class(self) -> Any:
        """The base class of the components."""
        module, _, name = self.base.partition(":")
        return getattr(importlib.import_module(module), name)

    # Registration

    def __call__(self, kind: str) -> Callable[[C], C]:
        """Return a decorator that registers a class under the name ``kind``."""

        def register(cls: C) -> C:
            self._register(kind, cls)
            return cls

        return register

    def _register(self, kind: str, cls: Any) -> None:
        base = self.base_class
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise PluginError(
                f"{self.role} {kind!r} is not a vaekit.{base.__name__}",
                given=getattr(cls, "__mro__", (None, type(cls)))[1] if isinstance(cls, type) else type(cls).__name__,
                expected=f"a subclass of vaekit.{base.__name__}",
            )
        if missing := sorted(getattr(cls, "__abstractmethods__", ())):
            raise PluginError(f"{self.role} {kind!r} does not define {', '.join(missing)}", given=cls.__qualname__)
        other_kind = cls.__dict__.get("kind", kind)
        if other_kind != kind:
            raise PluginError(
                f"{cls.__qualname__} is already registered as {other_kind!r} and cannot also be {kind!r}",
                remedy="register a subclass under the second name",
            )
        known = self._classes.get(kind)
        redefined = known is not None and (known.__module__, known.__qualname__) == (cls.__module__, cls.__qualname__)
        declared = self._declared_module(kind)
        if (known is not None and not redefined) or (declared is not None and declared != cls.__module__):
            other = f"{known.__module__}.{known.__qualname__}" if known is not None else declared
            raise PluginError(
                f"two {self.plural} claim the name {kind!r}",
                given=f"{other} and {cls.__module__}.{cls.__qualname__}",
                remedy="register one of them under another name",
            )
        setattr(cls, "kind", kind)  # noqa: B010 - T is any class, and mypy knows no attribute of it
        self._classes[kind] = cls
        self._specs.pop(kind, None)

    @contextmanager
    def temporarily(self, **classes: type) -> Iterator[None]:
        """Register classes within a context; anything else registered within it is removed on exit as well.

        Replaced classes are restored. Components of vaekit and of installed plugins imported within the context are kept.

        Raises:
            PluginError: A class cannot be registered; none is then.

        Example:
            >>> class Squared(vaekit.Loss):
            ...     def forward(self, trace):
            ...         return trace.z.square().sum(-1)
            >>> with vaekit.losses.temporarily(squared=Squared):
            ...     run = vaekit.train(loss="squared", epochs=1, pictures="none")
            >>> "squared" in vaekit.losses
            False
        """
        before = dict(self._classes)
        try:
            for kind, cls in classes.items():
                self._register(kind, cls)
            yield
        finally:
            now: dict[str, Any] = dict(self._classes)
            for kind, cls in now.items():
                if before.get(kind) is cls or kind in self._builtin_files or kind in self._loaded:
                    continue
                del cls.kind  # so that it can be registered again, possibly under another name
                del self._classes[kind]
                self._specs.pop(kind, None)
                if kind in before:
                    self._classes[kind] = before[kind]

    # Discovery

    @cached_property
    def _builtin_files(self) -> dict[str, Path]:
        folder = Path(__file__).parent / "components" / self.plural
        return {file.stem: file for file in sorted(folder.glob("*.py")) if not file.stem.startswith("_")}

    @property
    def _plugins(self) -> dict[str, tuple[Plugin, ...]]:
        return plugins.installed(self.group)

    def _declared_module(self, kind: str) -> str | None:
        """The module that must define ``kind`` if it is built-in."""
        if kind in self._builtin_files:
            return f"vaekit.components.{self.plural}.{kind}"
        return None

    def kinds(self) -> tuple[str, ...]:
        """Return all registered names in alphabetical order."""
        return tuple(sorted({*self._builtin_files, *self._plugins, *self._classes}))

    def __contains__(self, kind: object) -> bool:
        return kind in self._classes or kind in self._builtin_files or kind in self._plugins

    def origin(self, kind: str) -> Origin:
        """Return the origin of ``kind`` without importing it."""
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
        """Return the error for a name that is not registered."""
        near = difflib.get_close_matches(kind, self.kinds(), n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "see `vaekit components list`"
        return UnknownComponentError(
            f"unknown {self.role} {kind!r}",
            expected=f"one of {', '.join(self.kinds())}",
            remedy=remedy if plugins.enabled() else f"{remedy}; plugins are disabled",
        )

    def summary(self, kind: str) -> str:
        """Return the first line of the component's docstring, read from its source without importing it."""
        if kind in self._classes:
            doc = self._classes[kind].__doc__
            return doc.strip().partition("\n")[0] if isinstance(doc, str) else ""
        if kind in self._builtin_files:
            return plugins.first_line(self._builtin_files[kind], kind)
        return self._plugins[kind][0].summary() if kind in self._plugins else ""

    def literal_defaults(self, kind: str) -> dict[str, Any]:
        """Return the defaults of a built-in component's options as far as they are literals, without importing it."""
        return plugins.literal_defaults(self._builtin_files.get(kind), kind, (str(Path(__file__).parents[1]),))

    # Use

    def get(self, kind: str) -> type[T]:
        """Import and return the class registered under ``kind``.

        Raises:
            UnknownComponentError: The name is not registered; the message lists the registered names.
            PluginError: An installed plugin claims the name but cannot be used; the message names the plugin and the reason.
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
            if plugin.kind not in self._classes or self._classes[plugin.kind] is not cls:
                self._register(plugin.kind, cls)
        except Exception as error:  # any error, if the object is not a class
            raise plugin.unusable(error) from error
        self._loaded[plugin.kind] = plugin

    def state(self, plugin: Plugin) -> tuple[Literal["ready", "shadowed", "broken"], str]:
        """Import a plugin of this registry; return its state, and its summary or the reason why it cannot be used."""
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

            with self.blaming(kind):
                self._specs[kind] = derive_spec(cls, kind, self.wiring)
        return self._specs[kind]

    def build(self, spec: ComponentSpec, **available: Any) -> T:
        """Build the component named by ``spec`` with its options and the wiring that it requests."""
        from vaekit.schema import wiring

        cls = self.get(spec.kind)
        options = {name: getattr(spec, name) for name in type(spec).model_fields if name != "kind"}
        with self.blaming(spec.kind):
            if any(available[name] is None for name in wiring(cls)):  # only the number of classes can be None
                raise UsageError(f"the {self.role} {spec.kind!r} needs labels, but the data have none")
            return cls(*(available[name] for name in wiring(cls)), **options)

    @property
    def loaded(self) -> Mapping[Plugin, type[T]]:
        """The plugins of this role in use, with their classes."""
        return {plugin: self._classes[kind] for kind, plugin in self._loaded.items()}

    @contextmanager
    def blaming(self, kind: str) -> Iterator[None]:
        """Attribute exceptions from a plugin's component to the plugin, except for usage errors."""
        try:
            yield
        except Exception as error:
            mistake = isinstance(error, VaekitError) and not isinstance(error, PluginError)
            if mistake or kind not in self._loaded:
                raise
            raise self._loaded[kind].unusable(error) from error
