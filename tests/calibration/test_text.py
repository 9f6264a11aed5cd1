"""Calibration samples: where they are taken from, how documents are joined, and what identifies the text."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_corpus import training_documents
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from inference_pio.calibration import documents
from inference_pio.calibration import text as module
from inference_pio.calibration.documents import CORPUS, read_documents
from inference_pio.calibration.text import CalibrationText, read_calibration, spread
from inference_pio.errors import BadInputError
from inference_pio.runtime.chat_template import ChatTemplate
from inference_pio.runtime.tokenizer import Tokenizer
from inference_pio.verify.windows import read_text

END_OF_TEXT, IM_START, IM_END = 2045, 2046, 2047
VOCABULARY = 2048
CONVERSATION = [
    {"role": "user", "content": "What is a queue?"},
    {"role": "assistant", "content": "First in, first out."},
]


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A checkpoint's small files, free to be changed."""
    ignore = shutil.ignore_patterns("*.safetensors")
    return Path(shutil.copytree(tiny, tmp_path / "checkpoint", ignore=ignore))


def lines(path: Path, *values: object) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def whole(source: str | Path, folder: Path) -> list[int]:
    """All tokens of a source, found by asking for ever longer single samples."""
    with pytest.raises(BadInputError) as caught:
        read_calibration(source, folder, 1, 10**9, VOCABULARY)
    count = int(str(caught.value).split(" has ")[1].split()[0])
    return list(read_calibration(source, folder, 1, count, VOCABULARY).samples[0])


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 500))
def test_windows_lie_at_even_distances_from_end_to_end(samples: int, length: int, more: int) -> None:
    tokens = samples * length + more
    found = spread(np.arange(tokens), samples, length, "name")
    starts = [int(sample[0]) for sample in found]
    assert len(found) == samples
    assert all(
        sample.tolist() == list(range(start, start + length)) for start, sample in zip(starts, found, strict=True)
    )
    distances = set(np.diff(starts).tolist())
    assert all(distance >= length for distance in distances)
    assert not distances or max(distances) - min(distances) <= 1
    if samples > 1:
        assert starts[0] == 0 and starts[-1] + length == tokens
    else:
        assert starts[0] == more // 2


def test_samples_are_copies_that_do_not_keep_the_whole_text_alive() -> None:
    stream = np.arange(1000)
    assert all(sample.base is None for sample in spread(stream, 4, 10, "name"))


def test_the_bundled_corpus_fills_160_samples(tiny: Path) -> None:
    found = read_calibration("default", tiny, 160, 256, VOCABULARY)
    assert found.is_default and found.name == "default"
    assert len(found.samples) == 160
    assert all(sample.shape == (256,) and sample.dtype == np.int64 for sample in found.samples)
    assert all(sample.min() >= 0 and sample.max() < VOCABULARY for sample in found.samples)


def test_few_samples_see_every_kind_of_the_bundled_corpus(tiny: Path) -> None:
    tokenizer = Tokenizer.load(tiny)
    found = read_calibration("default", tiny, 32, 128, VOCABULARY)
    assert any(IM_START in sample for sample in found.samples)
    for kind in ("code", "languages", "python"):
        texts = [path.read_text(encoding="utf-8") for path in (CORPUS / kind).glob("*.txt")]
        middles = [tokenizer.decode(sample[40:60].tolist()) for sample in found.samples]
        assert any(middle in text for middle in middles for text in texts), kind


def test_the_same_source_gives_the_same_samples(tiny: Path) -> None:
    first, second = (read_calibration("default", tiny, 5, 64, VOCABULARY) for _ in range(2))
    assert np.array_equal(first.samples, second.samples)
    assert first.sha256 == second.sha256
    assert first.fingerprint.to_json() == second.fingerprint.to_json()


def test_the_bundled_corpus_is_small_and_shares_nothing_with_the_verified_or_trained_text(tiny: Path) -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 300_000
    held_out = read_text(None).content
    fingerprint = read_calibration("default", tiny, 1, 64, VOCABULARY).fingerprint
    assert fingerprint.shared(held_out) == 0
    assert not fingerprint.overlaps(held_out)
    trained = "\n".join(document.text for document in training_documents(held_out)[0])
    assert fingerprint.shared(trained) < 0.002


