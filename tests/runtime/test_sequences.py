"""Sequences are handed out and given back, whatever happens to the requests that use them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from threading import Thread

import pytest

from inference_pio.errors import BadInputError, ResourceLimitError
from inference_pio.runtime.sequences import Sequences


class FakeSequence:
    def __init__(self) -> None:
        self.cleared = self.released = 0

    def clear(self) -> None:
        self.cleared += 1

    def release(self) -> None:
        self.released += 1


class FakeBackend:
    def __init__(self) -> None:
        self.made: list[FakeSequence] = []
        self.closed = 0

    def sequence(self) -> FakeSequence:
        self.made.append(FakeSequence())
        return self.made[-1]

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def sequences(backend: FakeBackend) -> Sequences:
    return Sequences(backend)  # type: ignore[arg-type]


def stream(sequences: Sequences) -> Iterator[None]:
    with sequences.use():
        yield
        yield


def test_one_set_of_buffers_is_kept(sequences: Sequences, backend: FakeBackend) -> None:
    with sequences.use() as first, sequences.use() as second:
        assert first is not second
    with sequences.use() as third:
        assert third is second
    assert [each.released for each in backend.made] == [1, 0] and second.cleared == 2


@pytest.mark.parametrize("error", [ResourceLimitError("too long"), KeyboardInterrupt()])
def test_a_sequence_that_failed_is_not_used_again(
    sequences: Sequences, backend: FakeBackend, error: BaseException
) -> None:
    with pytest.raises(type(error)), sequences.use():
        raise error
    assert [each.released for each in backend.made] == [1] and not sequences.idle


def test_one_that_was_abandoned_is(sequences: Sequences, backend: FakeBackend) -> None:
    running = stream(sequences)
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert sequences.idle == 1 and backend.made[0].cleared


def test_a_stream_that_is_collected_within_a_step(sequences: Sequences, backend: FakeBackend) -> None:
    """Its sequence waits for the end of the step, and the step does not wait for it."""

    class Holder:
        def __init__(self) -> None:
            self.running = stream(sequences)
            next(self.running)
            self.me = self

    def step() -> None:
        with sequences.turn:
            gc.collect()
            assert not sequences.idle

    Holder()
    thread = Thread(target=step, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert sequences.idle == 1 and backend.made[0].cleared


def test_closing_waits_for_nobody_and_frees_everything(sequences: Sequences, backend: FakeBackend) -> None:
    running = stream(sequences)
    next(running)
    with sequences.use():
        pass
    sequences.close()
    sequences.close()
    assert backend.closed == 1 and [each.released for each in backend.made] == [0, 1]
    running.close()  # type: ignore[attr-defined]
    assert [each.released for each in backend.made] == [1, 1] and not sequences.idle
    with pytest.raises(BadInputError, match="the engine is closed"), sequences.turn:
        pass
    with pytest.raises(BadInputError, match="the engine is closed"), sequences.use():
        pass


def test_a_buffer_that_cannot_be_freed_leaves_it_closed(sequences: Sequences, backend: FakeBackend) -> None:
    def fail() -> None:
        raise RuntimeError("the driver is gone")

    with sequences.use() as sequence:
        sequence.release = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="the driver is gone"):
        sequences.close()
    assert backend.closed == 1
    with pytest.raises(BadInputError, match="the engine is closed"):
        sequences.check_open()
