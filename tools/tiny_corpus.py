"""Text for the tiny checkpoints, all of it carried by the Python distribution.

``python tools/tiny_corpus.py`` writes the held-out text; Python 3.11 made the bundled one.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

HELD_OUT_FILE = Path(__file__).parents[1] / "inference_pio/verify/text/heldout.txt"

# Never trained on: these make up the held-out text.
HELD_OUT_MODULES = (
    "csv.py",
    "graphlib.py",
    "netrc.py",
    "queue.py",
    "sched.py",
    "shelve.py",
    "textwrap.py",
)
HELD_OUT_TOPICS = ("comparisons", "import", "typesmapping")

# Generated tables, test data and third-party code teach nothing or carry other licences.
SKIPPED_FOLDERS = {
    "__pycache__",
    "ensurepip",
    "idle_test",
    "lib-dynload",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
}
SKIPPED_FILES = ("_sysconfigdata", "_pydecimal.py", "_pyio.py", "pydoc_data")

# Two texts that agree on 2 * PASSAGE - 1 characters somewhere share a long passage.
PASSAGE = 80


@dataclass(frozen=True)
class Document:
    """One text with the name it is known by (a path below the standard library, or ``topic:NAME``)."""

    name: str
    text: str


def standard_library() -> Path:
    """Folder of the standard library's sources."""
    return Path(sysconfig.get_paths()["stdlib"])


def module_documents(root: Path) -> Iterator[Document]:
    """Every UTF-8 Python source below ``root`` that is neither generated nor a test, in sorted order."""
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIPPED_FOLDERS & set(relative.parts[:-1]) or relative.name.startswith(SKIPPED_FILES):
            continue
        if relative.parts[0].startswith("config-"):
            continue
        # Code pages are tables of characters; only the codecs written by hand are text.
        if relative.parts[0] == "encodings" and "decoding_table" in path.read_text(encoding="utf-8"):
            continue
        try:
            text = path.read_text(encoding="utf-8").replace("\r\n", "\n").strip()
        except UnicodeDecodeError:
            continue
        if len(text) > 200:
            yield Document(relative.as_posix(), text + "\n")


def topic_documents() -> Iterator[Document]:
    """The language reference's topics that ``help()`` shows, in sorted order."""
    for name in sorted(topics):
        yield Document(f"topic:{name}", topics[name].strip() + "\n")


def held_out_documents() -> list[Document]:
    """The documents that make up the held-out text."""
    root = standard_library()
    modules = [Document(name, (root / name).read_text(encoding="utf-8")) for name in HELD_OUT_MODULES]
    return modules + [Document(f"topic:{name}", topics[name]) for name in HELD_OUT_TOPICS]


def training_documents(held_out_text: str) -> tuple[list[Document], list[str]]:
    """Documents to train on, and names of those left out: held out, or sharing text with ``held_out_text``."""
    names = set(HELD_OUT_MODULES) | {f"topic:{name}" for name in HELD_OUT_TOPICS}
    passages = {held_out_text[i : i + PASSAGE] for i in range(len(held_out_text) - PASSAGE + 1)}
    kept: list[Document] = []
    dropped: list[str] = []
    for document in (*module_documents(standard_library()), *topic_documents()):
        if document.name in names or shares_passage(document.text, passages):
            dropped.append(document.name)
        else:
            kept.append(document)
    missing = names - set(dropped)
    assert not missing, f"held-out documents not found in this Python: {sorted(missing)}"
    return kept, dropped


def shares_passage(text: str, passages: set[str]) -> bool:
    """Whether ``text`` has one of ``passages`` (PASSAGE characters each) at a multiple of PASSAGE."""
    return any(text[i : i + PASSAGE] in passages for i in range(0, len(text) - PASSAGE + 1, PASSAGE))


def main() -> None:
    text = "\n\n".join(document.text.strip() for document in held_out_documents()) + "\n"
    HELD_OUT_FILE.parent.mkdir(parents=True, exist_ok=True)
    HELD_OUT_FILE.write_text(text, encoding="utf-8")
    print(f"{HELD_OUT_FILE.name}: {len(text.encode())} bytes")


if __name__ == "__main__":
    main()