@pytest.mark.parametrize("name", ["languages/english.txt", "code/c.txt", "python/object_h.txt"])
def test_the_corpus_hash_tells_a_changed_file(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = read_documents("default", tiny)
    monkeypatch.setattr(documents, "CORPUS", shutil.copytree(CORPUS, tmp_path / "corpus"))
    copied = read_documents("default", tiny)
    assert copied.sha256 == before.sha256
    assert [document.text for document in copied.documents] == [document.text for document in before.documents]
    file = tmp_path / "corpus" / name
    file.write_bytes(file.read_bytes().replace(b"t", b"s"))
    assert read_documents("default", tiny).sha256 != before.sha256


def test_every_file_of_the_corpus_is_listed_with_its_licence() -> None:
    listed = (CORPUS / "README.md").read_text(encoding="utf-8")
    for path in (CORPUS / "python").glob("*.txt"):
        assert f"| `{path.name}` |" in listed
    assert {path.relative_to(CORPUS).parts[0] for path in CORPUS.rglob("*") if path.is_file()} == {
        "README.md", "chat.jsonl", "code", "languages", "python",
    }  # fmt: skip
    assert "SOFTWARE FOUNDATION LICENSE" in (CORPUS / "python" / "LICENSE").read_text(encoding="utf-8")


def test_documents_are_joined_by_the_end_of_text_and_not_by_the_end_of_a_turn(folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    source = lines(tmp_path / "two.jsonl", {"text": "first text"}, {"text": ""}, {"text": "second text", "source": "x"})
    expected = [*tokenizer.encode("first text"), END_OF_TEXT, *tokenizer.encode("second text")]
    assert whole(source, folder) == expected
    (folder / "generation_config.json").unlink()
    assert whole(source, folder) == [IM_END if token == END_OF_TEXT else token for token in expected]
    (folder / "tokenizer_config.json").unlink()
    assert whole(source, folder) == [token for token in expected if token != END_OF_TEXT]


def test_conversations_go_through_the_chat_template(folder: Path, tmp_path: Path) -> None:
    source = lines(tmp_path / "chat.jsonl", {"messages": CONVERSATION})
    text = ChatTemplate.load(folder).render(CONVERSATION, add_generation_prompt=False)
    expected = Tokenizer.load(folder).encode(text, add_special_tokens=False)
    assert whole(source, folder) == expected
    assert expected.count(IM_START) == expected.count(IM_END) == 2


def test_a_tokenizer_adds_its_special_tokens_to_plain_text_only_and_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.post_processor = TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", END_OF_TEXT)]
    )
    backend.save(str(folder / "tokenizer.json"))
    source = lines(tmp_path / "mixed.jsonl", {"text": "plain"}, {"messages": CONVERSATION}, {"text": "plain"})
    found = whole(source, folder)
    assert [token for token in found if token in (END_OF_TEXT, IM_START)] == [
        *(END_OF_TEXT, END_OF_TEXT, IM_START, IM_START, END_OF_TEXT, END_OF_TEXT, END_OF_TEXT),
    ]
    monkeypatch.setattr(module, "PART", 4)
    (tmp_path / "plain.txt").write_text("some words in a row", encoding="utf-8")
    assert whole(tmp_path / "plain.txt", folder).count(END_OF_TEXT) == 2


def test_a_long_text_is_tokenized_in_parts_without_a_trace(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(f"line {n} of a text\n" for n in range(300)) + "x" * 5000
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    at_once = whole(tmp_path / "long.txt", tiny)
    monkeypatch.setattr(module, "PART", 1000)
    in_parts = whole(tmp_path / "long.txt", tiny)
    assert in_parts[:1500] == at_once[:1500]
    assert Tokenizer.load(tiny).decode(in_parts) == text


def test_without_a_template_the_bundled_conversations_are_plain_text(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    first = read_documents("default", folder).documents[0]
    assert not first.rendered and "im_start" not in first.text
    assert len(read_calibration("default", folder, 160, 256, VOCABULARY).samples) == 160


def test_a_file_is_known_by_its_name_and_bytes(tiny: Path, tmp_path: Path) -> None:
    content = "A text of one's own, with ümläuts.\r\n" * 20
    (tmp_path / "own.txt").write_bytes(b"\xef\xbb\xbf" + content.encode())
    found = read_calibration(tmp_path / "own.txt", tiny, 2, 10, VOCABULARY)
    assert isinstance(found, CalibrationText)
    assert (found.name, found.is_default) == ("own.txt", False)
    assert found.sha256 == hashlib.sha256((tmp_path / "own.txt").read_bytes()).hexdigest()
    assert Tokenizer.load(tiny).decode(whole(tmp_path / "own.txt", tiny)) == content


def test_only_the_word_default_means_the_bundled_corpus(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("default").write_text("a file of that name " * 50, encoding="utf-8")
    assert not read_calibration(Path("default"), tiny, 1, 10, VOCABULARY).is_default
    assert not read_calibration("./default", tiny, 1, 10, VOCABULARY).is_default
    assert read_calibration("default", tiny, 1, 10, VOCABULARY).is_default


def test_a_calibrated_text_is_recognised_in_the_forms_it_may_be_verified_in(tiny: Path, tmp_path: Path) -> None:
    held_out = read_text(None).content
    paragraphs = [paragraph for paragraph in held_out[:60_000].split("\n\n") if paragraph.strip()]
    chats = [[{"role": "user", "content": "Go on."}, {"role": "assistant", "content": p}] for p in paragraphs]
    sources = {
        "text.txt": held_out[:60_000],
        "texts.jsonl": "".join(json.dumps({"text": p}) + "\n" for p in paragraphs),
        "chats.jsonl": "".join(json.dumps({"messages": chat}) + "\n" for chat in chats),
    }
    for name, content in sources.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        fingerprint = read_calibration(tmp_path / name, tiny, 4, 32, VOCABULARY).fingerprint
        assert fingerprint.overlaps(content), name
        assert fingerprint.overlaps(held_out[:60_000]), name
        assert fingerprint.overlaps(held_out[20_000:24_000]), name
        assert not fingerprint.overlaps(held_out[65_000:]), name
