"""Streaming text: the pieces add up to the tokenizer's own text, for every family of decoders and any ids."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from inference_pio.runtime.detokenizer import StreamDecoder
from inference_pio.runtime.tokenizer import Tokenizer

BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["▁", "▁▁", "a", "▁a", "▁the", "b▁", "é", "中", "\ufffd", "x\ufffd", "", "<0xZZ>", "<0x+A>", "stop", "."]

LLAMA = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
GEMMA = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


def byte_level() -> Tokenizer:
    """Ids 0 to 255 are bytes; then merges, one of a character's end with another's beginning; added tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: index for index, character in enumerate(alphabet)}
    vocab |= {"th": 256, "Ġth": 257, "¬ð": 258}
    backend = Backend(models.BPE(vocab=vocab, merges=[("t", "h"), ("Ġ", "th"), ("¬", "ð")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|end|>"])
    backend.add_tokens([AddedToken("<think>", special=False), AddedToken("中é", special=False)])
    return Tokenizer(backend)


def pieces(decoder) -> Tokenizer:
    """Ids 0 to 255 are byte tokens, then WORDS, then one special token."""
    tokens = [(token, 0.0) for token in [*BYTE_TOKENS, *WORDS, "<unk>"]]
    backend = Backend(models.Unigram(tokens, unk_id=len(tokens) - 1, byte_fallback=True))
    if decoder is not None:
        backend.decoder = decoder
    backend.add_special_tokens(["</s>"])
    return Tokenizer(backend)


TOKENIZERS = {
    "byte-level": byte_level(),
    "llama": pieces(decoders.Sequence(LLAMA)),
    "gemma": pieces(decoders.Sequence(GEMMA)),
    "metaspace": pieces(decoders.Metaspace()),
    "metaspace-never": pieces(decoders.Metaspace(prepend_scheme="never")),
    "fallback-metaspace": pieces(decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])),
    "strip-3": pieces(decoders.Sequence([*GEMMA, decoders.Strip(" ", 3, 0)])),
    "replace-late": pieces(decoders.Sequence([*GEMMA, decoders.Replace("aa", "b")])),
    "word-piece": pieces(decoders.WordPiece()),
    "joined-by-spaces": pieces(None),
}


def streamed(tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    decoder = StreamDecoder(tokenizer, stop)
    return [decoder.push(token_id) for token_id in ids] + [decoder.finish()]


def some_ids(size: int) -> st.SearchStrategy[list[int]]:
    """Any ids, bytes and words alike, and runs from a few of them."""
    one = st.one_of(st.integers(0, 255), st.integers(256, size + 2))
    anything = st.lists(one, max_size=60)
    narrow = st.lists(one, min_size=1, max_size=4).flatmap(lambda few: st.lists(st.sampled_from(few), max_size=60))
    return st.one_of(anything, narrow, st.tuples(anything, narrow).map(lambda parts: parts[0] + parts[1]))


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_the_pieces_add_up(name, data):
    tokenizer = TOKENIZERS[name]
    ids = data.draw(some_ids(tokenizer.vocab_size))
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


@settings(max_examples=250, deadline=None)
@given(st.lists(st.sampled_from([0x41, 0x80, 0xA9, 0xC3, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0xED, 0xFF]), max_size=40))
def test_any_bytes_in_both_byte_vocabularies(content):
    """Runs of UTF-8 leads, continuations and impossible bytes."""
    level = TOKENIZERS["byte-level"]
    spelled = [level.token_to_id(character) for character in byte_characters(bytes(content))]
    assert "".join(streamed(level, spelled)) == level.decode(spelled) == bytes(content).decode("utf-8", "replace")
    fallback = TOKENIZERS["llama"]
    assert "".join(streamed(fallback, content)) == fallback.decode(content)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        # An empty token ends a run of bytes, and may be where the window begins.
        ("llama", ["<0xC3>", "", "<0xA9>", "a"]),
        ("llama", ["a", "a", "a", "a", "<0xC3>", "<0xA9>", "<0xFF>", "", "▁a"]),
        ("strip-3", ["a", "a", "a", "a", "<0xC3>", "<0xA9>", "<0xFF>", "▁", "▁a"]),
        ("strip-3", ["▁", "▁▁", "▁a", "▁"]),
        ("joined-by-spaces", ["a", "", "", "a"]),
        ("replace-late", ["a", "a", "a"]),
        ("word-piece", ["a", "##", "", "."]),
        # The last token of the window alone is a byte of the open character, and so looks like it.
        ("byte-level", ["a", "a", "a", "â", "Ĥ", "¬ð", "Ł", "ĺ", "Ģ", "a"]),
    ],
)
def test_places_where_a_window_may_not_be_cut(name, tokens):
    tokenizer = TOKENIZERS[name]
    ids = [tokenizer.token_to_id(token) for token in tokens if tokenizer.token_to_id(token) is not None]
    assert len(ids) >= 3
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


