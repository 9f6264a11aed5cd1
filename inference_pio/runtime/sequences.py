"""The sequences of an open model: who may step next, and buffers that wait for the next request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from inference_pio.errors import BadInputError
from inference_pio.runtime.backends.backend import Backend, Sequence


class Turn:
    """Held for a step of the model; entering waits for other threads, and raises BadInputError when it was closed."""

    def __init__(self, sequences: Sequences) -> None:
        self._sequences = sequences

    def __enter__(self) -> None:
        self._sequences.lock.acquire()
        try:
            self._sequences.check_open()
        except BadInputError:
            self._sequences.lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        self._sequences.lock.release()


class Sequences:
    """Hands out sequences of a backend; threads share it, and take `turn` for every step."""

    def __init__(self, backend: Backend) -> None:
        self.lock = Lock()
        self.turn = Turn(self)
        self._backend: Backend | None = backend
        self._idle: list[Sequence] = []

    @property
    def idle(self) -> int:
        """Sequences that nobody uses and whose buffers are kept."""
        return len(self._idle)

    def check_open(self) -> None:
        """Raise BadInputError when it was closed."""
        if self._backend is None:
            raise BadInputError("the engine is closed: open the artifact again")

    @contextmanager
    def use(self) -> Iterator[Sequence]:
        """A sequence to use for a while; one idle set of buffers is kept for the next request."""
        with self.turn:
            assert self._backend is not None
            sequence = self._idle.pop() if self._idle else self._backend.sequence()
        try:
            yield sequence
        finally:
            sequence.clear()
            with self.lock:
                if self._backend is not None and not self._idle:
                    self._idle.append(sequence)
                else:
                    sequence.release()

    def close(self) -> None:
        """Release the backend after the step that runs; a request that is not done raises BadInputError at its next."""
        with self.lock:
            for sequence in self._idle:
                sequence.release()
            self._idle.clear()
            if self._backend is not None:
                self._backend.close()
            self._backend = None
