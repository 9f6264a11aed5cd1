"""The training text: nothing of the held-out text in it, conversations in the template's form."""

import re

from tiny_corpus import (
    HELD_OUT_FILE,
    HELD_OUT_MODULES,
    HELD_OUT_TOPICS,
    PASSAGE,
    held_out_documents,
    shares_passage,
    training_documents,
)
from tokenizers import Tokenizer

from inference_pio.tiny import tiny_checkpoint

HELD_OUT = HELD_OUT_FILE.read_text(encoding="utf-8")


def test_held_out_text_is_large_enough_for_any_tokenizer() -> None:
    assert 64_000 <= len(HELD_OUT.encode()) <= 128_000
    tokens = len(Tokenizer.from_file(str(tiny_checkpoint() / "tokenizer.json")).encode(HELD_OUT).ids)
    assert tokens >= 25_000
    # A vocabulary of 150,000 has about one token per word or mark, and digits singly.
    assert len(re.findall(r"\w+|[^\w\s]", HELD_OUT)) >= 10_000


def test_training_leaves_the_held_out_text_alone() -> None:
    kept, dropped = training_documents(HELD_OUT)
    assert set(HELD_OUT_MODULES) | {f"topic:{name}" for name in HELD_OUT_TOPICS} <= set(dropped)
    # Copies of held-out passages elsewhere are noticed as well.
    assert "asyncio/queues.py" in dropped and "topic:in" in dropped
    length = 2 * PASSAGE - 1
    long_passages = {HELD_OUT[i : i + length] for i in range(len(HELD_OUT) - length + 1)}
    for document in kept:
        if document.name.startswith("topic:") or document.name in ("asyncio/locks.py", "pprint.py"):
            text = document.text
            assert not any(text[i : i + length] in long_passages for i in range(len(text) - length + 1))
    assert len(kept) > 500


def test_every_held_out_document_is_known_by_its_passages() -> None:
    passages = {HELD_OUT[i : i + PASSAGE] for i in range(len(HELD_OUT) - PASSAGE + 1)}
    for document in held_out_documents():
        assert shares_passage("an insertion " + document.text, passages), document.name
    assert not shares_passage("nothing of the kind " * 50, passages)
