"""A hand-made artifact of a few bytes, and ways to break one and to make its hashes right again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from inference_pio.artifact.manifest import (
    CacheSpec,
    Contract,
    FileHash,
    GraphFacts,
    Manifest,
    Memory,
    ModelFacts,
    RecipeFacts,
    Requires,
    Source,
    TensorFacts,
    fingerprint,
)

FILES = {"model.onnx": b"graph", "model.onnx.data": b"weights" * 100, "tokenizer.json": b"{}"}


def hash_of(data: bytes) -> FileHash:
    return FileHash(hashlib.sha256(data).hexdigest(), len(data))


def manifest_of(files: dict[str, bytes], **changes: Any) -> Manifest:
    """A manifest that fits `files`."""
    hashes = {name: hash_of(data) for name, data in sorted(files.items())}
    cache = CacheSpec(layers=2, kv_heads=1, head_dim=16, dtype="float32")
    values: dict[str, Any] = {
        "producer": "inference-pio test",
        "fingerprint": fingerprint(hashes, cache),
        "model": ModelFacts("qwen3", 100, 2, 16, 32, 64),
        "source": Source("somewhere", {"config.json": hash_of(b"{}")}, None),
        "target": "ort-cpu",
        "hardware": "cpu",
        "recipe": RecipeFacts("int8", {"layers": "int8"}, {}),
        "requires": Requires({"onnxruntime": "1.31"}, ["any"], {"ai.onnx::Add": 2}),
        "graphs": [
            GraphFacts(
                "decoder",
                "any",
                "model.onnx",
                [TensorFacts("input_ids", "int64", ["batch", "sequence_length"])],
                [TensorFacts("logits", "float32", ["batch", "sequence_length", 32])],
                [0, 1],
            )
        ],
        "cache": cache,
        "contract": Contract("right", True, True, True),
        "memory": Memory(700, 256),
        "accuracy": None,
        "files": hashes,
    }
    return Manifest(**{**values, **changes})


def write_artifact(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    """An artifact folder that opens, as long as nobody loads its graph."""
    files = FILES if files is None else files
    folder.mkdir()
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "manifest.json").write_bytes(manifest_of(files).to_bytes())
    return folder


def read(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return values


def rewrite(folder: Path, values: dict[str, Any]) -> None:
    (folder / "manifest.json").write_text(json.dumps(values))


def rehash(folder: Path) -> None:
    """Make the manifest agree with the files again, as somebody who means harm would."""
    values = read(folder)
    for name in values["files"]:
        if (folder / name).is_file():
            entry = hash_of((folder / name).read_bytes())
            values["files"][name] = {"sha256": entry.sha256, "size": entry.size}
    rewrite(folder, values)


def snapshot(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
