"""Engines whose chat templates reason and call tools, and answers as if the model had written them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.runtime import Delta, Engine, FinishReason, Result, Usage
from inference_pio.runtime.result import Timings
from inference_pio.tiny import tiny_checkpoint

TEMPLATE = r"""
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + (message.content or '') }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
        {{- call.function.arguments | tojson }}{{ '}\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n<think>\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{ '\n</think>\n\n' }}{% endif %}
{%- endif %}
"""
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def artifact_with_template(template: str, folder: Path) -> Path:
    """The tiny model in fp32 with another chat template."""
    shutil.copytree(tiny_checkpoint("qwen3"), folder / "checkpoint")
    (folder / "checkpoint" / "chat_template.jinja").write_text(template, "utf-8")
    export(folder / "checkpoint", folder / "artifact", ExportOptions(precision="fp32"))
    return folder / "artifact"


def scripted(answer: str, finish: FinishReason = FinishReason.STOP) -> Iterator[Delta]:
    """The deltas of an answer, a character at a time."""
    for character in answer:
        yield Delta(character, (1,))
    result = Result(answer, (1,) * len(answer), finish, Usage(3, len(answer), 0), Timings(0, 0, 0, 0, 0, 0))
    yield Delta("", (), None, finish, result)


def say(engine: Engine, monkeypatch: pytest.MonkeyPatch, *answers: str, **more: Any) -> None:
    """Let the engine give these answers, one per request, instead of running its model."""
    left = list(answers)
    monkeypatch.setattr(engine, "_run", lambda _: scripted(left.pop(0), **more))
