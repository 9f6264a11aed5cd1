"""Safetensors files made byte by byte, so that a test can get every one of them wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import pytest

from inference_pio.errors import BadInputError

A = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
B = {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}
SOUND = {"__metadata__": {"format": "pt"}, "a": A, "b": B}


def framed(header: object, data: bytes = bytes(32), length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def with_a(**changes: Any) -> bytes:
    return framed({"a": {**A, **changes}, "b": B})


def refusal(opening: Callable[[], object]) -> str:
    """The one-sentence message of the refusal."""
    with pytest.raises(BadInputError) as caught:
        opening()
    message = str(caught.value)
    assert message.isprintable()
    assert 10 < len(message) < 600
    return message
