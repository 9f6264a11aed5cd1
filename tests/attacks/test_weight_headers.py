"""Lying safetensors headers: each is refused with one sentence that names the culprit; fuzzing ends no other way."""

import json
import os
import struct
import sys
from pathlib import Path

import pytest
import safetensors
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.checkpoint.safetensors import read_header
from inference_pio.errors import BadInputError

sys.path.insert(0, str(Path(__file__).parents[1]))
from crafted import SOUND, A, B, framed, refusal, with_a


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    (tmp_path / "model.safetensors").write_bytes(framed(SOUND))
    return tmp_path


WHOLE = framed(SOUND)

HEADERS: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "has 0 bytes"),
    "seven bytes": (WHOLE[:7], "has 7 bytes"),
    "header cut": (WHOLE[:50], "truncated"),
    "data cut": (WHOLE[:-1], "'b' ends at byte"),
    "data all gone": (WHOLE[:-32], "'a' ends at byte"),
    "length zero": (framed(SOUND, length=0), "does not begin with"),
    "length one short": (framed({"a": A}, bytes(24), len(json.dumps({"a": A})) - 1), "not valid JSON"),
    "length one long": (framed({"a": A}, bytes(24), len(json.dumps({"a": A})) + 1), "not valid JSON"),
    "length beyond the file": (framed(SOUND, length=10_000), "claims a header of 10000 bytes"),
    "length 2**63": (framed(SOUND, length=2**63), f"claims a header of {2**63} bytes"),
    "length 2**64 - 1": (framed(SOUND, length=2**64 - 1), f"claims a header of {2**64 - 1} bytes"),
    "a web page": (b"<!DOCTYPE html><html><body>Access denied</body></html>", "claims a header"),
    "a pointer of git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", "claims a header"),
    "not UTF-8": (framed(b'{"\xff": 1}'), "not UTF-8"),
    "a list": (framed([A]), "does not begin with"),
    "leading space": (framed(b" {}", b""), "does not begin with"),
    "trailing words": (framed(b"{} {}", b""), "not valid JSON"),
    "deep nesting": (framed(b'{"a":' + b"[" * 300_000), "nested"),
    "deep nesting, closed": (framed(b'{"a":' + b"[" * 500 + b"]" * 500 + b"}"), "nested"),
    "duplicate tensor": (framed(b'{"a":1,"a":1}'), "'a' stands twice"),
    "duplicate field": (framed(b'{"a":{"dtype":"F32","dtype":"F16"}}'), "'dtype' stands twice"),
    "surrogate name": (framed(b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"), "surrogate"),
    "metadata a list": (framed({"__metadata__": []}, b""), "__metadata__"),
    "metadata of numbers": (framed({"__metadata__": {"a": 1}}, b""), "__metadata__"),
    "tensor a number": (framed({"a": 1}), "'a'"),
    "tensor null": (framed({"a": None}), "'a'"),
    "field missing": (framed({"a": {"dtype": "F32", "shape": [8]}}), "'a' in 'model.safetensors' must have"),
    "field too many": (with_a(strides=[3, 1]), "'a' in 'model.safetensors' must have"),
    "unknown dtype": (with_a(dtype="F33"), "'a' in 'model.safetensors' has the unknown dtype 'F33'"),
    "dtype a number": (with_a(dtype=32), "unknown dtype 32"),
    "dtype a list": (with_a(dtype=["F32"]), "unknown dtype ['F32']"),
    "other dtype, other size": (with_a(dtype="F64"), "'a' in 'model.safetensors' occupies 24 bytes"),
    "shape a number": (with_a(shape=6), "'a' in 'model.safetensors' has the shape 6"),
    "shape null": (with_a(shape=None), "has the shape None"),
    "negative shape": (with_a(shape=[-2, -3]), "has the shape [-2, -3]"),
    "fractional shape": (with_a(shape=[2.0, 3]), "has the shape [2.0, 3]"),
    "boolean shape": (with_a(shape=[True, 6]), "has the shape [True, 6]"),
    "shape of strings": (with_a(shape=["2", "3"]), "has the shape ['2', '3']"),
    "too many axes": (with_a(shape=[1] * 33), "has the shape"),
    "wrong shape": (with_a(shape=[2, 2]), "occupies 24 bytes, but shape [2, 2] of F32 needs 16"),
    "shape that wraps to 6": (with_a(shape=[2**62 + 3, 2]), "impossibly large"),
    "shape beyond 64 bits": (with_a(shape=[2**64]), "has the shape"),
    "shape of huge numbers": (with_a(shape=[10**99, 10**99]), "has the shape"),
    "shape of a million axes": (with_a(shape=[2] * 1_000_000), "has the shape"),
    "zero times huge": (with_a(shape=[0, 2**62, 2**62], data_offsets=[0, 0]), "impossibly large"),
    "offsets a number": (with_a(data_offsets=24), "has data_offsets 24"),
    "one offset": (with_a(data_offsets=[24]), "has data_offsets [24]"),
    "three offsets": (with_a(data_offsets=[0, 24, 24]), "has data_offsets [0, 24, 24]"),
    "negative offsets": (with_a(data_offsets=[-24, 0]), "has data_offsets [-24, 0]"),
    "fractional offsets": (with_a(data_offsets=[0, 24.0]), "has data_offsets [0, 24.0]"),
    "boolean offsets": (with_a(data_offsets=[False, 24]), "has data_offsets [False, 24]"),
    "offsets reversed": (with_a(data_offsets=[24, 0]), "occupies -24 bytes"),
    "offsets outside": (with_a(data_offsets=[1000, 1024]), "hole"),
    "offsets near 2**63": (with_a(data_offsets=[2**63 - 25, 2**63 - 1]), "hole"),
    "offsets beyond 2**64": (with_a(data_offsets=[2**64, 2**64 + 24]), "has data_offsets"),
    "huge integers": (with_a(data_offsets=[0, 10**99]), "has data_offsets"),
    "an integer of a million digits": (framed(b'{"a":' + b"1" * 1_000_000 + b"}"), "integer of 1000000 digits"),
    "infinite offset": (framed(b'{"a":{"data_offsets":[0,1e999]}}'), "too large"),
    "NaN": (framed(b'{"a":{"shape":[NaN]}}'), "NaN is not a JSON number"),
    "overlap": (with_a(shape=[2, 4], data_offsets=[0, 32]), "'b' in 'model.safetensors' overlaps tensor 'a'"),
    "same bytes twice": (framed({"a": A, "c": A, "b": B}), "'c' in 'model.safetensors' overlaps tensor 'a'"),
    "hole at the start": (framed({"b": B}), "hole of 24 bytes between the header and tensor 'b'"),
    "hole inside": (framed({"a": {**A, "shape": [5], "data_offsets": [0, 20]}, "b": B}), "hole of 4 bytes"),
    "bytes behind": (framed({"a": A}), "8 bytes behind tensor 'a'"),
    "bytes of no tensor": (framed({}), "32 bytes behind the header"),
    "empty tensor outside": (
        framed({"a": A, "b": B, "c": {"dtype": "F32", "shape": [0], "data_offsets": [99, 99]}}),
        "hole of 67 bytes between tensor 'b' and tensor 'c'",
    ),
    "empty tensor inside another": (
        framed({"a": A, "b": B, "c": {"dtype": "F32", "shape": [0], "data_offsets": [5, 5]}}),
        "'c' in 'model.safetensors' overlaps tensor 'a'",
    ),
    "name of control characters": (framed({"\x1b[2J\n": 1}), "\\x1b[2J\\n"),
    "name of a megabyte": (framed({"n" * 1_000_000: 1}), "nnn"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_lying_weight_files_are_refused(folder: Path, case: str) -> None:
    content, words = HEADERS[case]
    (folder / "model.safetensors").write_bytes(content)
    message = refusal(lambda: Checkpoint.open(folder))
    assert words in message
    assert "'model.safetensors'" in message


def test_a_header_above_the_limit_is_not_read(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 25_000_001) + b"{")
    os.truncate(path, 300_000_000)
    assert "at most 25000000 are accepted" in refusal(lambda: Checkpoint.open(folder))


NUMBERS = st.one_of(
    st.integers(-40, 60), st.sampled_from([2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, 10**60]), st.floats()
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=4))
JUNK = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F16", "U8", "F4", "I64"]) | JUNK,
        "shape": st.lists(st.integers(0, 8), max_size=3) | st.lists(NUMBERS, max_size=4) | JUNK,
        "data_offsets": st.lists(st.integers(0, 40), min_size=2, max_size=2).map(sorted) | JUNK,
    }
)
NAMES = st.sampled_from(["a", "b", "c", "__metadata__"])


