"""Experts that a checkpoint stores fused, seen as one tensor per expert and projection, as they are published.

transformers 5 holds the experts of a layer in two tensors: `experts.gate_up_proj` [E, 2 F, C], the rows of the gate
before those of up, and `experts.down_proj` [E, C, F]. Both lie expert by expert, so every part is a range of bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from inference_pio.artifact.printable import printable
from inference_pio.checkpoint.safetensors_header import TensorInfo
from inference_pio.errors import BadInputError

_FUSED = re.compile(r"(.+\.experts)\.(gate_up_proj|down_proj)")


def split_experts(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The same tensors, sorted by name, with fused experts replaced by `experts.N.{gate,up,down}_proj.weight`.

    Raises BadInputError when a fused tensor cannot be divided so, or an expert is stored in both ways.
    """
    found: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        match = _FUSED.fullmatch(name)
        for part in [info] if match is None else _parts(info, match[1], match[2]):
            if part.name in found:
                raise BadInputError(f"the checkpoint holds the expert tensor {printable(part.name)} twice")
            found[part.name] = part
    return dict(sorted(found.items()))


def _parts(info: TensorInfo, prefix: str, kind: str) -> list[TensorInfo]:
    halves = ("gate_proj", "up_proj") if kind == "gate_up_proj" else ("down_proj",)
    if len(info.shape) != 3 or info.shape[1] % len(halves):
        raise BadInputError(
            f"tensor {printable(info.name)} in {printable(info.file.name)} has the shape {list(info.shape)}; fused "
            "experts need [experts, rows, columns] with an even number of gate and up rows"
        )
    experts, rows, columns = info.shape[0], info.shape[1] // len(halves), info.shape[2]
    count = experts * len(halves)
    size = info.nbytes // count if count else 0
    assert size * count == info.nbytes and math.prod(info.shape) == count * rows * columns
    return [
        replace(
            info,
            name=f"{prefix}.{index // len(halves)}.{halves[index % len(halves)]}.weight",
            shape=(rows, columns),
            offset=info.offset + index * size,
            nbytes=size,
        )
        for index in range(count)
    ]
