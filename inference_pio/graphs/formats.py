"""How a weight matrix is stored and multiplied."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from inference_pio.errors import BadInputError

BLOCK_SIZES = (128, 64, 32, 16)


@dataclass(frozen=True)
class WeightFormat:
    """Storage of one weight: 32 or 16 bits floating point, or 8 or 4 bits in blocks with a float32 scale each.

    `block_size` None takes the largest of 128, 64, 32 and 16 that divides the row length, else 32 with padding.
    """

    bits: int
    block_size: int | None = None

    @classmethod
    def parse(cls, text: str) -> WeightFormat:
        """The format called `fp32`, `fp16`, `int8`, `int4` or, with a block size, `int4-block32`.

        Raises BadInputError for other names.
        """
        match = re.fullmatch(r"(?:(fp32|fp16)|(int[84])(?:-block(\d+))?)", text)
        block = int(match[3]) if match and match[3] else None
        if match is None or block not in (None, *BLOCK_SIZES):
            sizes = ", ".join(map(str, BLOCK_SIZES))
            raise BadInputError(
                f"weight format '{text}' is not known: use fp32, fp16, int8, int4 or int4-blockN with N one of {sizes}"
            )
        return cls(int((match[1] or match[2]).strip("fpint")), block)

    def __str__(self) -> str:
        kind = f"int{self.bits}" if self.quantized else f"fp{self.bits}"
        return kind if self.block_size is None else f"{kind}-block{self.block_size}"

    @property
    def quantized(self) -> bool:
        return self.bits <= 8

    def block(self, columns: int) -> int:
        """The block size for rows of `columns` elements; the last block of a row may be padded."""
        if self.block_size is not None:
            return self.block_size
        return next((size for size in BLOCK_SIZES if columns % size == 0), 32)

    def gather_block(self, columns: int) -> int | None:
        """The block size for a table that rows are looked up in: it must divide them. None when nothing does."""
        largest = self.block_size or BLOCK_SIZES[0]
        return next((size for size in BLOCK_SIZES if size <= largest and columns % size == 0), None)


FP32 = WeightFormat(32)
FP16 = WeightFormat(16)

FormatOf = Callable[[str], WeightFormat]
"""Checkpoint tensor name -> its format."""
