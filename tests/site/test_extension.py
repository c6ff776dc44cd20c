"""The extension of the documentation reads docstrings, commands, scripts and terminals as it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import catalogue
import chapters
import commands
import pytest
import reading
import terminal

from vaekit import roles
from vaekit.cli.discovery import find_command


def test_only_backticks_mean_something_in_plain_text():
    assert reading.escaped("a*b, `c_d` and ``--e``: f_g") == r"a\*b, ``c_d`` and ``--e``: f\_g"


def test_a_docstring_is_shown_without_arguments_and_its_references_become_links():
    doc = """A loss.

    Args:
        weight: Its weight.

    References:
        Kingma and Welling (2014), "Auto-Encoding Variational Bayes", ICLR, arXiv:1312.6114, equation 2.
    """
    assert "\n".join(reading.docstring(doc)).strip() == "A loss."
    link = "`arXiv:1312.6114 <https://arxiv.org/abs/1312.6114>`__"
    assert (
        reading.references(doc)[3] == f'- Kingma and Welling (2014), "Auto-Encoding Variational Bayes", ICLR, {link}, equation 2.'
    )


@pytest.mark.parametrize("registry", roles.REGISTRIES, ids=lambda registry: registry.role)
def test_every_option_of_a_component_is_shown_with_its_default(registry):
    for kind in registry.kinds():
        text = "\n".join(catalogue.component(registry, kind))
        for name, field in registry.spec(kind).model_fields.items():
            if name != "kind":
                flag = re.escape(f".. option:: --{registry.role}.{name.replace('_', '-')}")
                (shown,) = re.findall(rf"^{flag}(?: [^\n]*)?\n\n(.*)$", text, re.MULTILINE)
                assert shown.endswith("Required." if field.is_required() else "``."), (kind, name)


def test_a_command_is_shown_with_its_usage_its_panels_and_its_defaults():
    text = "\n".join(commands.reference("export", commands.click_command(find_command("export")), "-"))
    assert "vaekit export [OPTIONS] [RUN]" in text
    assert ".. rubric:: Formats\n\n.. option:: --onnx [PATH]" in text
    assert "Part to export; a scorer needs a threshold" in text


def test_options_of_training_are_not_repeated():
    train = commands.click_command(find_command("train"))
    context = train.make_context("train", [], resilient_parsing=True)
    known = frozenset(commands.described(each, context) for each in train.params if not each.hidden)
    text = "\n".join(commands.reference("sweep", commands.click_command(find_command("sweep")), "-", known))
    assert ".. option:: --over" in text
    assert ".. option:: --lr float" not in text
    assert ".. option:: --lr float" in "\n".join(commands.reference("train", train, "-"))
    assert ":ref:`vaekit train <command-train>`" in text


SCRIPT = '''
def helper():
    """Help."""
    return 1


def chapter_1(x):
    """What it is.

    Why ``x``.
    """
    return helper() + x


def main():
    chapter_1(1)
'''


def test_a_script_becomes_chapters_with_the_helpers_that_precede_them():
    ((heading, text, code),) = chapters.chapters(SCRIPT, "chapter_")
    assert (heading, text) == ("What it is", "Why ``x``.")
    assert code == 'def helper():\n    """Help."""\n    return 1\n\n\ndef chapter_1(x):\n    return helper() + x'


def test_a_terminal_shows_what_a_line_prints_and_how_it_ends(tmp_path):
    folder = tmp_path / "page"
    assert terminal.execute("echo one; echo two >&2; pwd", folder) == (0, "one\ntwo\n.")
    assert terminal.execute("ls examples/from_scratch.py && exit 3", folder) == (3, "examples/from_scratch.py")
    assert terminal.execute("vaekit --version", folder)[1].startswith("vaekit ")


def test_a_terminal_shows_no_codes_of_colours(tmp_path):
    assert terminal.execute(r"printf '\033[1mdone\033[0m\n'", tmp_path / "page") == (0, "done")


def test_a_long_output_is_cut_in_the_middle():
    assert terminal.shortened("1\n2\n3\n4\n5", 3) == "1\n…\n4\n5"
    assert terminal.shortened("1\n2", 2) == "1\n2"


PAGES = {
    "index": "$ echo right",
    "failed": "$ echo before\n$ exit 3",
    "passed": ":fails:\n$ true",
    "forgotten": ":show: picture.png\n$ true",
}


def test_a_build_fails_where_a_command_does_not_do_what_the_page_says(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "conf.py").write_text("extensions = ['myst_parser', 'terminal']\nsuppress_warnings = ['toc.not_included']\n")
    for page, commands_of_page in PAGES.items():
        (source / f"{page}.md").write_text(f"# Page\n\n```{{terminal}}\n{commands_of_page}\n```\n")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(source), str(tmp_path / "built")]
    path = os.pathsep.join([str(Path(terminal.__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    for message in ("`exit 3` exited with 3", "`true` exited with 0", "the commands have not written picture.png"):
        assert message in done.stderr
    assert done.stderr.count("ERROR") == 3
    assert "right" in (tmp_path / "built" / "index.html").read_text("utf-8")
