"""Protocol-buffer messages taken apart and put together again, as far as editing an ONNX file needs it.

The onnx package would do, but is no part of the runtime. Encoding: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {FIXED64: 8, FIXED32: 4}


@dataclass(frozen=True)
class Field:
    """One field as it stands: its number, its value (an integer, or bytes), and all its bytes with the tag."""

    number: int
    value: int | bytes
    raw: bytes

    @property
    def text(self) -> str:
        assert isinstance(self.value, bytes)
        return self.value.decode("utf-8")


def fields(message: bytes) -> Iterator[Field]:
    """The fields of a message in order; raises ValueError when it is cut off or no message."""
    position = 0
    while position < len(message):
        start = position
        tag, position = _read_varint(message, position)
        number, kind = tag >> 3, tag & 7
        value: int | bytes
        if kind == VARINT:
            value, position = _read_varint(message, position)
        elif kind == BYTES:
            size, position = _read_varint(message, position)
            value = message[position : position + size]
            position += size
        elif kind in _FIXED_SIZES:
            value = message[position : position + _FIXED_SIZES[kind]]
            position += _FIXED_SIZES[kind]
        else:
            raise ValueError(f"field {number} has the unknown wire type {kind}")
        if position > len(message):
            raise ValueError(f"field {number} is cut off")
        yield Field(number, value, message[start:position])


def varint_field(number: int, value: int) -> bytes:
    """A field that holds a non-negative integer."""
    return _varint(number << 3 | VARINT) + _varint(value)


def bytes_field(number: int, value: bytes | str) -> bytes:
    """A field that holds bytes, text or a message."""
    data = value.encode("utf-8") if isinstance(value, str) else value
    return _varint(number << 3 | BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message) or shift > 63:
            raise ValueError("a number is cut off or too long")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
