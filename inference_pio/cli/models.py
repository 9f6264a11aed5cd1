"""`inference-pio models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from inference_pio.cli.common import json_option, visible, write_json
from inference_pio.errors import BadInputError

if TYPE_CHECKING:
    from inference_pio.models.registry import FoundPlugin

COLUMNS = ("name", "family", "parameters", "gate", "artifact")


@click.command("models")
@json_option
def command(json_out: str | None) -> None:
    """List the model plugins: what they are, where their artifact is, and whether it passed its gate."""
    from inference_pio.models.registry import find_plugins

    rows = [_facts(found) for found in find_plugins()]
    if json_out is not None:
        write_json({"plugins": rows}, json_out)
        return
    lines = [COLUMNS, *(tuple(_cells(row)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for row in rows:
        if row["problem"]:
            click.echo(f"\n{visible(row['name'])}: {visible(row['problem'])}")
    commands = [row["export_command"] for row in rows if row["export_command"] and not row["artifact"]]
    if commands:
        click.echo("\nTo make an artifact where its plugin looks for it:")
    for line in commands:
        click.echo(f"  {visible(line)}")


def _facts(found: FoundPlugin) -> dict[str, Any]:
    """A plugin as JSON-ready values; what a broken one does not tell is null."""
    facts: dict[str, Any] = {
        **{"name": found.name, "package": found.package, "family": None, "architecture": None, "parameters": None},
        **{"artifact": None, "gate": None, "validation_passed": None, "export_command": None},
        "problem": found.problem,
    }
    if found.plugin is None:
        return facts
    metadata = found.plugin.metadata
    facts |= {
        "family": metadata.model_family,
        "architecture": metadata.model_architecture,
        "parameters": metadata.num_parameters,
        "validation_passed": metadata.validation_passed,
    }
    return facts | _artifact_facts(found)


def _artifact_facts(found: FoundPlugin) -> dict[str, Any]:
    from inference_pio.models.lookup import MissingArtifactError
    from inference_pio.models.plugin import ArtifactPlugin

    if not isinstance(found.plugin, ArtifactPlugin):
        return {}  # a plugin of another kind keeps its weights where it likes
    facts: dict[str, Any] = {"export_command": found.plugin.card.export_command()}
    try:
        artifact = found.plugin.artifact()
    except MissingArtifactError:
        return facts
    except BadInputError as error:
        return {**facts, "problem": str(error)}
    accuracy = artifact.manifest.accuracy
    return {**facts, "artifact": str(artifact.path), "gate": accuracy.gate if accuracy else None}


def _cells(row: dict[str, Any]) -> list[str]:
    parameters = "-" if row["parameters"] is None else f"{row['parameters']:,}"
    judged = {True: "passed", False: "FAILED", None: "not recorded"}[row["validation_passed"]]
    gate = f"{row['gate'] or ''} {judged}".strip() if row["artifact"] else "-"
    return [visible(row["name"]), visible(row["family"] or "-"), parameters, gate, visible(row["artifact"] or "none")]
