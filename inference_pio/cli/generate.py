"""`inference-pio generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from inference_pio.cli.common import (
    FOLDER,
    engine_config,
    engine_options,
    json_option,
    read_text,
    sampling_options,
    sampling_params,
    write_json,
)
from inference_pio.errors import BadInputError


@click.command("generate")
@click.argument("artifact", type=FOLDER)
@click.option("-p", "--prompt", help="The text to continue.")
@click.option("--prompt-file", metavar="FILE|-", help="Read the prompt from a file, or from standard input.")
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="FILE",
    help="Ask about an image, through the chat template; may be repeated.",
)
@click.option("--logprobs", type=int, help="Report the log-probabilities of this many alternatives (with --json).")
@click.option("-n", type=int, default=1, show_default=True, help="Answers to the prompt (with --json when above 1).")
@json_option
@sampling_options
@engine_options
def command(
    artifact: Path,
    prompt: str | None,
    prompt_file: str | None,
    images: tuple[str, ...],
    json_out: str | None,
    **values: Any,
) -> None:
    """Continue a prompt with ARTIFACT, streaming the text to standard output.

    With images the prompt is a message to the model, behind the images in the order given.
    """
    from inference_pio.runtime import Engine

    if (prompt is None) == (prompt_file is None):
        raise BadInputError("give the prompt with -p or --prompt-file, one of the two")
    if json_out is None and (values["logprobs"] is not None or values["n"] != 1):
        raise BadInputError("--logprobs and -n need --json, for text has no room for them")
    if images and values["n"] != 1:
        raise BadInputError("--image needs -n 1: ask again for another answer")
    text = read_text(prompt_file) if prompt_file is not None else str(prompt)
    config = engine_config(values)
    params = sampling_params(values)
    with Engine.open(artifact, config) as engine:
        if images:
            parts: list[dict[str, str]] = [{"type": "image", "image": image} for image in images]
            messages = [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
        if json_out is None:
            for delta in engine.stream_chat(messages, params) if images else engine.stream(text, params):
                click.echo(delta.text, nl=False)
            click.echo()
            return
        result = engine.chat(messages, params) if images else engine.generate(text, params)
        answers = [answer.to_dict() for answer in result] if isinstance(result, list) else None
        write_json({"results": answers} if answers is not None else result.to_dict(), json_out)  # type: ignore[union-attr]
