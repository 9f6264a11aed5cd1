"""`inference-pio chat`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from inference_pio.runtime import Delta


@click.command("chat")
@click.argument("artifact", type=FOLDER)
@click.option("--system", help="A system message.")
@click.option("-m", "--message", help="Send one message, print the answer and leave.")
@click.option("--thinking/--no-thinking", default=None, help="Turn the reasoning on or off; it goes to standard error.")
@click.option("--thinking-budget", type=int, help="End the reasoning after this many tokens.")
@click.option("--history-tokens", type=int, help="Drop the oldest turns beyond this many tokens.")
@json_option
@sampling_options
@engine_options
def command(
    artifact: Path,
    system: str | None,
    message: str | None,
    thinking: bool | None,
    thinking_budget: int | None,
    history_tokens: int | None,
    json_out: str | None,
    **values: Any,
) -> None:
    """Talk to ARTIFACT through its chat template; an empty line or the end of input leaves."""
    from inference_pio.runtime import Engine
    from inference_pio.runtime.conversation import Conversation

    if json_out is not None and message is None:
        raise BadInputError("--json needs --message, a single turn")
    config, params = engine_config(values), sampling_params(values)
    with Engine.open(artifact, config) as engine:
        how: dict[str, Any] = {"thinking": thinking, "thinking_budget": thinking_budget}
        talk = Conversation(engine, system or None, history_tokens=history_tokens, params=params, **how)
        if json_out is not None:
            write_json(talk.ask(message).to_dict(), json_out)
            return
        while message is not None or (line := _ask()):
            _print(talk.stream(message if message is not None else line))
            if message is not None:
                return


def _print(deltas: Iterator[Delta]) -> None:
    """The text on standard output, the reasoning before it on standard error."""
    reasoned = False
    for delta in deltas:
        click.echo(delta.reasoning, nl=False, err=True)
        reasoned = reasoned or bool(delta.reasoning)
        if delta.text and reasoned:
            click.echo("\n", err=True)
            reasoned = False
        click.echo(delta.text, nl=False)
    click.echo()


def _ask() -> str:
    """The next line the person types; empty at the end of input."""
    try:
        return input("> ").strip()
    except EOFError:
        return ""
