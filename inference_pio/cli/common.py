"""What several verbs share: parameter types, option groups, JSON output, the engine's environment."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from inference_pio.artifact.files import write_atomically
from inference_pio.errors import BadInputError

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


class Size(click.ParamType):
    """A number of bytes such as 3GB, 512MiB or 1000000."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", str(value).strip().upper())
        if match is None or match[2] == "I":
            self.fail(f"'{value}' is not a size: write 3GB, 512MiB or a number of bytes", param, ctx)
        size = float(match[1]) * _UNITS[match[2]]
        if not math.isfinite(size):
            self.fail(f"'{value}' is larger than any memory", param, ctx)
        return int(size)


SIZE = Size()
FOLDER = click.Path(path_type=Path)
FILE = click.Path(path_type=Path)


def json_option(function: F) -> F:
    """`--json FILE|-`."""
    return click.option("--json", "json_out", metavar="FILE|-", help="Write the result as JSON; - is standard output.")(
        function
    )


def write_json(value: dict[str, Any], destination: str) -> None:
    """Write JSON to a whole file or, for "-", to standard output; raises BadInputError when it cannot be written."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if destination == "-":
        click.echo(text)
        return
    path = Path(destination)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"{path} cannot be written: {error.strerror}") from None
    write_atomically(path, lambda file: file.write((text + "\n").encode("utf-8", "surrogatepass")))


def read_text(path: str) -> str:
    """The text of a UTF-8 file, or of standard input for "-"; raises BadInputError."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} is not UTF-8 text (byte {error.start}): convert it first") from None
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}") from None


def sampling_options(function: F) -> F:
    """The fields of SamplingParams as options; unset ones come from the artifact."""
    options = [
        click.option("--max-new-tokens", type=int, help="Stop after this many tokens."),
        click.option("--temperature", type=float, help="0 is greedy."),
        click.option("--top-k", type=int, help="Sample among the K likeliest tokens; 0 is off."),
        click.option("--top-p", type=float, help="Sample among the likeliest tokens of this total probability."),
        click.option("--min-p", type=float, help="Drop tokens below this share of the likeliest one."),
        click.option("--seed", type=int, help="Makes sampling repeatable."),
        click.option("--stop", multiple=True, metavar="TEXT", help="Stop before this text; may be repeated."),
        click.option("--stop-token-id", multiple=True, type=int, metavar="ID", help="Stop at this token."),
        click.option("--repetition-penalty", type=float, help="Above 1 discourages tokens seen before."),
        click.option("--presence-penalty", type=float, help="Subtracted once from tokens in the answer."),
        click.option("--frequency-penalty", type=float, help="Subtracted per occurrence in the answer."),
        click.option("--ignore-eos", is_flag=True, help="Go on after the end-of-text token."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def sampling_params(values: dict[str, Any]) -> Any:
    """SamplingParams from the options above plus any further fields in `values`."""
    from inference_pio.runtime import SamplingParams

    values = dict(values)
    values["stop"] = tuple(values.pop("stop", ())) or None
    values["stop_token_ids"] = tuple(values.pop("stop_token_id", ())) or None
    return SamplingParams(**values)


DEVICE_OPTION = click.option(
    "--device", metavar="cpu|cuda|cuda:N", help="Where to run; where the artifact was made to run by default."
)


def backend_option(function: F) -> F:
    """`--backend`."""
    text = "ort, tensorrt, or chain (one for TensorRT, on the CPU); auto is what the artifact was made for."
    return click.option("--backend", default="auto", show_default=True, help=text)(function)


def engine_options(function: F) -> F:
    """The fields of EngineConfig as options."""
    options = [
        backend_option,
        DEVICE_OPTION,
        click.option("--threads", type=int, help="Threads; one per physical core by default."),
        click.option("--max-memory", type=SIZE, help="Refuse to use more memory than this."),
        click.option("--max-context", type=int, help="Lower the artifact's context to this many tokens."),
        click.option("--prefix-cache", "prefix_cache_bytes", type=SIZE, help="Budget of the prefix cache; 0 is off."),
        click.option("--max-image-tokens", type=int, help="Shrink every image to at most this many tokens."),
        click.option(
            "--verify-hashes", type=click.Choice(["first-open", "always"]), help="When the weights are hashed."
        ),
        click.option(
            "--map-weights",
            type=click.Choice(["auto", "on", "off"]),
            help="Leave the weights on disk: prepacked once, then mapped. By default where they would not fit.",
        ),
        click.option("--allow-failed", is_flag=True, help="Open an artifact that failed its accuracy gate."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


ENGINE_FIELDS = (
    "backend",
    "device",
    "threads",
    "max_memory",
    "max_context",
    "prefix_cache_bytes",
    "max_image_tokens",
    "verify_hashes",
    "map_weights",
    "allow_failed",
)


def engine_config(values: dict[str, Any]) -> Any:
    """EngineConfig from the options above; takes its fields out of `values`."""
    from inference_pio.runtime import EngineConfig

    fields = {name: values.pop(name) for name in ENGINE_FIELDS}
    set_fields = {name: value for name, value in fields.items() if value is not None}
    return EngineConfig(cache_dir=cache_dir(), **set_fields)


def cache_dir() -> Path:
    """Where derived files live: $XDG_CACHE_HOME/inference-pio or ~/.cache/inference-pio."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inference-pio"


def hub_cache() -> Path:
    """Where Hugging Face tools keep downloaded checkpoints."""
    if os.environ.get("HF_HUB_CACHE"):
        return Path(os.environ["HF_HUB_CACHE"])
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "hub"


def visible(text: str) -> str:
    """The text on one line; control characters and what is no Unicode are escaped, not sent to the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def size_text(size: float) -> str:
    """Bytes for people: 1.2 GB."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
