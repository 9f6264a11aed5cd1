"""`inference-pio doctor`."""

from __future__ import annotations

import click

from inference_pio.cli.common import json_option, size_text, write_json
from inference_pio.cli.machine import diagnose


@click.command("doctor")
@json_option
def command(json_out: str | None) -> None:
    """Show what this machine can run, and what is wrong with its installation."""
    facts = diagnose()
    if json_out is not None:
        write_json(facts, json_out)
        return
    cpu, memory, disk = facts["cpu"], facts["memory"], facts["disk"]
    click.echo(f"cpu          {cpu['name']}, {cpu['physical_cores']} physical cores, hardware {cpu['hardware']}")
    click.echo(f"             {', '.join(cpu['features']) or 'no integer extensions found'}")
    click.echo(f"memory       {size_text(memory['total'])}, {size_text(memory['available'])} available")
    click.echo(f"disk         {size_text(disk['free'])} free in {disk['folder']}")
    ort = facts["onnxruntime"]
    click.echo(f"onnxruntime  {ort['version'] or 'not installed'} {', '.join(ort['providers'])}")
    for gpu in facts["gpus"]:
        memory = f"{size_text(gpu['memory'])}, {size_text(gpu['free_memory'])} free"
        click.echo(f"gpu          {gpu['name']}, {memory}, driver {gpu['driver']}")
        click.echo(f"             compute capability {gpu['compute_capability']}, {gpu['verdict']}")
    if not facts["gpus"]:
        click.echo("gpu          none found")
    for name, found in facts["packages"].items():
        click.echo(f"{name:<17} {found or 'not installed'}")
    for problem in facts["problems"]:
        click.echo(f"problem      {problem}")
    if not facts["problems"]:
        click.echo("no problems found")
