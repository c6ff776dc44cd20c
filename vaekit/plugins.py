"""Installed plugins: components that other distributions provide through entry points.

Names are read from metadata. A plugin's code runs only when one of its components is chosen; any failure then becomes a
`PluginError` that names the plugin, the entry point and the reason.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit._version import __version__
from vaekit.errors import PluginError, VaekitError, plain, reason_of

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

SWITCH = "VAEKIT_PLUGINS"
"""The environment variable that disables plugins when set to 0."""


@dataclass(frozen=True)
class Plugin:
    """A component provided by an installed distribution through an entry point.

    Args:
        entry_point: The entry point: its name is the component's name, its value ``module:class``.
        source: The distribution that declares the entry point.
    """

    entry_point: EntryPoint
    source: Distribution

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()

    @property
    def kind(self) -> str:
        """The component's name."""
        return self.entry_point.name

    @property
    def package(self) -> str:
        """The top-level package or module that provides the component."""
        return self.entry_point.module.partition(".")[0]

    @property
    def announcement(self) -> str:
        """The entry point and its group, as declared by the distribution."""
        return f"{plain(self.entry_point.name, 100)} = {plain(self.entry_point.value)} in group {self.entry_point.group}"

    @cached_property
    def distribution(self) -> str:
        """The name of the distribution or, if its metadata lack one, of the module."""
        return self._metadata("Name") or self.package

    @cached_property
    def version(self) -> str:
        """The version of the distribution."""
        return self._metadata("Version")

    def _metadata(self, key: str) -> str:
        try:
            return plain(self.source.metadata[key] or "", 100)
        except Exception:  # metadata may be malformed; the component may still work without it
            return ""

    def load(self) -> Any:
        """Import the object that the entry point refers to, redirecting the plugin's output to stderr.

        Raises:
            PluginError: It cannot be imported or requires another version of vaekit.
        """
        needed = self._unmet_requirement()
        if needed is not None:
            remedy = f"upgrade {self.distribution} or vaekit, whichever is older"
            raise self.unusable(PluginError(f"it requires {needed}, but this is vaekit {__version__}", remedy=remedy))
        try:
            with _output_to_stderr():
                return self.entry_point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may even call sys.exit() on import
            raise self.unusable(error) from error

    def _unmet_requirement(self) -> str | None:
        """Return the requirement on vaekit that the installed version does not satisfy, or None."""
        from packaging.requirements import InvalidRequirement, Requirement

        try:
            requirements = self.source.requires or ()
        except Exception:  # as above
            requirements = ()
        for text in requirements:
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            met = requirement.specifier.contains(__version__, prereleases=True)
            if _normalised(requirement.name) == "vaekit" and applies and not met:
                return text
        return None

    def unusable(self, cause: BaseException) -> PluginError:
        """Return the error for a plugin that is unusable because of ``cause``."""
        own = isinstance(cause, VaekitError)
        reason = plain(cause.message) if isinstance(cause, VaekitError) else reason_of(cause)
        given = getattr(cause, "given", None)
        return PluginError(
            f"plugin {self} cannot provide {self.kind!r}: {reason}",
            given=f"entry point {self.announcement}" + (f"; {given}" if given is not None else ""),
            expected=getattr(cause, "expected", None),
            remedy=(own and getattr(cause, "remedy", None))
            or f"upgrade or uninstall {self.distribution}; --debug shows the traceback",
        )

    def summary(self) -> str:
        """Return the first line of the component's docstring, read from its source without importing it."""
        module, _, attribute = self.entry_point.value.partition(":")
        roots = (str(self.source.locate_file("")), *sys.path)
        return first_line(module_file(module.strip(), roots), attribute.strip(), roots)


@functools.cache
def _installed() -> dict[str, dict[str, tuple[Plugin, ...]]]:
    import importlib.metadata

    found: dict[str, dict[str, tuple[Plugin, ...]]] = {}
    seen: set[str] = set()
    for source in importlib.metadata.distributions():
        plugins = list(_announced(source))
        name = _normalised(plugins[0].distribution) if plugins else ""
        if name in seen:  # an older installation of the same distribution, further down sys.path
            continue
        seen.update([name] if plugins else [])
        for plugin in plugins:
            kinds = found.setdefault(plugin.entry_point.group, {})
            kinds[plugin.kind] = (*kinds.get(plugin.kind, ()), plugin)
    return found


