"""Hashes of the checkpoint's files, computed beside the export in a thread of its own."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from types import TracebackType

from inference_pio.artifact.manifest import FileHash
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError


class SourceHashes:
    """Context manager; `result` waits for the hashes, leaving early cancels them."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._stop = Event()
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._future: Future[dict[str, FileHash]] | None = None

    def __enter__(self) -> SourceHashes:
        self._future = self._pool.submit(self._hash)
        return self

    def result(self) -> dict[str, FileHash]:
        """SHA-256 and size of every file that was read."""
        assert self._future is not None
        return self._future.result()

    def _hash(self) -> dict[str, FileHash]:
        found = self._checkpoint.file_hashes(self._check_stop)
        return {name: FileHash(str(entry["sha256"]), int(entry["size"])) for name, entry in found.items()}

    def _check_stop(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise BadInputError("the export was stopped")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
