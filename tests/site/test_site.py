"""The built site has all that it is generated from, and all that its pages load."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from sphinx.util.inventory import InventoryFile

import vaekit
from vaekit import roles
from vaekit.cli.discovery import list_commands
from vaekit.specs import zoo


class Reader(HTMLParser):
    """Collects what a page loads, its links, its anchors and its text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.anchors |= {value for name in ("id", "name") if (value := found.get(name))}
        if tag in {"img", "script", "source", "video"} and found.get("src"):
            self.loaded.append(str(found["src"]))
        if tag == "link" and found.get("rel") in {"stylesheet", "icon"}:
            self.loaded.append(str(found["href"]))
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Reader]:
    """Every page, as it was read."""
    others = {".doctrees", "_downloads", "_static"}
    return {page: Reader(page) for page in sorted(site.rglob("*.html")) if not others & {*page.parts}}


def objects(site: Path) -> set[str]:
    """Return the names of all documented objects of Python."""
    found = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    return {name for kind, entries in found.data.items() if kind.startswith("py:") for name in entries}


def test_everything_public_is_documented(site):
    assert {f"vaekit.{name}" for name in vaekit.__all__} - objects(site) == set()


def test_every_component_has_its_section(site, pages):
    for registry in roles.REGISTRIES:
        anchors = pages[site / "reference" / "components" / f"{registry.plural}.html"].anchors
        expected = {f"{registry.role}-{kind.replace('_', '-')}" for kind in registry.kinds()}
        assert expected - anchors == set()


def test_every_model_and_every_command_has_its_section(site, pages):
    assert {f"model-{name}" for name in zoo.names()} - pages[site / "reference" / "zoo.html"].anchors == set()
    anchors = pages[site / "reference" / "commands.html"].anchors
    assert {f"command-{command.name}" for command in list_commands()} - anchors == set()


def test_pages_load_nothing_from_elsewhere_and_nothing_that_is_missing(pages):
    loaded = [(page, link) for page, reader in pages.items() for link in reader.loaded]
    assert len(loaded) > 100
    for page, link in loaded:
        assert "//" not in link, (page, link)
        assert (page.parent / unquote(link.partition("?")[0])).is_file(), (page, link)


def test_links_lead_to_pages_and_to_places_on_them(pages):
    for page, reader in pages.items():
        for link in reader.links:
            file, _, anchor = link.partition("#")
            if re.match(r"\w+:", link):
                continue
            target = (page.parent / unquote(file)).resolve() if file else page
            assert target.is_file(), (page, link)
            if anchor and target in pages:
                assert unquote(anchor) in pages[target].anchors, (page, link)


def test_terminals_show_real_output_and_no_traceback(site, pages):
    shown = (site / "tour.html").read_text("utf-8")
    text = re.sub(r"<[^>]+>", "", shown)
    assert re.search(r"\$ vaekit train --epochs 8 --out digits\n.*8,000 train", text)
    assert re.search(r"log p\(x\) +-\d+\.\d+  estimate by importance sampling", text)
    every = "".join(page.read_text("utf-8") for page in pages)
    assert "Traceback (most recent call last)" not in every


def test_the_table_for_language_models_lists_every_page(site, pages):
    lines = (site / "llms.txt").read_text("utf-8").splitlines()
    assert lines[0] == "# vaekit"
    assert lines[2].startswith("> vaekit is a PyTorch toolkit")
    linked = {found[1] for line in lines if (found := re.match(r"- \[[^\]]+\]\(([^)]+)\): \S", line))}
    generated = {"index.html", "genindex.html", "py-modindex.html", "search.html"}
    assert linked == {str(page.relative_to(site)) for page in pages} - generated


def test_the_gallery_shows_every_command(site):
    gallery = re.sub(r"<[^>]+>", "", (site / "gallery.html").read_text("utf-8"))
    assert [command.name for command in list_commands() if f"vaekit {command.name}" not in gallery] == []
