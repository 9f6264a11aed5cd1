from pathlib import Path

import pytest

from inference_pio.artifact.strict_json import MAX_DEPTH, parse_json_object
from inference_pio.checkpoint.files import read_json_object
from inference_pio.errors import BadInputError


def test_plain_objects_pass() -> None:
    raw = '{"a": 1, "b": [1.5, "ü", null, true], "c": {"d": {}}, "e": "\\u00fc\\ud83d\\ude00"}'.encode()
    assert parse_json_object(raw, "f") == {
        **{"a": 1, "b": [1.5, "ü", None, True]},
        **{"c": {"d": {}}, "e": "ü😀"},
    }


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{} x", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"[]", "must hold a JSON object, not list"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b'{"a": 1, "a": 1}', "'a' stands twice"),
        (b'{"o": {"a": 1, "b": 2, "a": 3}}', "'a' stands twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 101 + b"}", "integer of 101 digits"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "integer of 100000 digits"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'{"a": ' + b"[" * 200_000, "nested"),
        (b'{"a": ' * 200_000, "nested"),
    ],
)
def test_everything_else_is_refused_by_name(raw: bytes, words: str) -> None:
    with pytest.raises(BadInputError, match="the file") as caught:
        parse_json_object(raw, "the file")
    assert words in str(caught.value)


def test_nesting_is_accepted_up_to_the_limit_only() -> None:
    def nested(levels: int) -> bytes:
        return b'{"a": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"

    parse_json_object(nested(MAX_DEPTH), "f")
    with pytest.raises(BadInputError, match="nested"):
        parse_json_object(nested(MAX_DEPTH + 1), "f")


def test_files_above_the_limit_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"{}" + b" " * 8)
    assert read_json_object(path, limit=10) == {}
    with pytest.raises(BadInputError, match=r"'a\.json' has 10 bytes; at most 9"):
        read_json_object(path, limit=9)