def check_fuzzed(path: Path, content: bytes) -> None:
    """Only `BadInputError` may escape; what is accepted covers the file and suits the reference library too."""
    path.write_bytes(content)
    try:
        found = read_header(path)
    except BadInputError as refused:
        assert str(refused).isprintable()
        return
    start = 8 + int.from_bytes(content[:8], "little")
    for info in found.values():
        assert info.offset == start
        start += info.nbytes
    assert start == len(content)
    assert {name for name, _ in safetensors.deserialize(content)} == found.keys()


FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@FUZZ
@given(header=st.dictionaries(NAMES, ENTRIES | JUNK, max_size=3), size=st.integers(0, 48))
@example(header={"a": A, "b": B}, size=32)
@example(header={"a": A, "b": {**B, "dtype": "F4", "shape": [16]}}, size=32)
def test_fuzzed_headers(tmp_path: Path, header: dict[str, object], size: int) -> None:
    check_fuzzed(tmp_path / "fuzzed.safetensors", framed(header, bytes(size)))


@FUZZ
@given(edits=st.lists(st.tuples(st.integers(0, len(WHOLE)), st.integers(0, 3), st.binary(max_size=3)), max_size=4))
@example(edits=[])
def test_fuzzed_bytes(tmp_path: Path, edits: list[tuple[int, int, bytes]]) -> None:
    content = WHOLE
    for at, removed, added in edits:
        content = content[:at] + added + content[at + removed :]
    check_fuzzed(tmp_path / "fuzzed.safetensors", content)


@FUZZ
@given(field=st.sampled_from(["dtype", "shape", "data_offsets"]), value=JUNK, other=NUMBERS, at=st.integers(0, 1))
def test_fuzzed_fields(tmp_path: Path, field: str, value: object, other: float, at: int) -> None:
    nearly = list(A["data_offsets"]) if field == "data_offsets" else list(A["shape"])
    nearly[at] = other
    for entry in ({**A, field: value}, {**A, field: nearly}):
        check_fuzzed(tmp_path / "fuzzed.safetensors", framed({"a": entry, "b": B}))
