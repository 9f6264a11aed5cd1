"""Where built engines are kept: the user's cache, by artifact, GPU and TensorRT version; private and bounded.

An engine is a derived file: it can be deleted at any time. It holds code for the GPU, so only engines that were put
here, in a folder that nobody else can write to, are ever loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from inference_pio.artifact.hashing import hash_file
from inference_pio.artifact.jsonfile import json_bytes, read_json_object
from inference_pio.artifact.manifest import FileHash, GraphFacts, Manifest
from inference_pio.errors import BadInputError
from inference_pio.runtime.derived_files import check_private, drop_old, folder_name, make_private

KEPT = 3
"""Folders of engines that are kept, the most recently used ones."""
FACTS = "facts.json"

Profile = Mapping[str, Sequence[Sequence[int]]]
"""Least, best and largest shape by input: what an engine takes."""


@dataclass(frozen=True)
class EngineRecord:
    """What stands beside an engine: the hash of the graph that it was built from, its own, and what it takes."""

    source: str
    sha256: str
    size: int
    profiles: Sequence[Profile]
    seconds: float


class EngineStore:
    """The engines of one artifact for one GPU and TensorRT version."""

    def __init__(self, cache_dir: Path, manifest: Manifest, facts: Mapping[str, str]) -> None:
        """`facts` are those of `engine_facts`."""
        self.root = cache_dir / "engines"
        self.facts = dict(facts)
        self._fingerprint = manifest.fingerprint[:16]
        self.folder = self.root / folder_name(manifest.fingerprint, facts)

    def create(self) -> None:
        """Make the folder; raises BadInputError when it cannot be made or others can write to it."""
        make_private(self.root, self.folder)
        try:
            (self.folder / FACTS).write_bytes(json_bytes(self.facts))
        except OSError as error:
            raise BadInputError(f"{self.folder} cannot be written ({error.strerror}): choose another cache") from None

    def file(self, graph: GraphFacts) -> Path:
        """Where the engine of a graph is, or would be."""
        return self.folder / f"{Path(graph.file).stem}.engine"

    def record(self, graph: GraphFacts) -> EngineRecord | None:
        """What is known of a graph's engine, None where there is none or its record is broken."""
        file = self.file(graph)
        try:
            return EngineRecord(**read_json_object(file.with_suffix(".json"))) if file.is_file() else None
        except (BadInputError, TypeError):
            return None

    def put(
        self, graph: GraphFacts, built: Path, source: str, profiles: Sequence[Profile], seconds: float
    ) -> EngineRecord:
        """Keep a finished engine; its record is written last, so that half an engine is none."""
        found = hash_file(built)
        record = EngineRecord(source, found.sha256, found.size, profiles, seconds)
        file = self.file(graph)
        file.with_suffix(".json").unlink(missing_ok=True)
        built.replace(file)
        partial = file.with_suffix(".json.partial")
        partial.write_bytes(json_bytes(asdict(record)))
        partial.replace(file.with_suffix(".json"))
        return record

    def known(self, graph: GraphFacts) -> EngineRecord:
        """What is known of a graph's engine; raises BadInputError when there is none for this GPU."""
        record = self.record(graph)
        if record is None:
            raise BadInputError(
                f"there is no engine of {graph.file} for {self._here()}{self._elsewhere()}: run inference-pio build"
            )
        return record

    def checked(self, graph: GraphFacts) -> tuple[Path, EngineRecord]:
        """A graph's engine, hashed; raises BadInputError as `known` does, and when it was changed."""
        record, file = self.known(graph), self.file(graph)
        check_private(self.root, self.folder)
        if hash_file(file) != FileHash(record.sha256, record.size):
            raise BadInputError(f"{file} has changed since it was built: run inference-pio build --force")
        return file, record

    def touch(self) -> None:
        """Count as used just now, and remove the engines that were used longest ago."""
        (self.folder / FACTS).touch()
        drop_old(self.root, FACTS, KEPT)

    def _here(self) -> str:
        return f"{self.facts.get('gpu')} with TensorRT {self.facts.get('tensorrt')}"

    def _elsewhere(self) -> str:
        """For which other GPUs and versions this artifact was built here."""
        others = []
        for path in sorted(self.root.glob(f"{self._fingerprint}-*/{FACTS}")):
            try:
                facts = json.loads(path.read_text("utf-8"))
                others.append(f"{facts['gpu']} with TensorRT {facts['tensorrt']}")
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return f" (only for {', '.join(others[:3])})" if others else ""


def graph_hash(manifest: Manifest, graph: GraphFacts) -> str:
    """SHA-256 of a graph's file and weights, from the manifest's own hashes."""
    names = [name for name in (graph.file, f"{graph.file}.data") if name in manifest.files]
    return hashlib.sha256("".join(manifest.files[name].sha256 for name in names).encode()).hexdigest()
