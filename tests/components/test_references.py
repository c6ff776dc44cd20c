"""Docstrings cite in one form: a ``References:`` section, one work per entry, and identical entries for the same work."""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from vaekit.citations import ENTRY, work_of
from vaekit.citations import citations as entries_of
from vaekit.roles import REGISTRIES

ROOT = Path(__file__).parents[2]
FILES = sorted(file for pattern in ("vaekit/**/*.py", "plugins/*/src/**/*.py", "examples/**/*.py") for file in ROOT.glob(pattern))
BUILT_IN = [
    (registry, kind) for registry in REGISTRIES for kind in registry.kinds() if registry.origin(kind).distribution == "vaekit"
]

NAME = r"(?:(?:[a-z]+|De) )*[A-Z][\w'’-]+"
HEADING = re.compile(r"^\s*References?\b.*$", re.MULTILINE)
INLINE = re.compile(rf"et al\b|\beqs?\. ?\d|arXiv:|doi:|{NAME},? \(?(?:19|20)\d\d\b")


def citations(docstring: str) -> list[str]:
    """Return the entries of the ``References:`` section, one line each.

    Raises:
        ValueError: The docstring cites in another form.
    """
    entries, text = entries_of(docstring), f"\n{inspect.cleandoc(docstring)}\n"
    before, heading, section = text.partition("\nReferences:\n")
    if heading and not entries:
        raise ValueError("the section of references is empty")
    after = section.splitlines()
    elsewhere = "\n".join([before, *after[next((i for i, line in enumerate(after) if line and line[0] != " "), len(after)) :]])
    for found in (HEADING.search(elsewhere), INLINE.search(elsewhere)):
        if found:
            raise ValueError(f"a citation outside the section of references: {found[0]!r}")
    for entry in entries:
        if not ENTRY.fullmatch(entry):
            raise ValueError(f'not authors (year), "title", where, place: {entry!r}')
    return entries


def docstrings(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of a file, including those of attributes, with their lines."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


@pytest.mark.parametrize(("registry", "kind"), BUILT_IN, ids=lambda value: getattr(value, "role", value))
def test_every_built_in_component_cites_in_the_one_form(registry, kind):
    citations(registry.get(kind).__doc__)


def test_every_docstring_cites_in_the_one_form():
    wrong = []
    for file in FILES:
        for line, text in docstrings(file):
            try:
                citations(text)
            except ValueError as error:
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {error}")
    assert not wrong, "\n".join(wrong)


def test_a_work_is_cited_in_the_same_words_everywhere():
    works = defaultdict(set)
    for file in FILES:
        for _, text in docstrings(file):
            for entry in citations(text):
                match = ENTRY.fullmatch(entry)
                works[match["title"].casefold()].add((match["authors"], match["year"], match["title"], match["published"]))
    assert len(works) > 20
    assert not {title: forms for title, forms in works.items() if len(forms) > 1}


ENTRIES = """What it is.

Args:
    beta: A weight.

References:
    Kingma and Welling (2014), "Auto-Encoding Variational Bayes", ICLR, arXiv:1312.6114, equation 9.
    Chen et al. (2018), "Isolating Sources of Disentanglement in Variational Autoencoders", NeurIPS,
        arXiv:1802.04942, equations 2 and 4, appendix C.
    White (2016), "Sampling Generative Networks", arXiv:1609.04468.
"""


def test_entries_may_continue_on_indented_lines():
    assert [ENTRY.fullmatch(entry)["place"] for entry in citations(ENTRIES)] == [
        "equation 9",
        "equations 2 and 4, appendix C",
        None,
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        "What it is.\n\nReference: White (2016), \"Sampling Generative Networks\", arXiv:1609.04468.",
        "What it is.\n\nReference:\n    White (2016), \"Sampling Generative Networks\", arXiv:1609.04468.",
        "What it is.\n\nReferences: White (2016), \"Sampling Generative Networks\", arXiv:1609.04468.",
        "What it is.\n\nReferences:\n",
        "What it is.\n\nReferences:\n    White, Sampling Generative Networks, 2016, section 2.1.",
        "What it is.\n\nReferences:\n    Kingma & Welling (2014), \"Auto-Encoding Variational Bayes\", ICLR.",
        "What it is.\n\nReferences:\n    White (2016), \"Sampling Generative Networks\", arXiv:1609.04468",
        "What it is (Burda et al. 2016, eq. 8).",
        "What it is (Kingma & Welling 2014).",
        "What it is, by eq. 7 of the paper.",
    ],
)  # fmt: skip
def test_other_forms_are_refused(wrong):
    with pytest.raises(ValueError, match=r"references|not authors"):
        citations(wrong)


def test_an_entry_as_bibtex():
    entry = citations(ENTRIES)[1]
    assert work_of(entry).bibtex() == (
        "@inproceedings{chen2018isolating,\n"
        "  author = {Chen and others},\n"
        "  title = {{Isolating Sources of Disentanglement in Variational Autoencoders}},\n"
        "  year = {2018},\n"
        "  booktitle = {NeurIPS},\n"
        "  eprint = {1802.04942},\n"
        "  archivePrefix = {arXiv},\n"
        "}"
    )
    assert work_of(citations(ENTRIES)[2]).bibtex().startswith("@misc{white2016sampling,")
    assert work_of("Chen 2018") is None


def test_works_have_unique_keys():
    works = {work_of(entry) for file in FILES for _, text in docstrings(file) for entry in citations(text)}
    titles = {(work.key, work.title) for work in works}
    assert len({key for key, _ in titles}) == len(titles)
