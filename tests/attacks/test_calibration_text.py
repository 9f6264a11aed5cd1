"""Calibration texts that are none, checkpoints that do not fit, damaged fingerprints: refused in one sentence."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from inference_pio.calibration import documents
from inference_pio.calibration.fingerprint import KEPT, TextFingerprint
from inference_pio.calibration.options import CalibrationOptions
from inference_pio.calibration.plan import plan_calibration
from inference_pio.calibration.text import read_calibration
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError

GOOD = '{"text": "a line that is fine"}\n'


def refuse(source: str | Path, folder: Path, words: str, samples: Any = 1, length: Any = 4, vocab: int = 2048) -> None:
    with pytest.raises(BadInputError, match=words) as caught:
        read_calibration(source, folder, samples, length, vocab)
    message = str(caught.value)
    assert message.isprintable() and 10 < len(message) < 600


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    ignore = shutil.ignore_patterns("*.safetensors")
    return Path(shutil.copytree(tiny, tmp_path / "checkpoint", ignore=ignore))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n\t\r\n", "is empty"),
        (b"\xef\xbb\xbf\n", "is empty"),
        (b"text\0with a zero", "binary .byte 4"),
        ("text".encode("utf-16"), "binary"),
        ("Grüße an alle".encode("latin-1"), "not UTF-8 text .byte 2"),
        (b"\xef\xbb\xbfabc\xff", "byte 6"),
        (b"\xed\xa0\x80 half a surrogate pair", "not UTF-8"),
        (b"\x1f\x8b\x08\x08 compressed", "not UTF-8"),
    ],
)
def test_files_that_are_no_text(tiny: Path, tmp_path: Path, content: bytes, words: str) -> None:
    for name in ("text.txt", "text.jsonl"):
        if name == "text.jsonl" and "byte" in words and "binary" not in words:
            words = "line 1"
        if name == "text.jsonl" and words == "not UTF-8":
            words = "line 1.* not UTF-8"
        (tmp_path / name).write_bytes(content)
        refuse(tmp_path / name, tiny, words)


def test_what_is_no_file(tiny: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    refuse(tmp_path / "absent.txt", tiny, r"absent.txt' cannot be read \(No such file")
    refuse(tmp_path / "loop", tiny, "cannot be read")
    refuse(str(tmp_path / ("x" * 300)), tiny, "cannot be read")
    refuse("a\0b", tiny, "no file name")
    for special in (tmp_path, tmp_path / "pipe", "/dev/zero", ""):
        refuse(special, tiny, "not a regular file")


def test_an_escape_in_a_name_does_not_reach_the_terminal(tiny: Path, tmp_path: Path) -> None:
    refuse(tmp_path / "\x1b[2J\n.txt", tiny, r"x1b\[2J")
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt"))
    refuse(path, tiny, "cannot be read")
    path.write_text("words " * 50, encoding="utf-8")
    assert read_calibration(path, tiny, 1, 4, 2048).name.encode("utf-8") == "\ufffd.txt".encode()


def test_a_file_that_is_too_large(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "sparse.txt", "wb") as file:
        file.truncate((32 << 20) + 1)
    refuse(tmp_path / "sparse.txt", tiny, "larger than 32 MiB")
    monkeypatch.setattr(documents, "MAX_BYTES", 3)
    (tmp_path / "four.txt").write_bytes(b"four")
    refuse(tmp_path / "four.txt", tiny, "larger")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": "broken', "not valid JSON"),
        ("plain words", "not valid JSON"),
        ('["text"]', "must hold a JSON object"),
        ('"text"', "must hold a JSON object"),
        ("{}", "neither text nor messages"),
        ('{"prompt": "a", "completion": "b"}', "neither text nor messages"),
        ('{"text": null}', "neither text nor messages"),
        ('{"text": 5}', "unusable text"),
        ('{"text": ["a"]}', "unusable text"),
        ('{"messages": "hello"}', "unusable messages"),
        ('{"text": "a", "messages": [{"role": "user", "content": "b"}]}', "unusable text and messages"),
        ('{"text": "a", "text": "b"}', "stands twice"),
        ('{"text": "\\ud800"}', "surrogate"),
        ('{"text": NaN}', "not valid JSON"),
        ('{"text": ' + "[" * 100_000, "nested|not valid JSON"),
        ('{"messages": []}', "messages must be a list"),
        ('{"messages": ["hello"]}', "message 0 is not a mapping"),
        ('{"messages": [{"content": "b"}]}', "message 0 has no role"),
        ('{"messages": [{"role": "user"}]}', "message 0 has no content"),
        ('{"messages": [{"role": "judge", "content": "b"}]}', "Unknown role: judge"),
    ],
)
def test_a_bad_line_is_named(tiny: Path, tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "lines.JSONL"
    path.write_text(f"{GOOD}\n{GOOD}{line}\n{GOOD}", encoding="utf-8")
    refuse(path, tiny, f"line 4, .*({words})")


def test_conversations_need_a_chat_template(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hello"}]}\n', encoding="utf-8")
    (folder / "chat_template.jinja").write_text("{{ broken", encoding="utf-8")
    refuse(path, folder, "template cannot be read")
    (folder / "chat_template.jinja").unlink()
    refuse(path, folder, "line 1, holds chat messages.* has no chat template")


def test_a_text_that_is_too_short_says_what_it_has(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("a b c d e f g h i j", encoding="utf-8")
    tokens = 10
    refuse(path, tiny, re.escape("found 2 of 3 samples of 4 tokens: calibration text 'short.txt' has 10"), samples=3)
    refuse(path, tiny, "found 0 of 1 samples", length=tokens + 1)
    assert len(read_calibration(path, tiny, 1, tokens, 2048).samples[0]) == tokens
    refuse("default", tiny, "found 339 of 100000 samples of 256", samples=100_000, length=256)
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n', encoding="utf-8")
    refuse(tmp_path / "empty.jsonl", tiny, "has 0 tokens")


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "4"])
def test_numbers_that_make_no_sense(tiny: Path, value: Any) -> None:
    with Checkpoint.open(tiny) as checkpoint:
        for name in ("samples", "length"):
            with pytest.raises(BadInputError, match=f"{name} must be"):
                plan_calibration(checkpoint, CalibrationOptions(**{name: value}))


def test_numbers_beyond_all_memory_are_merely_too_many(tiny: Path) -> None:
    refuse("default", tiny, "found 0 of", samples=10**30, length=10**30)


def test_a_tokenizer_of_another_model(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "two.jsonl"
    path.write_text(GOOD + GOOD, encoding="utf-8")
    refuse(path, tiny, "token id 2045, the model's vocabulary has 2045 entries", vocab=2045)
    assert read_calibration(path, tiny, 1, 4, 2046).samples


def test_an_unusable_checkpoint(folder: Path, tmp_path: Path) -> None:
    refuse("default", tmp_path, "tokenizer.json cannot be read")
    (folder / "generation_config.json").write_text('{"eos_token_id": [-1]}', encoding="utf-8")
    refuse("default", folder, "eos_token_id")


DAMAGES: list[Any] = [
    None, [], "text", {},
    {"shingles": 2}, {"shingle": 64}, {"shingle": None}, {"hashes": None}, {"hashes": []},
    {"shingles": -1}, {"shingles": 0}, {"shingles": True}, {"shingles": 9.0}, {"more": 1},
    {"hashes": ""}, {"hashes": "0"}, {"hashes": "g" * 16}, {"hashes": "A" * 16}, {"hashes": "00 " * 16},
    {"hashes": "1" * 16 + "0" * 16}, {"hashes": "1" * 32},
    {"shingles": KEPT + 1, "hashes": "".join(f"{n:016x}" for n in range(KEPT + 1))},
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: str(damage)[:40])
def test_a_damaged_fingerprint(damage: Any) -> None:
    sound = TextFingerprint.of("a text of a few words, long enough for several shingles of letters").to_json()
    assert sound["shingles"] > 2
    with pytest.raises(BadInputError, match="calibrate again"):
        TextFingerprint.from_json({**sound, **damage} if isinstance(damage, dict) and damage else damage)
