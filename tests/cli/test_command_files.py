"""A command is a file in `vaekit.cli.commands`, where it is discovered."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vaekit.cli import commands
from vaekit.cli.common import Panel
from vaekit.cli.discovery import find_command, list_commands
from vaekit.drawing.picture import Picture
from vaekit.roles import pictures

Cli = Callable[..., tuple[int, str, str]]

GREET = '''
"""``vaekit greet``."""

import typer

from vaekit.cli.common import Panel

PANEL = Panel.EXPORT


def greet(name: str, loud: bool = False) -> None:
    """Greet somebody [in brackets].

    More.
    """
    typer.echo(f"hello {name}" + "!" * loud)
'''
ADAPT = '''
"""``vaekit adapt``."""

import typer


def command(arguments):
    return (adapt if "--twice" in arguments else other), [word for word in arguments if word != "--twice"]


def adapt(name: str) -> None:
    """Print a name twice."""
    typer.echo(2 * name)


def other(name: str) -> None:
    """Print a name."""
    typer.echo(name)
'''
GROUP = '''
"""``vaekit group``."""

import typer

app = typer.Typer()


@app.callback()
def group() -> None:
    """Hold commands."""


@app.command()
def one() -> None:
    """Print 1."""
    typer.echo(1)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An additional folder for command discovery."""
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    before = {*sys.modules}
    yield tmp_path
    for name in {*sys.modules} - before:
        if name.startswith(f"{commands.__name__}."):
            del sys.modules[name]


def test_a_file_is_a_command_in_the_help_and_runs(cli: Cli, folder: Path) -> None:
    assert cli("greet", "you")[0] == 2
    (folder / "greet.py").write_text(GREET)
    code, out, _ = cli("--help")
    assert code == 0
    panel = out[out.index("─ Export ─") : out.index("─ Components ─")]
    assert "Greet somebody [in brackets]." in panel
    assert "More." not in panel
    assert cli("greet", "you", "--loud") == (0, "hello you!\n", "")


def test_a_file_may_choose_its_function_by_the_arguments(cli: Cli, folder: Path) -> None:
    (folder / "adapt.py").write_text(ADAPT)
    assert cli("adapt", "ab")[1] == "ab\n"
    assert cli("adapt", "--twice", "ab")[1] == "abab\n"
    assert "Print a name twice." in cli("--help")[1]


def test_a_file_may_hold_a_group_of_commands(cli: Cli, folder: Path) -> None:
    (folder / "group.py").write_text(GROUP)
    assert cli("group", "one")[1] == "1\n"
    assert "Hold commands." in cli("--help")[1]


def test_only_the_requested_command_is_imported(cli: Cli, folder: Path) -> None:
    (folder / "faulty.py").write_text("raise RuntimeError")
    assert cli("schema", "--help")[0] == 0


def test_commands_are_listed_by_panel_and_name() -> None:
    found = list_commands()
    keys = [([*Panel].index(command.panel), command.name) for command in found]
    assert keys == sorted(keys)
    assert {"train", "export", "components", "plugins", "compare", "traverse"} <= {command.name for command in found}
    assert all(command.summary and "\n" not in command.summary for command in found)


def test_an_unknown_command_suggests_a_similar_one(cli: Cli) -> None:
    code, _, err = cli("traverze")
    assert code == 2
    assert "Did you mean 'traverse'?" in err
    assert find_command("traverze") is None


def test_two_dashes_before_a_command_change_nothing(cli: Cli) -> None:
    assert cli("--", "components", "show", "loss:kl")[0] == 0
    assert "loss kl" in cli("--", "components", "show", "loss:kl")[1]


@pytest.mark.filterwarnings("default:the picture 'schema'")
def test_a_picture_cannot_take_the_name_of_a_command(cli: Cli) -> None:
    class Schema(Picture):
        """Show a schema."""

    with pictures.temporarily(schema=Schema):
        assert '"$schema"' in cli("schema")[1]
        code, _, err = cli("--help")
        with pytest.warns(UserWarning, match="has no command"):
            listed = list_commands()
    assert code == 0
    assert "the picture 'schema' of" in err
    assert "has no command" in err
    assert [command.panel for command in listed if command.name == "schema"] == [Panel.COMPONENTS]


def test_options_of_pictures_go_by_their_role_too(cli: Cli, labelled_run: Path, tmp_path: Path) -> None:
    assert cli("sample", labelled_run, "--picture.num", 4, "--out", tmp_path / "a.png")[0] == 0
