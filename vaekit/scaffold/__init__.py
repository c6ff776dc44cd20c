"""Package templates: a working component, its entry point, and a conformance test."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

from vaekit._version import __version__
from vaekit.errors import UsageError
from vaekit.files import write_text
from vaekit.roles import REGISTRIES

TEMPLATES = Path(__file__).parent / "templates"


def write_package(name: str, role: str, out: Path | None = None) -> Path:
    """Write a complete package that adds one component; return its folder.

    Args:
        name: The name of the component, such as ``acme_unet``.
        role: Its role, such as ``encoder``.
        out: A new or empty folder; default: ``vaekit-<name>``.

    Raises:
        UsageError: The role is unknown, the name is invalid or taken, or the folder is not empty.
    """
    registries = {registry.role: registry for registry in REGISTRIES}
    if role not in registries:
        raise UsageError(f"unknown role {role!r}", expected=f"one of {', '.join(registries)}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UsageError(f"a component cannot be called {name!r}", expected="lower-case letters, digits and _, such as acme_unet")
    if name in registries[role]:
        raise UsageError(f"{registries[role].origin(name)} already provides the {role} {name!r}", remedy="choose another name")
    distribution = f"vaekit-{name.replace('_', '-')}"
    folder = out if out is not None else Path(distribution)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} already exists", remedy="choose another --out")
    words = {
        "name": name,
        "role": role,
        "plural": registries[role].plural,
        "cls": "".join(part.capitalize() for part in name.split("_")),
        "command": {"exporter": f"vaekit export --{name.replace('_', '-')}", "picture": f"vaekit {name}"}.get(
            role, f"vaekit train --{role} {name}"
        ),
        "distribution": distribution,
        "module": f"vaekit_{name}",
        "version": ".".join(__version__.split(".")[:2]),
    }
    try:
        for path, template in (
            ("pyproject.toml", "pyproject.toml"),
            ("README.md", "README.md"),
            (f"src/{words['module']}/__init__.py", f"{role}.py"),
            (f"src/{words['module']}/py.typed", None),
            (f"tests/test_{name}.py", "test.py"),
        ):
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            text = (TEMPLATES / f"{template}.template").read_text("utf-8") if template else ""
            write_text(file, Template(text).substitute(words))
    except OSError as error:
        raise UsageError(f"cannot write {folder}", given=error.strerror, remedy="choose another --out") from None
    return folder
