"""Checkpoints whose tokenizer files are broken, given to `inference-pio export`.

Each ends with exit code 2 and one line `error: ...` that names the culprit, without a traceback, and leaves nothing.
"""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{}", b"[]", b"null", b"\xff\xfe", b"{", b'{"model": {"type": "BPE"}}', b"[" * 100_000),
        *(b'{"version": "1.0", "model": {"type": "Magic", "vocab": {}}}', b'{"model": null}', b"\x00" * 100),
        b'{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}',
        b'{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}',
        b'{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}',
        b'{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 4000000000}, "merges": []}}',
        b'{"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {"a": 1}}}',
        b'{"version": "1.0", "added_tokens": [], "model": {"type": "Unigram", "vocab": [], "unk_id": 5}}',
    ],
    ids=lambda content: content[-40:].decode("ascii", "replace"),
)
def test_tokenizers_that_are_none(checkpoint, refused, content):
    (checkpoint / "tokenizer.json").write_bytes(content)
    assert "tokenizer.json" in refused(checkpoint)


@pytest.mark.parametrize("prefix", ["#", "(", "a b", "\u00e9", "x" * 100])
@pytest.mark.parametrize("merges", [None, [[]], [5], [None], ["\u0120 t", 1]], ids=str)
def test_merges_at_which_the_library_would_abort(checkpoint, refused, prefix, merges):
    values = json.loads((checkpoint / "tokenizer.json").read_text())
    values["model"]["continuing_subword_prefix"] = prefix
    if merges is not None:
        values["model"]["merges"] = merges
    (checkpoint / "tokenizer.json").write_text(json.dumps(values))
    assert "tokenizer.json" in refused(checkpoint)


def test_no_tokenizer(checkpoint, refused):
    (checkpoint / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in refused(checkpoint)


def test_a_tokenizer_of_another_model(checkpoint, refused):
    values = json.loads((checkpoint / "tokenizer.json").read_text())
    values["added_tokens"].append({**values["added_tokens"][0], "id": 2048, "content": "<|one too many|>"})
    (checkpoint / "tokenizer.json").write_text(json.dumps(values))
    assert "token ids up to 2048" in refused(checkpoint)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 100_000])
def test_other_tokenizer_files(checkpoint, refused, name, content):
    (checkpoint / name).write_bytes(content)
    assert name in refused(checkpoint)


def test_a_chat_template_that_is_no_text(checkpoint, refused):
    (checkpoint / "chat_template.jinja").write_bytes(b"{{ messages }}\xff")
    assert "chat_template.jinja is not UTF-8" in refused(checkpoint)
