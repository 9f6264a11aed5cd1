"""How a weight matrix is stored and multiplied."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from inference_pio.errors import BadInputError

BLOCK_SIZES = (128, 64, 32, 16)


class Activations(Enum):
    """How the input of a quantized product is rounded: by the blockwise kernel, per token, by one scale, or not."""

    BLOCK = "block"
    TOKEN = "token"
    STATIC = "static"
    EXACT = "exact"


@dataclass(frozen=True)
class WeightFormat:
    """Storage of one weight: 32 or 16 bits floating point, 8 or 4 bits in blocks with a float32 scale each, or 8 bits
    with a scale per output channel for integer products (`activations` TOKEN or STATIC, called w8a8). Blocks are
    multiplied by activations rounded to int8, or in the slower exact form by float32.

    Sixteen bits are float16, or `brain` bfloat16. `block_size` None takes the largest of 128, 64, 32 and 16 that
    divides the row length, else 32 with padding.
    """

    bits: int
    block_size: int | None = None
    activations: Activations = Activations.BLOCK
    brain: bool = False

    @classmethod
    def parse(cls, text: str) -> WeightFormat:
        """The format called `fp32`, `fp16`, `int8`, `int4`, `int4-exact`, with a block size `int4-block32` or
        `int4-exact-block32`, `w8a8`, `w8a8-static`.

        Raises BadInputError for other names.
        """
        if text in _INTEGER_PRODUCTS:
            return _INTEGER_PRODUCTS[text]
        match = re.fullmatch(r"(?:(fp32|fp16)|(int[84])(-exact)?(?:-block(\d+))?)", text)
        block = int(match[4]) if match and match[4] else None
        if match is None or block not in (None, *BLOCK_SIZES):
            sizes = ", ".join(map(str, BLOCK_SIZES))
            raise BadInputError(
                f"weight format '{text}' is not known: use fp32, fp16, w8a8, w8a8-static, int8, int4, int4-exact, "
                f"int4-blockN or int4-exact-blockN with N one of {sizes}"
            )
        activations = Activations.EXACT if match[3] else Activations.BLOCK
        return cls(int((match[1] or match[2]).strip("fpint")), block, activations)

    def __str__(self) -> str:
        if self.integer_product:
            return next(name for name, known in _INTEGER_PRODUCTS.items() if known == self)
        kind = f"int{self.bits}" if self.quantized else f"{'bf' if self.brain else 'fp'}{self.bits}"
        kind += "-exact" if self.activations is Activations.EXACT else ""
        return kind if self.block_size is None else f"{kind}-block{self.block_size}"

    @property
    def quantized(self) -> bool:
        return self.bits <= 8

    @property
    def integer_product(self) -> bool:
        """Whether activations are integers too, with one scale per output channel of the weight."""
        return self.activations in (Activations.TOKEN, Activations.STATIC)

    def block(self, columns: int) -> int:
        """The block size for rows of `columns` elements; the last block of a row may be padded."""
        if self.block_size is not None:
            return self.block_size
        return next((size for size in BLOCK_SIZES if columns % size == 0), 32)

    def gather_block(self, columns: int) -> int | None:
        """The block size where it must divide the rows (looked-up tables, experts); None when nothing does."""
        largest = self.block_size or BLOCK_SIZES[0]
        return next((size for size in BLOCK_SIZES if size <= largest and columns % size == 0), None)

    def expert_block(self, *columns: int) -> int | None:
        """The block size for weights with rows of these lengths; None when whole rows share a scale.

        They do in exact 8 bits: the operator of experts rounds the activations of every block of 8 bits.
        """
        if self.bits == 8 and self.activations is Activations.EXACT:
            return None
        return self.gather_block(math.gcd(*columns))

    def exact(self) -> WeightFormat:
        """The same blocks, multiplied by activations that are not rounded; other formats as they are."""
        blocks = self.quantized and self.activations is Activations.BLOCK
        return replace(self, activations=Activations.EXACT) if blocks else self

    def wider(self) -> WeightFormat:
        """The next format up for blocks, for tensors that most of the error would come from; else this one.

        It is 8 bits for 4, and float16 for 8 and for exact blocks: 8 bits have no exact product but that of experts.
        """
        if not self.quantized or self.integer_product:
            return self
        return FP16 if self.bits == 8 or self.activations is Activations.EXACT else replace(self, bits=8)

    def for_experts(self) -> WeightFormat:
        """The closest format that experts have: their operator knows no integer products, but blocks of 8 bits."""
        return replace(self, activations=Activations.BLOCK) if self.integer_product else self


W8A8 = WeightFormat(8, activations=Activations.TOKEN)
W8A8_STATIC = WeightFormat(8, activations=Activations.STATIC)
_INTEGER_PRODUCTS = {"w8a8": W8A8, "w8a8-static": W8A8_STATIC}

FP32 = WeightFormat(32)
FP16 = WeightFormat(16)
BF16 = WeightFormat(16, brain=True)

FormatOf = Callable[[str], WeightFormat]
"""Checkpoint tensor name -> its format."""


def whole_of(part: str) -> str:
    """The checkpoint tensor that a name stands for, `NAME` or a part of it, `NAME[part]`."""
    return part.split("[")[0]
