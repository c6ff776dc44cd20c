"""The directive ``terminal``: commands that run while the pages are built, with their output and the pictures they write.

    ```{terminal}
    :show: digits/pictures/traverse.png
    :alt: what each latent does
    $ vaekit train --out digits
    $ vaekit traverse digits
    ```

The commands of a page run in their order in an initially empty folder with a link to the examples. A command that
fails causes a warning, and so fails the build.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

WIDTH = "88"
"""The width of the terminal in columns."""
LIMIT = 300
"""The number of seconds after which a command is stopped."""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def folder_of(env: BuildEnvironment, page: str) -> Path:
    """Return the folder in which the commands of a page run."""
    return Path(env.doctreedir) / "terminal" / page


def forget(app: Sphinx, env: BuildEnvironment, page: str) -> None:
    """Remove what the commands of a page have written, since they are about to run again."""
    shutil.rmtree(folder_of(env, page), ignore_errors=True)


def execute(line: str, folder: Path) -> tuple[int, str]:
    """Run a line of the shell in a folder; return its exit code and output."""
    programs = folder.parent / f"{folder.name}.programs"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        (folder / "examples").symlink_to(Path(__file__).parents[2])
        programs.mkdir(parents=True, exist_ok=True)
        for name, arguments in {"vaekit": "-m vaekit", "python": ""}.items():
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n', "utf-8")
            (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": path, "COLUMNS": WIDTH, "NO_COLOR": "1", "KERAS_BACKEND": "torch"}
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    return done.returncode, _CONTROL.sub("", done.stdout).replace(str(folder), ".").rstrip()


def shortened(output: str, lines: int | None) -> str:
    """Return the first and last lines of an output that has more than a number of lines."""
    found = output.splitlines()
    if lines is None or len(found) <= lines:
        return output
    return "\n".join([*found[: lines // 2], "…", *found[len(found) - (lines - lines // 2) :]])


class Terminal(SphinxDirective):
    """Commands, after ``$``; a line that ends in a backslash continues on the next.

    Options: the files to ``show`` below, their ``alt`` text, the ``lines`` of output to keep, and whether the last command
    ``fails``, as it should.
    """

    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {
        "show": directives.unchanged_required,
        "alt": directives.unchanged_required,
        "width": directives.length_or_percentage_or_unitless,
        "lines": directives.positive_int,
        "fails": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        folder = folder_of(self.env, self.env.docname)
        shown = []
        written = "\n".join(self.content)
        commands = [text.strip() for text in re.split(r"^\$ ", written, flags=re.MULTILINE) if text.strip()]
        for number, command in enumerate(commands, 1):
            code, output = execute(command, folder)
            expected = "fails" in self.options and number == len(commands)
            if (code != 0) != expected:
                raise self.error(f"`{command}` exited with {code}:\n{output}")
            shown += [f"$ {command}", *filter(None, [shortened(output, self.options.get("lines"))])]
        block = nodes.literal_block("\n".join(shown), "\n".join(shown), language="console", classes=["terminal"])
        return [block, *self._pictures(folder)]

    def _pictures(self, folder: Path) -> list[nodes.Node]:
        """Return the pictures that the directive shows."""
        found: list[nodes.Node] = []
        for name in self.options.get("show", "").split():
            file = folder / name
            if not file.is_file():
                raise self.error(f"the commands have not written {name}")
            image = nodes.image(uri="/" + os.path.relpath(file, self.env.srcdir), alt=self.options.get("alt", name))
            if "width" in self.options:
                image["width"] = self.options["width"]
            found.append(image)
        return found


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("terminal", Terminal)
    app.connect("env-purge-doc", forget)
    return {"parallel_read_safe": True}
