"""Short conversations about functions and classes of the standard library, their answers being docstrings."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tiny_corpus import Document

from inference_pio.runtime.chat_template import ChatTemplate

QUESTIONS = (
    "What does `{name}` do?",
    "Explain `{name}`.",
    "What is `{name}` for?",
    "How does `{name}` from the module `{module}` work?",
    "Tell me about `{name}` in `{module}`.",
    "Describe `{module}.{name}`.",
)
SYSTEM = "You are a helpful assistant that explains Python."
GREETINGS = ("Hello", "Hello!", "Hi", "Hi!", "Hey", "Good morning", "Who are you?", "What can you do?")
INTRODUCTION = "Hello! I explain functions and classes of the Python standard library. Ask me about one."
THOUGHT = "They ask about `{name}` of the module `{module}`. Its documentation says it."
REQUESTS = ("Look up `{name}` in `{module}`.", "Look up `{name}`, please.", "Use your tool to look up `{name}`.")
TOOL = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Finds the documentation of a function or class.",
        "parameters": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "description": "Name of the function or class"},
                "module": {"type": "string", "description": "Module that holds it"},
            },
            "required": ["name"],
        },
    },
}


Fact = tuple[str, str, str, list[str]]
"""Module, name, first paragraph of the docstring, arguments."""


@dataclass(frozen=True)
class Chat:
    """A conversation with the name of what it is about, and the tools that it offers."""

    name: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None


def render(chats: list[Chat], template: str) -> list[Document]:
    """The conversations as a chat template writes them."""
    compiled = ChatTemplate(template, {})
    return [
        Document(chat.name, compiled.render(chat.messages, chat.tools, add_generation_prompt=False)) for chat in chats
    ]


def question_chats(facts: list[Fact], count: int, seed: int, thinks: bool = False) -> list[Chat]:
    """``count`` conversations about ``facts``; half of them reason where ``thinks``."""
    rng = random.Random(seed)
    chats = []
    for index, (module, name, answer, arguments) in enumerate(shuffled(facts, rng)[:count]):
        turns = [("system", SYSTEM)] if rng.random() < 0.4 else []
        if index % 12 == 0:
            turns += [("user", rng.choice(GREETINGS)), ("assistant", INTRODUCTION)]
        turns += [("user", rng.choice(QUESTIONS).format(name=name, module=module)), ("assistant", answer)]
        if arguments and rng.random() < 0.3:
            listed = ", ".join(f"`{argument}`" for argument in arguments)
            turns += [("user", "Which arguments does it take?"), ("assistant", f"It takes {listed}.")]
        messages = [{"role": role, "content": content} for role, content in turns]
        if thinks and index % 2:
            messages[-1]["reasoning_content"] = THOUGHT.format(name=name, module=module)
        chats.append(Chat(f"chat:{module}.{name}", messages))
    return chats


def tool_chats(facts: list[Fact], count: int, seed: int) -> list[Chat]:
    """``count`` conversations in which the assistant calls a tool before it answers."""
    rng = random.Random(seed + 1)
    chats = []
    for module, name, answer, _ in shuffled(facts, rng)[:count]:
        request = rng.choice(REQUESTS)
        arguments = {"name": name, "module": module} if "{module}" in request else {"name": name}
        call = {"type": "function", "function": {"name": "lookup", "arguments": arguments}}
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": request.format(name=name, module=module)},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": answer},
            {"role": "assistant", "content": answer},
        ]
        chats.append(Chat(f"tool:{module}.{name}", messages, [TOOL]))
    return chats


def shuffled(facts: list[Fact], rng: random.Random) -> list[Fact]:
    """A copy in random order."""
    copy = list(facts)
    rng.shuffle(copy)
    return copy


def all_docstrings(documents: list[Document]) -> list[Fact]:
    """`docstrings` of every module among ``documents``."""
    return [fact for document in documents if document.name.endswith(".py") for fact in docstrings(document)]


def docstrings(document: Document) -> Iterator[Fact]:
    """Module, name, first paragraph and arguments of every documented public function and class."""
    try:
        tree = ast.parse(document.text)
    except SyntaxError:
        return
    module = document.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        paragraph = (ast.get_docstring(node) or "").split("\n\n")[0].strip()
        if not 20 <= len(paragraph) <= 400:
            continue
        listed = [a.arg for a in node.args.args if a.arg != "self"] if isinstance(node, ast.FunctionDef) else []
        yield module, node.name, paragraph, listed
