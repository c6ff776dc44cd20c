"""The references in docstrings and their BibTeX entries.

The form of a reference is: authors (year), "title", publication[, place in it].
"""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

_NAME = r"(?:(?:[a-z]+|De) )*[A-Z][\w'’-]+"
ENTRY = re.compile(
    rf"(?P<authors>{_NAME}(?: and {_NAME}| et al\.)?) \((?P<year>(?:19|20)\d\d)\), "
    r'"(?P<title>[^"]+)", (?P<published>[^"]+?)'
    r"(?:, (?P<place>(?:equation|section|appendix|figure|algorithm)s? [^\"]+))?\."
)
_ARXIV = re.compile(r"(?:, )?arXiv:(\d{4}\.\d{4,5})")
_SHORT = frozenset({"a", "an", "the", "on", "of", "in", "from", "for", "to", "with"})


class Work(NamedTuple):
    """A work cited in a docstring.

    Args:
        authors: The surnames of one or two authors, or that of the first and an abbreviation for the others.
        year: The year of publication.
        title: The title.
        published: Where it was published, such as ``ICLR``; empty if on arXiv only.
        arxiv: The arXiv identifier, or None.
    """

    authors: str
    year: int
    title: str
    published: str
    arxiv: str | None

    @property
    def key(self) -> str:
        """The BibTeX key: first author, year and first significant word of the title."""
        author = re.sub(r"\W", "", self.authors.removesuffix(" et al.").split(" and ")[0]).lower()
        words = [word.lower() for word in re.findall(r"\w+", self.title)]
        return f"{author}{self.year}{next((word for word in words if word not in _SHORT and word.isascii()), words[0])}"

    def bibtex(self) -> str:
        """Return the BibTeX entry; authors beyond the first are ``others`` if the docstring omits them."""
        authors = self.authors.replace(" et al.", " and others")
        fields = {"author": authors, "title": f"{{{self.title}}}", "year": str(self.year)}
        if self.published:
            fields["booktitle"] = self.published
        if self.arxiv is not None:
            fields |= {"eprint": self.arxiv, "archivePrefix": "arXiv"}
        lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
        return f"@{'inproceedings' if self.published else 'misc'}{{{self.key},\n{lines}}}"


def citations(docstring: str | None) -> list[str]:
    """Return the entries of a docstring's ``References:`` section, one line each."""
    _, _, section = f"\n{inspect.cleandoc(docstring or '')}\n".partition("\nReferences:\n")
    lines = section.splitlines()
    end = next((i for i, line in enumerate(lines) if line and not line.startswith("    ")), len(lines))
    entries = [" ".join(entry.split()) for entry in re.split(r"^ {4}(?=\S)", "\n".join(lines[:end]), flags=re.MULTILINE)]
    return [entry for entry in entries if entry]


def work_of(entry: str) -> Work | None:
    """Parse an entry; return None if it has another form."""
    match = ENTRY.fullmatch(entry)
    if match is None:
        return None
    arxiv = _ARXIV.search(match["published"])
    published = _ARXIV.sub("", match["published"]).strip(", ")
    return Work(match["authors"], int(match["year"]), match["title"], published, arxiv and arxiv[1])
