"""The documents of a calibration text: a user's file, or the bundled corpus."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inference_pio.artifact.printable import printable
from inference_pio.artifact.strict_json import parse_json_object
from inference_pio.calibration.examples import EXAMPLE, read_example
from inference_pio.errors import BadInputError
from inference_pio.runtime.chat_template import ChatTemplate
from inference_pio.runtime.tokenizer import read_config
from inference_pio.runtime.vision.messages import Video, take_media

CORPUS = Path(__file__).parent / "corpus"
"""The default text; `README.md` in it says where each file comes from."""
DEFAULT = "default"
MAX_BYTES = 32 << 20
_BOM = b"\xef\xbb\xbf"
DRAWINGS = Path(__file__).parent / "images"
"""What models that see are calibrated on besides; `README.md` in it says more."""
_SHAPE = (
    'a line must be {"text": "..."}, {"messages": [{"role": "user", "content": "..."}, ...]} or, with images, '
    + EXAMPLE
)


@dataclass(frozen=True)
class Document:
    """One text as the tokenizer gets it; a rendered conversation has its special tokens already.

    `images` and `videos` (see `runtime.vision.messages`) belong to the placeholders in it, `where` is its line's name.
    """

    text: str
    rendered: bool
    images: tuple[Any, ...] = ()
    videos: tuple[Video, ...] = ()
    where: str = ""

    @property
    def sees(self) -> bool:
        """Whether it shows anything."""
        return bool(self.images or self.videos)


@dataclass(frozen=True)
class Documents:
    """The documents of a source; `sha256` is of the file's bytes, or of the corpus' names and bytes."""

    name: str
    sha256: str
    is_default: bool
    documents: tuple[Document, ...]


def read_documents(source: str | Path, folder: Path, sees: bool = False) -> Documents:
    """The documents of a file, or of the bundled corpus when `source` is the word "default".

    A file is UTF-8 plain text (one document), or JSON lines when it is called `.jsonl`; conversations in it go
    through the chat template of the checkpoint in `folder`. Only a model that `sees` takes images, and gets the bundled
    drawings with the bundled corpus. Raises BadInputError for what cannot be read.
    """
    chat = _Chat(folder, is_default=source == DEFAULT, sees=sees)
    if source == DEFAULT:
        return _corpus(chat, sees)
    path = Path(source)
    raw = _read(path)
    documents = tuple(_parse(path, raw, chat))
    name = os.fsencode(path.name).decode("utf-8", "replace")
    return Documents(name, hashlib.sha256(raw).hexdigest(), False, documents)


def _corpus(chat: _Chat, sees: bool) -> Documents:
    digest, documents = hashlib.sha256(), list[Document]()
    drawings = [DRAWINGS / "samples.jsonl"] if sees else []
    texts = sorted(path for path in CORPUS.rglob("*") if path.suffix in (".txt", ".jsonl"))
    for path in (*texts, *drawings):
        raw = _read(path)
        name = path.relative_to(CORPUS if path in texts else CORPUS.parent)
        digest.update(f"{name.as_posix()} {len(raw)}\n".encode())
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
                yield _parse_line(line, f"{where}, line {number},", path.parent, chat)
        return
    try:
        yield Document(str(memoryview(raw)[start:], "utf-8"), rendered=False)
    except UnicodeDecodeError as error:
        place = start + error.start
        raise BadInputError(f"{where} is not UTF-8 text (byte {place}): convert it first") from None


def _parse_line(line: bytes, where: str, folder: Path, chat: _Chat) -> Document:
    value = parse_json_object(line, where)
    if value.keys() & {"images", "videos"}:
        example = read_example(value, where, folder)
        return chat.document([*example.messages, {"role": "assistant", "content": example.answer}], where, folder)
    text, messages = value.get("text"), value.get("messages")
    if isinstance(text, str) and messages is None:
        return Document(text, rendered=False)
    if isinstance(messages, list) and text is None:
        return chat.document(messages, where, folder)
    found = " and ".join(name for name in ("text", "messages") if value.get(name) is not None)
    raise BadInputError(f"{where} has {f'unusable {found}' if found else 'neither text nor messages'}: {_SHAPE}")


class _Chat:
    """The chat template of a checkpoint, loaded when the first conversation needs it."""

    def __init__(self, folder: Path, is_default: bool, sees: bool) -> None:
        self._folder, self._is_default, self._sees = folder, is_default, sees
        self._template: ChatTemplate | None = None

    def document(self, messages: list[Any], where: str, files: Path) -> Document:
        """A conversation as text; of the bundled ones the bare contents where the checkpoint has no template.

        The files of its images are relative to the folder `files`.
        """
        bare, images, videos = take_media(messages)
        if (images or videos) and not self._sees:
            raise BadInputError(f"{where} shows images, but {self._folder} holds a model of text: leave the line out")
        if self._template is None:
            if not self._exists():
                if self._is_default and not images:
                    return Document("\n\n".join(message["content"] for message in messages), rendered=False)
                raise BadInputError(
                    f"{where} holds chat messages, but {self._folder} has no chat template: "
                    'give plain text or lines of {"text": "..."}'
                )
            self._template = ChatTemplate.load(self._folder)
        try:
            text = self._template.render(bare, add_generation_prompt=False)
        except BadInputError as error:
            raise BadInputError(f"{where} cannot be used: {error}") from None
        stills = tuple(_file(image, where, files) for image in images)
        films = tuple(
            replace(video, frames=[_file(frame, where, files) for frame in _frames(video, where)]) for video in videos
        )
        return Document(text, True, stills, films, where)

    def _exists(self) -> bool:
        config = self._folder / "tokenizer_config.json"
        return (self._folder / "chat_template.jinja").exists() or (
            config.exists() and bool(read_config(config).get("chat_template"))
        )


def _frames(video: Video, where: str) -> list[Any]:
    if not isinstance(video.frames, list) or not video.frames:
        raise BadInputError(f"{where} has a video that is no list of files")
    return video.frames


def _file(value: Any, where: str, files: Path) -> Path:
    """The path of an image that a message names."""
    if not isinstance(value, str) or "\0" in value:
        raise BadInputError(f"{where} names an image by something else than its file: write a path")
    return files / value
