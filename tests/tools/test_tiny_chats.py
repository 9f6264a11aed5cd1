"""Conversations made of docstrings, and that they come out in each family's form."""

import re

import pytest
from tiny_chats import Chat, all_docstrings, question_chats, render, tool_chats
from tiny_corpus import Document
from tiny_families import family

PUBLIC = 'def public(one, two=2):\n    """Say what it does in a sentence.\n\n    More."""\n'
PRIVATE = '\ndef _private():\n    """Nobody asks about what has no public name."""\n'
FACTS = all_docstrings([Document("package/module.py", PUBLIC + PRIVATE), Document("topic:module", PUBLIC)] * 40)
ANSWER = "Say what it does in a sentence."


def texts(name: str, chats: list[Chat]) -> list[str]:
    return [document.text for document in render(chats, family(name).chat_template)]


@pytest.mark.parametrize("name", ["qwen3", "qwen3_moe", "qwen3_vl"])
def test_questions_follow_the_template_of_qwen(name: str) -> None:
    chats = question_chats(FACTS, 40, seed=3)
    turn = r"(<\|im_start\|>(system|user|assistant)\n[^<]+<\|im_end\|>\n)"
    written = texts(name, chats)
    assert len(written) == 40 and all(re.fullmatch(f"{turn}+", text) for text in written)
    assert all(f"\n{ANSWER}<|im_end|>" in text for text in written)
    assert any("It takes `one`, `two`." in text for text in written)
    assert chats == question_chats(FACTS, 40, seed=3) != question_chats(FACTS, 40, seed=4)


def test_half_of_the_conversations_of_glm_reason_before_the_last_answer() -> None:
    written = texts("glm4_moe_lite", question_chats(FACTS, 40, seed=3, thinks=True))
    assert all(text.startswith("[gMASK]<sop><|") for text in written)
    thinking = [text for text in written if "<think>They ask about `public`" in text]
    assert len(thinking) == 20
    assert all(re.search(r"<\|assistant\|><think>[^<]+</think>[^<]+$", text) for text in thinking)
    assert all(re.search(r"<\|assistant\|></think>[^<]+$", text) for text in set(written) - set(thinking))


def test_no_other_conversation_reasons() -> None:
    assert all("reasoning_content" not in m for c in question_chats(FACTS, 40, 3) for m in c.messages)


def test_tools_are_called_as_qwen3_coder_calls_them() -> None:
    for text in texts("qwen3_moe", tool_chats(FACTS, 12, seed=0)):
        call = r"<tool_call>\n<function=lookup>\n(<parameter=\w+>\n\w[\w.]*\n</parameter>\n)+</function>\n</tool_call>"
        assert re.search(rf"<\|im_start\|>assistant\n{call}<\|im_end\|>\n", text)
        assert "<name>lookup</name>" in text and "<type>string</type>" in text
        assert f"<|im_start|>user\n<tool_response>\n{ANSWER}\n</tool_response>\n<|im_end|>\n" in text
        assert text.endswith(f"<|im_start|>assistant\n{ANSWER}<|im_end|>\n")


def test_tools_are_called_as_glm_calls_them() -> None:
    for text in texts("glm4_moe_lite", tool_chats(FACTS, 12, seed=0)):
        call = r"<tool_call>lookup(<arg_key>\w+</arg_key><arg_value>\w[\w.]*</arg_value>)+</tool_call>"
        assert re.search(rf"<\|assistant\|></think>{call}<\|observation\|>", text)
        assert '"name": "lookup"' in text
        assert f"<|observation|><tool_response>{ANSWER}</tool_response><|assistant|></think>{ANSWER}" in text


def test_some_calls_name_the_module() -> None:
    calls = [chat.messages[1]["tool_calls"][0]["function"]["arguments"] for chat in tool_chats(FACTS, 40, seed=0)]
    assert {tuple(call) for call in calls} == {("name",), ("name", "module")}
    assert all(call["name"] == "public" and call.get("module", "package.module") == "package.module" for call in calls)
