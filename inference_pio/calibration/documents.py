"""The documents of a calibration text: a user's file, or the bundled corpus."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_pio.artifact.printable import printable
from inference_pio.artifact.strict_json import parse_json_object
from inference_pio.errors import BadInputError
from inference_pio.runtime.chat_template import ChatTemplate
from inference_pio.runtime.tokenizer import read_config

CORPUS = Path(__file__).parent / "corpus"
"""The default text; `README.md` in it says where each file comes from."""
DEFAULT = "default"
MAX_BYTES = 32 << 20
_BOM = b"\xef\xbb\xbf"
_SHAPE = 'a line must be {"text": "..."} or {"messages": [{"role": "user", "content": "..."}, ...]}'


@dataclass(frozen=True)
class Document:
    """One text as the tokenizer gets it; a rendered conversation has its special tokens already."""

    text: str
    rendered: bool


@dataclass(frozen=True)
class Documents:
    """The documents of a source; `sha256` is of the file's bytes, or of the corpus' names and bytes."""

    name: str
    sha256: str
    is_default: bool
    documents: tuple[Document, ...]


def read_documents(source: str | Path, folder: Path) -> Documents:
    """The documents of a file, or of the bundled corpus when `source` is the word "default".

    A file is UTF-8 plain text (one document), or JSON lines when it is called `.jsonl`; conversations in it go
    through the chat template of the checkpoint in `folder`. Raises BadInputError for what cannot be read.
    """
    chat = _Chat(folder, is_default=source == DEFAULT)
    if source == DEFAULT:
        return _corpus(chat)
    path = Path(source)
    raw = _read(path)
    documents = tuple(_parse(path, raw, chat))
    name = os.fsencode(path.name).decode("utf-8", "replace")
    return Documents(name, hashlib.sha256(raw).hexdigest(), False, documents)


def _corpus(chat: _Chat) -> Documents:
    digest, documents = hashlib.sha256(), list[Document]()
    for path in sorted(path for path in CORPUS.rglob("*") if path.suffix in (".txt", ".jsonl")):
        raw = _read(path)
        digest.update(f"{path.relative_to(CORPUS).as_posix()} {len(raw)}\n".encode())
        digest.update(raw)
        documents += _parse(path, raw, chat)
    return Documents(DEFAULT, digest.hexdigest(), True, tuple(documents))


def _read(path: Path) -> bytes:
    """The bytes of a regular file of bounded size that is neither empty nor binary."""
    where = f"calibration text {printable(str(path))}"
    if "\0" in str(path):
        raise BadInputError(f"{where} is no file name: give a UTF-8 text file or 'default'")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadInputError(f"{where} is not a regular file: give a UTF-8 text file or 'default'")
        if status.st_size > MAX_BYTES:
            raise BadInputError(f"{where} is larger than {MAX_BYTES >> 20} MiB: give a part of it")
        raw = path.read_bytes()
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise BadInputError(f"{where} cannot be read ({reason}): give a UTF-8 text file or 'default'") from None
    if not raw.removeprefix(_BOM).strip():
        raise BadInputError(f"{where} is empty: give a longer text or 'default'")
    if (place := raw.find(0)) >= 0:
        raise BadInputError(f"{where} is binary (byte {place} is zero): give a UTF-8 text file")
    return raw


def _parse(path: Path, raw: bytes, chat: _Chat) -> Iterator[Document]:
    where = f"calibration text {printable(str(path))}"
    start = len(_BOM) if raw.startswith(_BOM) else 0
    if path.suffix.lower() == ".jsonl":
        lines = io.BytesIO(raw)
        lines.seek(start)
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _parse_line(line, f"{where}, line {number},", chat)
        return
    try:
        yield Document(str(memoryview(raw)[start:], "utf-8"), rendered=False)
    except UnicodeDecodeError as error:
        place = start + error.start
        raise BadInputError(f"{where} is not UTF-8 text (byte {place}): convert it first") from None


def _parse_line(line: bytes, where: str, chat: _Chat) -> Document:
    value = parse_json_object(line, where)
    text, messages = value.get("text"), value.get("messages")
    if isinstance(text, str) and messages is None:
        return Document(text, rendered=False)
    if isinstance(messages, list) and text is None:
        return chat.document(messages, where)
    found = " and ".join(name for name in ("text", "messages") if value.get(name) is not None)
    raise BadInputError(f"{where} has {f'unusable {found}' if found else 'neither text nor messages'}: {_SHAPE}")


class _Chat:
    """The chat template of a checkpoint, loaded when the first conversation needs it."""

    def __init__(self, folder: Path, is_default: bool) -> None:
        self._folder = folder
        self._is_default = is_default
        self._template: ChatTemplate | None = None

    def document(self, messages: list[Any], where: str) -> Document:
        """A conversation as text; of the bundled ones the bare contents where the checkpoint has no template."""
        if self._template is None:
            if not self._exists():
                if self._is_default:
                    return Document("\n\n".join(message["content"] for message in messages), rendered=False)
                raise BadInputError(
                    f"{where} holds chat messages, but {self._folder} has no chat template: "
                    'give plain text or lines of {"text": "..."}'
                )
            self._template = ChatTemplate.load(self._folder)
        try:
            return Document(self._template.render(messages, add_generation_prompt=False), rendered=True)
        except BadInputError as error:
            raise BadInputError(f"{where} cannot be used: {error}") from None

    def _exists(self) -> bool:
        config = self._folder / "tokenizer_config.json"
        return (self._folder / "chat_template.jinja").exists() or (
            config.exists() and bool(read_config(config).get("chat_template"))
        )
