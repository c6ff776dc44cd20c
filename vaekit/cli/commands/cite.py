"""``vaekit cite``."""

from __future__ import annotations

import typer

from vaekit.cli.common import Panel, RunArgument, open_run

PANEL = Panel.COMPONENTS


def cite(run: RunArgument = None) -> None:
    """Print the BibTeX entries of the works that the components of a run cite in their docstrings."""
    from vaekit.citations import citations, work_of
    from vaekit.specs.resolve import ROLES, section_of

    spec = open_run(run).spec
    used: dict[str, list[str]] = {}
    works = {}
    for role, registry in ROLES.items():
        chosen = getattr(getattr(spec, section_of(role)), role)
        for component in chosen if isinstance(chosen, tuple) else (chosen,):
            for work in filter(None, map(work_of, citations(registry.get(component.kind).__doc__))):
                works[work.key] = work
                used.setdefault(work.key, []).append(f"{role} {component.kind}")
    for key, work in works.items():
        typer.echo(f"% {', '.join(dict.fromkeys(used[key]))}\n{work.bibtex()}\n")
    if not works:
        typer.echo("% no component of this run cites a work")
