"""Chat templates of checkpoints: conversations to prompt texts, as transformers renders them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from inference_pio.errors import BadInputError
from inference_pio.runtime.chat_format import ChatFormat
from inference_pio.runtime.messages import checked_messages, checked_tools, plain
from inference_pio.runtime.tokenizer import NAMED_TOKENS, read_config, token_text

if TYPE_CHECKING:
    from jinja2 import Template

MAX_SOURCE = 1 << 20
"""Characters that a template may have."""

_GIVEN = ("messages", "tools", "documents", "add_generation_prompt")


class ChatTemplate:
    """A compiled template with the special tokens that it may name. Threads may share it."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], tool_source: str | None = None) -> None:
        """Compile `source`, and `tool_source` for conversations with tools where a checkpoint has its own.

        Raises BadInputError when a template is not one.
        """
        from jinja2 import meta

        from inference_pio.runtime.template_sandbox import TemplateSandbox

        self._sandbox = TemplateSandbox()
        self._template = self._compiled(source)
        self._tool_template = None if tool_source is None else self._compiled(tool_source)
        self._special_tokens = dict(special_tokens)
        whole = source + (tool_source or "")
        self.format = ChatFormat.read(whole, frozenset(meta.find_undeclared_variables(self._sandbox.parse(whole))))
        """What the template tells about the answers to it."""
        self._lock = Lock()

    @classmethod
    def load(cls, folder: Path) -> ChatTemplate:
        """The template of a folder: `chat_template.jinja`, else the one in `tokenizer_config.json`.

        Raises BadInputError when there is none or it cannot be read.
        """
        config_path = folder / "tokenizer_config.json"
        config = read_config(config_path) if config_path.exists() else {}
        file = folder / "chat_template.jinja"
        sources = _named(_text(file) if file.exists() else config.get("chat_template"), config_path)
        if "default" not in sources:
            raise BadInputError(f"{folder} has no chat template: use generate with a prompt of your own")
        tokens = {name: token_text(config.get(name), f"{config_path}: {name}") for name in NAMED_TOKENS}
        special_tokens = {name: text for name, text in tokens.items() if text is not None}
        return cls(sources["default"], special_tokens, sources.get("tool_use"))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as text for the tokenizer, which must not add special tokens of its own.

        `variables` are further names that the template may use, such as `enable_thinking`; they come before the
        special tokens. Raises BadInputError for messages that are none, for what the template refuses, and for a
        template that does what the sandbox forbids or takes more work or text than it allows.
        """
        taken = [name for name in _GIVEN if name in (variables or {})]
        if taken:
            raise BadInputError(f"the template variable {taken[0]} is given by an argument of its own: use that")
        values = {
            **self._special_tokens,
            **plain(dict(variables or {}), "variables"),
            "messages": checked_messages(messages),
            "tools": checked_tools(tools),
            "documents": None,
            "add_generation_prompt": bool(add_generation_prompt),
        }
        template = self._template if tools is None or self._tool_template is None else self._tool_template
        return self._rendered(template, values)

    def _rendered(self, template: Template, values: dict[str, Any]) -> str:
        from jinja2 import TemplateError

        from inference_pio.runtime.template_limits import Meter

        with self._lock:
            self._sandbox.meter = meter = Meter()
            try:
                return "".join(meter.bounded(template.generate(values)))
            # A template is a program: its expressions fail with Python's own errors too.
            except (TemplateError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
                raise BadInputError(f"the chat template refuses these messages: {_cause(error)}") from None
            except (NameError, ValueError) as error:
                raise BadInputError(f"the chat template fails on these messages: {_cause(error)}") from None

    def _compiled(self, source: str) -> Template:
        from jinja2 import TemplateError

        if len(source) > MAX_SOURCE:
            raise BadInputError(f"the chat template has more than {MAX_SOURCE} characters: restore it")
        try:
            return self._sandbox.from_string(source)
        except (TemplateError, RecursionError, SyntaxError, ValueError) as error:
            raise BadInputError(f"the chat template cannot be read: {_cause(error)}") from None


def _named(source: Any, where: Path) -> dict[str, str]:
    """Templates by name, of a single one or of a list of objects with `name` and `template`."""
    if source is None or source == "":
        return {}
    entries = [{"name": "default", "template": source}] if isinstance(source, str) else source
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
        for entry in entries
    ):
        raise BadInputError(f"{where}: chat_template must be a text or a list of named ones: restore the file")
    return {entry["name"]: entry["template"] for entry in entries}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"{file} cannot be read ({error.strerror}): restore it") from None
    except UnicodeDecodeError:
        raise BadInputError(f"{file} is not UTF-8: restore it") from None


def _cause(error: BaseException) -> str:
    """An error's first line, short enough for a sentence; its kind where it says nothing."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:300]
