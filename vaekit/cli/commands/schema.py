"""``vaekit schema``."""

from __future__ import annotations

import json

import typer

from vaekit.cli.common import Panel

PANEL = Panel.COMPONENTS


def schema() -> None:
    """Print the JSON schema of a spec file, with the options of every component installed, for editors."""
    from vaekit.specs.models import RunSpec

    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **RunSpec.model_json_schema()}
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
