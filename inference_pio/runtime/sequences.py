"""The sequences of an open model: who may step next, and buffers that wait for the next request."""

from __future__ import annotations

from collections import deque
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
        except BaseException:
            self._sequences.lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        self._sequences.lock.release()
        self._sequences.settle()


class Sequences:
    """Hands out sequences of a backend; threads share it, and take `turn` for every step."""

    def __init__(self, backend: Backend) -> None:
        self.lock = Lock()
        self.turn = Turn(self)
        self._backend: Backend | None = backend
        self._idle: list[Sequence] = []
        self._given_back: deque[tuple[Sequence, bool]] = deque()

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
        """A sequence to use for a while; one idle set of buffers is kept for the next request.

        A sequence whose request failed is not kept: the error may have left it half changed.
        """
        with self.turn:
            assert self._backend is not None
            sequence = self._idle.pop() if self._idle else self._backend.sequence()
        sound = True
        try:
            yield sequence
        except GeneratorExit:
            raise
        except BaseException:
            sound = False
            raise
        finally:
            self._given_back.append((sequence, sound))
            self.settle()

    def settle(self) -> None:
        """Keep or release the sequences that were given back, or leave it to the thread that holds the lock.

        This must not wait: a stream that nobody holds any more is closed by the garbage collector, which may run in
        the middle of a step. Whoever held the lock calls this afterwards.
        """
        while self._given_back and self.lock.acquire(blocking=False):
            try:
                while self._given_back:
                    self._settle_one(*self._given_back.popleft())
            finally:
                self.lock.release()

    def close(self) -> None:
        """Release the backend after the step that runs; a request that is not done raises BadInputError at its next."""
        with self.lock:
            backend, self._backend = self._backend, None
            try:
                while self._idle:
                    self._idle.pop().release()
            finally:
                if backend is not None:
                    backend.close()
        self.settle()

    def _settle_one(self, sequence: Sequence, sound: bool) -> None:
        if sound and self._backend is not None and not self._idle:
            sequence.clear()
            self._idle.append(sequence)
        else:
            sequence.release()
