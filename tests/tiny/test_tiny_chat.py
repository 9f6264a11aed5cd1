"""Chat templates of the bundled checkpoints, and what the models make of them."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_cases import FAMILIES, Bundled
from tiny_chats import TOOL
from tiny_families import family
from transformers import AutoTokenizer

from inference_pio.runtime.chat_template import ChatTemplate
from inference_pio.tiny import tiny_checkpoint

CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "What does `heappush` do?"},
]
CALL = {"type": "function", "function": {"name": "lookup", "arguments": {"name": "heappush", "depth": 2}}}
CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "Look it up."},
    {"role": "assistant", "content": "Yes.", "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "Push an item."},
    {"role": "tool", "content": "Push it."},
]
CHATML = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    "<|im_start|>assistant\nHi<|im_end|>\n<|im_start|>user\nWhat does `heappush` do?<|im_end|>\n"
)


def rendered(name: str, messages: list[dict[str, Any]], tools: list | None = None, **variables: object) -> str:
    """The prompt, which transformers and our own runtime must write alike."""
    theirs = AutoTokenizer.from_pretrained(tiny_checkpoint(name)).apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=True, **variables
    )
    assert ChatTemplate.load(tiny_checkpoint(name)).render(messages, tools, variables=variables) == theirs
    return theirs


@pytest.mark.parametrize("name", ["qwen3", "qwen3_moe", "qwen3_vl"])
def test_chatml(name: str) -> None:
    assert rendered(name, CHAT) == CHATML + "<|im_start|>assistant\n"


def test_glm_thinks_unless_told_otherwise() -> None:
    start = "[gMASK]<sop><|system|>Be brief.<|user|>Hello<|assistant|></think>Hi<|user|>What does `heappush` do?"
    assert rendered("glm4_moe_lite", CHAT) == start + "<|assistant|><think>"
    assert rendered("glm4_moe_lite", CHAT, enable_thinking=False) == start + "<|assistant|></think>"


def test_glm_forgets_the_reasoning_of_earlier_turns() -> None:
    before = [CHAT[1], {**CHAT[2], "reasoning_content": "A greeting."}]
    assert "A greeting." in rendered("glm4_moe_lite", before)
    assert "A greeting." not in rendered("glm4_moe_lite", [*before, CHAT[3]])
    assert "<think>A greeting.</think>Hi" in rendered("glm4_moe_lite", [*before, CHAT[3]], clear_thinking=False)
    inside = [CHAT[1], {**CHAT[2], "content": "<think>A greeting.</think>Hi"}]
    assert rendered("glm4_moe_lite", inside) == rendered("glm4_moe_lite", before)


def test_calls_of_qwen3_coder() -> None:
    text = rendered("qwen3_moe", CALLS, [TOOL])
    call = (
        "<tool_call>\n<function=lookup>\n<parameter=name>\nheappush\n</parameter>\n"
        "<parameter=depth>\n2\n</parameter>\n</function>\n</tool_call>"
    )
    assert f"<|im_start|>assistant\nYes.\n{call}\n{call}<|im_end|>\n" in text
    responses = "<tool_response>\nPush an item.\n</tool_response>\n<tool_response>\nPush it.\n</tool_response>\n"
    assert text.endswith(f"<|im_start|>user\n{responses}<|im_end|>\n<|im_start|>assistant\n")
    assert text.startswith("<|im_start|>system\nYou help with Python and may call functions.\n\n")
    assert "<parameter>\n<name>module</name>\n<type>string</type>\n" in text
    assert rendered("qwen3_moe", [CHAT[0], *CALLS], [TOOL]).startswith("<|im_start|>system\nBe brief.\n\n")


def test_calls_of_glm() -> None:
    text = rendered("glm4_moe_lite", CALLS, [TOOL])
    call = (
        "<tool_call>lookup<arg_key>name</arg_key><arg_value>heappush</arg_value>"
        "<arg_key>depth</arg_key><arg_value>2</arg_value></tool_call>"
    )
    assert f"<|user|>Look it up.<|assistant|></think>Yes.{call}{call}<|observation|>" in text
    responses = "<tool_response>Push an item.</tool_response><tool_response>Push it.</tool_response>"
    assert text.endswith(f"<|observation|>{responses}<|assistant|><think>")
    assert text.startswith("[gMASK]<sop><|system|>\n# Tools") and '"name": "lookup"' in text


def test_images_stand_where_they_do_in_the_message() -> None:
    parts = [{"type": "text", "text": "First "}, {"type": "image"}, {"type": "video"}, {"type": "image"}]
    messages = [{"role": "user", "content": parts}, CHAT[2], {"role": "user", "content": [{"type": "image"}]}]
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    text = rendered("qwen3_vl", messages)
    assert f"user\nFirst {image}<|vision_start|><|video_pad|><|vision_end|>{image}<|im_end|>" in text
    numbered = rendered("qwen3_vl", messages, add_vision_id=True)
    assert [f"Picture {n}: {image}" in numbered for n in (1, 2, 3, 4)] == [True] * 3 + [False]
    assert "Video 1: <|vision_start|><|video_pad|>" in numbered


@pytest.mark.parametrize("name", FAMILIES)
def test_unknown_roles_are_refused(name: str) -> None:
    with pytest.raises(Exception, match="Unknown role: robot"):
        rendered(name, [{"role": "robot", "content": "x"}])


@pytest.mark.parametrize("name", FAMILIES)
def test_templates_are_those_that_training_used(name: str) -> None:
    assert (tiny_checkpoint(name) / "chat_template.jinja").read_text(encoding="utf-8") == family(name).chat_template


def test_the_model_answers_and_ends_its_turn(bundled: Bundled) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bundled.folder)
    prompt = tokenizer.apply_chat_template(
        CHAT[1:2], add_generation_prompt=True, return_tensors="pt", enable_thinking=False
    )
    ids = bundled.model.generate(**prompt, max_new_tokens=80)[0, prompt["input_ids"].shape[1] :].tolist()
    stops = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>", "<|user|>"])
    assert len(ids) > 5 and ids[-1] in stops
