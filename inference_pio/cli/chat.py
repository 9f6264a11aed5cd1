"""`inference-pio chat`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from inference_pio.cli.common import (
    FOLDER,
    engine_config,
    engine_options,
    json_option,
    sampling_options,
    sampling_params,
    write_json,
)
from inference_pio.errors import BadInputError


@click.command("chat")
@click.argument("artifact", type=FOLDER)
@click.option("--system", help="A system message.")
@click.option("-m", "--message", help="Send one message, print the answer and leave.")
@json_option
@sampling_options
@engine_options
def command(artifact: Path, system: str | None, message: str | None, json_out: str | None, **values: Any) -> None:
    """Talk to ARTIFACT through its chat template; an empty line or the end of input leaves."""
    from inference_pio.runtime import Engine

    if json_out is not None and message is None:
        raise BadInputError("--json needs --message, a single turn")
    config, params = engine_config(values), sampling_params(values)
    messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    with Engine.open(artifact, config) as engine:
        if json_out is not None:
            result = engine.chat([*messages, {"role": "user", "content": str(message)}], params)
            write_json(result.to_dict(), json_out)
            return
        while message is not None or (line := _ask()):
            messages.append({"role": "user", "content": message if message is not None else line})
            answer = ""
            for delta in engine.stream_chat(messages, params):
                click.echo(delta.text, nl=False)
                answer += delta.text
            click.echo()
            messages.append({"role": "assistant", "content": answer})
            if message is not None:
                return


def _ask() -> str:
    """The next line the person types; empty at the end of input."""
    try:
        return input("> ").strip()
    except EOFError:
        return ""
