"""Text to ids and back, as transformers does from the same files; unusable files are refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from inference_pio.errors import BadInputError
from inference_pio.runtime.decoder_kind import decoder_kind
from inference_pio.runtime.tokenizer import Tokenizer
from inference_pio.tiny import tiny_checkpoint

TEXTS = [
    "",
    " ",
    "def f(x):\n\treturn x  # caf\u00e9 \u4e2d\u6587 \U0001f600\r\n",
    "<|im_start|>user\nhi<|im_end|>\n<|im_end|><|endoftext|>",
    "<|im_start",
    "e\u0301 \u00e9 \u212b",
    "\x00\x01\ufffd\u200d",
    "1234567890" * 20,
    " leading and trailing \n\n",
]


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return Tokenizer.load(tiny_checkpoint("qwen3"))


@pytest.fixture(scope="module")
def theirs() -> Any:
    return AutoTokenizer.from_pretrained(tiny_checkpoint("qwen3"))


@pytest.mark.parametrize("text", TEXTS)
def test_encode_and_decode_like_transformers(ours, theirs, text):
    ids = ours.encode(text)
    assert ids == theirs(text).input_ids
    assert ours.encode(text, add_special_tokens=False) == theirs(text, add_special_tokens=False).input_ids
    for skip in (True, False):
        assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_like_transformers(ours, theirs, text):
    assert ours.encode(text) == theirs(text).input_ids


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 2100), max_size=20))
def test_any_ids_like_transformers(ours, theirs, ids):
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_the_vocabulary(ours, theirs):
    assert ours.vocab_size == len(theirs) == 2048
    assert ours.special_ids == set(theirs.all_special_ids) == {2045, 2046, 2047}
    assert (ours.token_to_id("<|im_end|>"), ours.token_to_id("no such token")) == (2047, None)
    assert (ours.id_to_token(2047), ours.id_to_token(5000)) == ("<|im_end|>", None)


def words(special: tuple[str, ...] = (), unknown: str | None = "[UNK]") -> Backend:
    """A tokenizer of words: hello, world, and bos and eos as ordinary words."""
    vocab = {word: index for index, word in enumerate(["[UNK]", "hello", "world", "<s>", "</s>", "."])}
    if unknown is None:
        del vocab["[UNK]"]
    backend = Backend(models.WordLevel(vocab, unk_token=unknown or "none"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(list(special))
    return backend


def saved(folder: Path, backend: Backend, **config: Any) -> Path:
    backend.save(str(folder / "tokenizer.json"))
    if config:
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_no_truncation_and_no_padding(tmp_path):
    backend = words()
    backend.enable_truncation(2)
    backend.enable_padding(length=8)
    tokenizer = Tokenizer.load(saved(tmp_path, backend))
    assert tokenizer.encode("hello world hello") == [1, 2, 1]
    assert tokenizer.encode("hello") == [1]


def test_the_post_processor_adds_tokens(tmp_path):
    backend = words(special=("<s>",))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 3)])
    folder = saved(tmp_path, backend, bos_token="<s>")
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.encode("hello") == PreTrainedTokenizerFast.from_pretrained(folder)("hello").input_ids == [3, 1]
    assert tokenizer.encode("hello", add_special_tokens=False) == [1]
    assert tokenizer.encode("") == [3]


@pytest.mark.parametrize(
    "config",
    [
        {"bos_token": "<s>", "add_bos_token": True},
        {"bos_token": "<s>", "eos_token": "</s>", "add_eos_token": True},
        {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": True},
        {"bos_token": "<not there>", "add_bos_token": True},
        {"bos_token": {"content": "<s>", "__type": "AddedToken", "special": True}, "add_bos_token": True},
        {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["world"]},
        {"extra_special_tokens": ["world"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("template", ["$A", "</s> $A"])
def test_the_config_like_transformers(tmp_path, config, template):
    backend = words()
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("</s>", 4)])
    folder = saved(tmp_path, backend, **config)
    ours, theirs = Tokenizer.load(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    for text in ("hello world", "<s>hello</s> world.", "", "hello<s>"):
        assert ours.encode(text) == theirs(text).input_ids
        ids = [0, 1, 2, 3, 4, 5]
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    special = {theirs.convert_tokens_to_ids(token) for token in theirs.all_special_tokens}
    assert ours.special_ids >= {token_id for token_id in special if token_id < ours.vocab_size}


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"model_max_length": 10}, "hello <s> </s>"),
        ({"eos_token": "</s>"}, "hello <s>"),
        ({"eos_token": "</s>", "bos_token": "<s>"}, "hello"),
        ({"additional_special_tokens": ["<s>"]}, "hello <s> </s>"),
    ],
)
def test_added_tokens_that_the_config_names(tmp_path, config, text):
    """They become special and keep their other flags; extra ones stay as they are: as in transformers."""
    backend = words()
    backend.add_tokens([AddedToken("</s>", special=False, single_word=True), AddedToken("<s>", special=False)])
    folder = saved(tmp_path, backend, **config)
    ours, theirs = Tokenizer.load(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    assert ours.encode("hello</s> </s>") == theirs("hello</s> </s>").input_ids
    assert ours.decode([1, 3, 4]) == theirs.decode([1, 3, 4], skip_special_tokens=True) == text


def test_names_without_a_token_are_not_invented(tmp_path):
    tokenizer = Tokenizer.load(saved(tmp_path, words(), pad_token="<pad>", additional_special_tokens=["<x>"]))
    assert (tokenizer.vocab_size, tokenizer.special_ids) == (6, frozenset())


def test_spaces_are_not_cleaned_up(tmp_path):
    tokenizer = Tokenizer.load(saved(tmp_path, words(), clean_up_tokenization_spaces=True))
    assert tokenizer.decode([1, 5]) == "hello ."


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_half_a_surrogate_pair(ours, text):
    with pytest.raises(BadInputError, match="not valid Unicode"):
        ours.encode(text)


@pytest.mark.parametrize("text", [b"bytes", None, 5, ["list"]])
def test_text_that_is_none(ours, text):
    with pytest.raises(BadInputError, match="needs text"):
        ours.encode(text)


@pytest.mark.parametrize("ids", [[-1], [2**32], [1.5], ["a"], [None], None, "abc", [[1]]])
def test_ids_that_are_none(ours, ids):
    with pytest.raises(BadInputError, match="integers"):
        ours.decode(ids)


def test_text_that_the_vocabulary_cannot_spell(tmp_path):
    tokenizer = Tokenizer.load(saved(tmp_path, words(unknown=None)))
    with pytest.raises(BadInputError, match=r"tokenizer\.json cannot encode"):
        tokenizer.encode("unheard")


BAD_FILES = [
    ("tokenizer.json", None),
    ("tokenizer.json", b""),
    ("tokenizer.json", b"\xff\xfe"),
    ("tokenizer.json", b"not json"),
    ("tokenizer.json", b"{}"),
    ("tokenizer.json", b"[]"),
    ("tokenizer.json", b'{"version": "1.0", "model": {"type": "BPE"}}'),
    ("tokenizer.json", b'{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}'),
    ("tokenizer.json", b"[" * 100_000),
    (  # at which the library would abort the process
        "tokenizer.json",
        b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]],'
        b' "continuing_subword_prefix": "##"}}',
    ),
    ("tokenizer_config.json", b"{"),
    ("tokenizer_config.json", b"\xff"),
    ("tokenizer_config.json", b"[]"),
    ("tokenizer_config.json", b"[" * 100_000),
    ("tokenizer_config.json", b'{"eos_token": 5}'),
    ("tokenizer_config.json", b'{"eos_token": {"text": "x"}}'),
    ("tokenizer_config.json", b'{"additional_special_tokens": "x"}'),
    ("tokenizer_config.json", b'{"additional_special_tokens": [5]}'),
]


@pytest.mark.parametrize(("name", "content"), BAD_FILES, ids=range(len(BAD_FILES)))
def test_unusable_files(tmp_path, tiny, name, content):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / file, tmp_path / file)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInputError) as caught:
        Tokenizer.load(tmp_path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_in_the_file_s_place(tmp_path):
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(BadInputError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.load(tmp_path)


def test_a_decoder_that_strips_the_end(tmp_path):
    backend = words()
    backend.decoder = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)])
    with pytest.raises(BadInputError, match="strips the end"):
        Tokenizer.load(saved(tmp_path, backend))


@pytest.mark.parametrize(
    ("steps", "streamable", "byte_fallback"),
    [
        ([], True, False),
        (["ByteLevel"], True, False),
        (["Metaspace"], True, False),
        (["Replace", "ByteFallback", "Fuse", "Strip"], True, True),
        (["ByteFallback", "Fuse", "Replace"], False, True),
        (["Fuse", "Metaspace"], False, False),
        (["WordPiece"], False, False),
        (["CTC"], False, False),
    ],
)
def test_kinds_of_decoders(steps, streamable, byte_fallback):
    parts = [{"type": step, "stop": 0} for step in steps]
    kind = decoder_kind({"type": "Sequence", "decoders": [{"type": "Sequence", "decoders": parts}]})
    assert (kind.streamable, kind.byte_fallback, kind.joins_with_spaces) == (streamable, byte_fallback, False)
    if len(parts) == 1:
        assert decoder_kind(parts[0]) == kind
    assert decoder_kind(None).joins_with_spaces
    assert kind.is_byte("<0xE2>") == byte_fallback and not kind.is_byte("<0xE2") and not kind.is_byte("a")
