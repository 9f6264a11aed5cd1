"""The up-projection of latents, which an artifact holds in two parts or by head, as the original's one tensor.

Parts are named in `inference_pio.sources`: `NAME[key]` [H, U, L] and `NAME[value]` [H, N, L], or for every head
`NAME[key.H]`, transposed [L, U], and `NAME[value.H]` [N, L]. In `NAME` a head's key rows stand before its value rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

import numpy as np

from inference_pio.errors import BadInputError
from inference_pio.verify.stored_rows import StoredRows

_PART = re.compile(r"(.+)\[((?:key|value)(?:\.\d+)?)\]")


def join_heads(stored: Mapping[str, StoredRows]) -> dict[str, StoredRows]:
    """The tensors whose parts are in `stored`, by name, whole again; raises BadInputError when one lacks a part."""
    parts: dict[str, dict[str, StoredRows]] = {}
    for name, rows in stored.items():
        match = _PART.fullmatch(name)
        if match:
            parts.setdefault(match[1], {})[match[2]] = rows
    return {name: _joined(name, found) for name, found in parts.items()}


def _joined(name: str, parts: Mapping[str, StoredRows]) -> StoredRows:
    heads = len(parts) // 2
    if parts.keys() == {"key", "value"}:
        key, value = parts["key"], parts["value"]
        heads, sizes, columns = key.shape[0], (key.shape[1], value.shape[1]), key.shape[2]
        read_head = partial(_batched_head, key, value)
    elif parts.keys() == {f"{kind}.{head}" for kind in ("key", "value") for head in range(heads)}:
        key, value = parts["key.0"], parts["value.0"]
        sizes, columns = (key.shape[1], value.shape[0]), key.shape[0]
        read_head = partial(_single_head, parts)
    else:
        found = ", ".join(f"{name}[{part}]" for part in list(parts)[:3])
        raise BadInputError(f"the artifact holds {found} and not all parts of the tensor: export the artifact again")
    per_head = sum(sizes)

    def read(start: int, stop: int) -> np.ndarray:
        first, last = start // per_head, -(-stop // per_head)
        rows = np.concatenate([read_head(head) for head in range(first, last)])
        return rows[start - first * per_head : stop - first * per_head]

    return StoredRows(first=0, shape=(heads * per_head, columns), read=read)


def _batched_head(key: StoredRows, value: StoredRows, head: int) -> np.ndarray:
    return np.concatenate([part.rows(head, head + 1)[0] for part in (key, value)])


def _single_head(parts: Mapping[str, StoredRows], head: int) -> np.ndarray:
    key, value = parts[f"key.{head}"], parts[f"value.{head}"]
    return np.concatenate([key.rows(0, key.shape[0]).T, value.rows(0, value.shape[0])])
