"""Chat templates of checkpoints, rendered in jinja2's sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from inference_pio.errors import BadInputError
from inference_pio.runtime.tokenizer import NAMED_TOKENS, read_config

MAX_OUTPUT = 16 << 20
"""Characters that a rendered conversation may have."""


class ChatTemplate:
    """A compiled template and the special tokens that it may name."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        from jinja2 import TemplateError

        try:
            self._template = _environment().from_string(source)
        except (TemplateError, RecursionError) as error:
            raise BadInputError(f"the chat template cannot be read: {error}") from None
        self._special_tokens = dict(special_tokens)

    @classmethod
    def load(cls, folder: Path) -> ChatTemplate:
        """The template of an artifact: `chat_template.jinja`, else the one in `tokenizer_config.json`.

        Raises BadInputError when there is none or it cannot be read.
        """
        config_path = folder / "tokenizer_config.json"
        config = read_config(config_path) if config_path.exists() else {}
        file = folder / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
        if isinstance(source, list):
            named = {item.get("name"): item.get("template") for item in source if isinstance(item, dict)}
            source = named.get("default")
        if not isinstance(source, str) or not source:
            raise BadInputError(f"{folder} has no chat template: use generate with a prompt of your own")
        tokens = {name: config.get(name) for name in NAMED_TOKENS}
        texts = {n: t["content"] if isinstance(t, dict) else t for n, t in tokens.items() if t}
        return cls(source, {name: text for name, text in texts.items() if isinstance(text, str)})

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as text for the tokenizer; raises BadInputError for what the template refuses."""
        from jinja2 import TemplateError

        check_messages(messages)
        values = {
            **self._special_tokens,
            **(variables or {}),
            "messages": [dict(message) for message in messages],
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        pieces, size = [], 0
        try:
            for piece in self._template.generate(values):
                size += len(piece)
                if size > MAX_OUTPUT:
                    raise BadInputError(f"the chat template makes more than {MAX_OUTPUT} characters")
                pieces.append(piece)
        except (TemplateError, RecursionError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, BadInputError):
                raise
            raise BadInputError(f"the chat template refuses these messages: {error}") from None
        return "".join(pieces)


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise BadInputError unless `messages` is a list of mappings with a role."""
    if not isinstance(messages, (list, tuple)) or not messages:
        raise BadInputError('messages must be a list such as [{"role": "user", "content": "..."}]')
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise BadInputError(f"message {index} must be a mapping with a role and a content")


def _environment() -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of jinja2's own filter, as templates for transformers expect."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