def _announced(source: Distribution) -> Iterator[Plugin]:
    try:
        text = source.read_text("entry_points.txt") or ""
        if "vaekit." in text:  # most distributions have nothing to do with vaekit
            yield from (Plugin(e, source) for e in source.entry_points if e.group.startswith("vaekit."))
    except (OSError, ValueError):  # the damaged metadata of another distribution must not affect vaekit
        return


def installed(group: str) -> dict[str, tuple[Plugin, ...]]:
    """Return the plugins of an entry-point group by component name; empty if plugins are disabled.

    Metadata are read once; `refresh` discards them.
    """
    return _installed().get(group, {}) if enabled() else {}


def enabled() -> bool:
    """Whether plugins are enabled; the environment variable ``VAEKIT_PLUGINS=0`` disables them."""
    return os.environ.get(SWITCH, "1") != "0"


def refresh() -> None:
    """Rediscover plugins after a package was installed while the interpreter is running."""
    import importlib

    importlib.invalidate_caches()
    _installed.cache_clear()


@contextlib.contextmanager
def without_plugins() -> Iterator[None]:
    """Disable plugins within the context and in processes started from it."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


@contextlib.contextmanager
def _output_to_stderr() -> Iterator[None]:
    """Redirect stdout to stderr, including output of other code and processes to the file descriptor."""
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as restored:
        try:
            sys.__stdout__.flush()  # type: ignore[union-attr] # None is handled below
            kept = os.dup(1)
            restored.callback(os.close, kept)
            os.dup2(2, 1)
            restored.callback(os.dup2, kept, 1)
        except (OSError, AttributeError):  # there is no stdout
            pass
        yield


def module_file(module: str, roots: tuple[str, ...]) -> Path | None:
    """Return the file of a module in one of the folders, without importing its package; None if not found."""
    *packages, name = module.split(".")
    candidates = (Path(root, *packages, *path) for root in roots for path in ((f"{name}.py",), (name, "__init__.py")))
    try:
        return next((file for file in candidates if file.is_file()), None)
    except (OSError, ValueError):  # not a valid file name
        return None


def first_line(file: Path | None, name: str, roots: tuple[str, ...] = ()) -> str:
    """Return the first docstring line of a class, from a source file or the file from which it is imported; else ``""``.

    Args:
        file: The source file.
        name: The name of the class, or the name under which it is registered.
        roots: The folders to search for modules.
    """
    try:
        body = ast.parse(file.read_bytes()).body if file is not None else []
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):  # errors of the parser for malformed sources
        return ""
    for node in body:
        if isinstance(node, ast.ClassDef) and (node.name == name or _registers(node, name)):
            return (ast.get_docstring(node) or "").partition("\n")[0]
        if isinstance(node, ast.ImportFrom) and file is not None:
            original = next((alias.name for alias in node.names if (alias.asname or alias.name) == name), None)
            if original is not None:
                nearby = (str(file.parents[node.level - 1]),) if node.level else roots
                source = module_file(node.module, nearby) if node.module else None
                return first_line(source, original, roots) if source != file else ""
    return ""


def literal_defaults(file: Path | None, name: str, roots: tuple[str, ...]) -> dict[str, Any]:
    """Return the literal defaults of a class's keyword-only parameters, read from a source file without importing it.

    Those of a class without ``__init__`` are its base class's. Defaults that are no literals, such as names, are left out.

    Args:
        file: The source file.
        name: The name of the class, or the name under which a decorator registers it.
        roots: The folders to search for modules.
    """
    body = ast.parse(file.read_bytes()).body if file is not None else []
    for node in body:
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return literal_defaults(module_file(node.module or "", roots), name, roots)
        if not (isinstance(node, ast.ClassDef) and (node.name == name or _registers(node, name))):
            continue
        for function in node.body:
            if isinstance(function, ast.FunctionDef) and function.name == "__init__":
                found = {}
                for parameter, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
                    with contextlib.suppress(ValueError):
                        found[parameter.arg] = ast.literal_eval(default or ast.Name("required"))
                return found
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        return literal_defaults(file, bases[0], roots) if bases and bases[0] != name else {}
    return {}


def _registers(node: ast.ClassDef, kind: str) -> bool:
    """Whether a class is decorated with ``@<registry>("kind")``."""
    return any(
        isinstance(d, ast.Call) and any(isinstance(a, ast.Constant) and a.value == kind for a in d.args)
        for d in node.decorator_list
    )


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