def byte_characters(content: bytes) -> list[str]:
    """How a byte-level vocabulary spells bytes: printable ones as they are, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in content]


def test_never_half_a_character():
    tokenizer = TOKENIZERS["byte-level"]
    text = "a€😀é\u200d中"
    ids = [tokenizer.token_to_id(character) for character in byte_characters(text.encode())]
    deltas = streamed(tokenizer, ids)
    assert [delta for delta in deltas if delta] == list(text)
    assert deltas[3] == "€" and deltas[1:3] == ["", ""]


def test_a_character_that_never_completes_comes_at_the_end():
    tokenizer = TOKENIZERS["byte-level"]
    ids = [tokenizer.token_to_id(character) for character in byte_characters(b"ok\xe2\x82")]
    assert streamed(tokenizer, ids) == ["o", "k", "", "", "\ufffd"]


def test_special_tokens_neither_show_nor_split_a_character():
    tokenizer = TOKENIZERS["byte-level"]
    first, second = (tokenizer.token_to_id(character) for character in byte_characters("é".encode()))
    end = tokenizer.token_to_id("<|end|>")
    assert streamed(tokenizer, [end, first, end, second, end]) == ["", "", "", "é", "", ""]
    assert streamed(tokenizer, [tokenizer.token_to_id("<think>")])[0] == "<think>"


def test_text_does_not_wait_for_long(tiny):
    tokenizer = Tokenizer.load(tiny)
    ids = tokenizer.encode("def read(self, size=-1):\n    return self._read(size)\n" * 5)
    given_out = ""
    decoder = StreamDecoder(tokenizer, ())
    for count, token_id in enumerate(ids, 1):
        given_out += decoder.push(token_id)
        assert given_out == tokenizer.decode(ids[:count])


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("byte-level", [0] * 3000),
        ("byte-level", list(range(256)) * 12),
        ("llama", [0xC3] * 3000),
        ("llama", [0xC3, 0xA9, 256, 257] * 700),
        ("llama", [0x41] * 800 + [0xFF, 258, 258]),
        ("byte-level", [0] + [259] * 3000),
        ("llama", [256] * 3000),
        ("llama", [266] * 3000),
        ("metaspace", [257] * 3000),
    ],
)
def test_a_token_costs_the_same_however_long_the_answer(name, ids):
    """The tokens decoded in all grow with the answer, not with its square."""
    tokenizer = CountingTokenizer(TOKENIZERS[name])
    assert "".join(streamed(tokenizer, ids)) == TOKENIZERS[name].decode(ids)
    assert tokenizer.decoded < 40 * len(ids)


class CountingTokenizer:
    """Passes everything on and counts the tokens that were decoded."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.decoded = 0

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def decode(self, ids):
        self.decoded += len(ids)
        return self._tokenizer.decode(ids)


def test_stop_string_across_tokens():
    tokenizer = TOKENIZERS["llama"]
    ids = [tokenizer.token_to_id(token) for token in ["▁the", "▁a", "stop", "a", "▁the"]]
    assert tokenizer.decode(ids) == "the astopa the"
    decoder = StreamDecoder(tokenizer, ("top", "pax"))
    assert [decoder.push(token_id) for token_id in ids] == ["the", " a", "s", "", ""]
    assert decoder.stopped and decoder.finish() == ""
    assert streamed(tokenizer, ids, ("topa", "astop ")) == ["the", " ", "", "as", "", ""]


def test_the_beginning_of_a_stop_string_is_held_and_released():
    tokenizer = TOKENIZERS["llama"]
    ids = [tokenizer.token_to_id(token) for token in ["a", "stop", "a"]]
    decoder = StreamDecoder(tokenizer, ("stop!", "opal"))
    assert [decoder.push(token_id) for token_id in ids] == ["a", "", "st"]
    assert decoder.finish() == "opa" and not decoder.stopped


def test_a_stop_string_found_only_at_the_end():
    """The replacement character waits for more bytes, so a stop string that ends in it is complete at the end."""
    tokenizer = TOKENIZERS["byte-level"]
    ids = [tokenizer.token_to_id(character) for character in byte_characters(b"ab\xe2")]
    decoder = StreamDecoder(tokenizer, ("b\ufffd",))
    assert [decoder.push(token_id) for token_id in ids] == ["a", "", ""]
    assert decoder.finish() == "" and decoder.stopped


@settings(max_examples=300, deadline=None)
@given(
    ids=st.lists(st.sampled_from([256, 258, 259, 260, 262, 269, 0xC3, 0xA9]), max_size=30),
    stop=st.lists(st.text(alphabet=" atheé", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_stop_strings_against_the_whole_text(ids, stop):
    tokenizer = TOKENIZERS["llama"]
    text = tokenizer.decode(ids)
    ends = [(text.index(item) + len(item), text.index(item)) for item in stop if item in text]
    expected = text[: min(ends)[1]] if ends else text
    decoder = StreamDecoder(tokenizer, stop)
    assert "".join([*(decoder.push(token_id) for token_id in ids), decoder.finish()]) == expected
    assert decoder.stopped == bool(ends)
