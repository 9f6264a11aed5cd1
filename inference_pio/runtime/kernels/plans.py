"""How kernels are launched: grids and blocks from shapes, checked against what a GPU can do. No GPU is needed."""

from __future__ import annotations

from dataclasses import dataclass

from inference_pio.errors import BadInputError
from inference_pio.runtime.kernels.driver import Limits

VECTOR = 16
"""Bytes that a lane reads at a time; rows of codes have a pitch of whole vectors."""
MOST_TOKENS, LARGEST_PITCH = 8, (1 << 17) - VECTOR
"""Beyond these a product takes another kernel, or its int32 sums could overflow."""
HEAD_SIZES, SHARES = (64, 128), (1, 2, 4, 8)
LARGEST_GRID = (2**31 - 1, 65535, 65535)
QUANTIZE_THREADS, GEMV_THREADS, ATTEND_THREADS = 512, 256, 128
GEMV_ROWS = 16
"""Weight rows of a block: eight warps, two rows each."""
ATTEND_TOKENS = 128
"""Cached tokens that a block takes in one step: four warps, 32 each."""
BLOCKS_PER_MULTIPROCESSOR = 8
"""Blocks of attention to aim at: about twice what fits at once, so that the last ones do not leave others idle."""


@dataclass(frozen=True)
class Launch:
    """One call of a kernel; shared memory is static, hence part of the machine code."""

    kernel: str
    grid: tuple[int, int, int]
    block: int

    def check(self, limits: Limits) -> Launch:
        """This launch; raises BadInputError where the GPU cannot run it."""
        if self.block > limits.threads_per_block:
            raise BadInputError(
                f"{self.kernel} needs {self.block} threads in a block and {limits.name} allows "
                f"{limits.threads_per_block}: use another GPU"
            )
        if any(not 0 < size <= most for size, most in zip(self.grid, LARGEST_GRID, strict=True)):
            raise BadInputError(f"{self.kernel} cannot run a grid of {self.grid}: use fewer rows, but at least one")
        return self


def pitch_of(columns: int) -> int:
    """Bytes of a row of `columns` codes; raises BadInputError when its sums could leave int32."""
    pitch = -(-columns // VECTOR) * VECTOR
    if not 0 < pitch <= LARGEST_PITCH:
        raise BadInputError(f"rows of {columns} codes have no product: use 1 to {LARGEST_PITCH}")
    return pitch


def quantize_plan(tokens: int, static: bool) -> Launch:
    """A block for each token."""
    return Launch("quantize_static" if static else "quantize_tokens", (tokens, 1, 1), QUANTIZE_THREADS)


def gemv_plan(tokens: int, rows: int) -> Launch:
    """The kernel for at least so many tokens, a block for every 16 rows; raises BadInputError beyond 8 tokens."""
    if not 0 < tokens <= MOST_TOKENS:
        raise BadInputError(f"gemv_w8a8 takes 1 to {MOST_TOKENS} tokens, not {tokens}: take them in groups")
    size = next(size for size in (1, 2, 4, MOST_TOKENS) if size >= tokens)
    return Launch(f"gemv_w8a8_m{size}", (-(-rows // GEMV_ROWS), 1, 1), GEMV_THREADS)


@dataclass(frozen=True)
class AttendPlan:
    """Attention of one token: the two launches and the parts that a context is split into, at most."""

    attend: Launch
    merge: Launch
    splits: int


def attend_plan(limits: Limits, rows: int, heads: int, kv_heads: int, head_dim: int, capacity: int) -> AttendPlan:
    """Plan for `rows` sequences whose caches hold up to `capacity` tokens; raises BadInputError for odd shapes.

    The splits do not depend on the number of rows, so that a row's result does not depend on what shares its batch.
    """
    if head_dim not in HEAD_SIZES:
        raise BadInputError(f"the attention kernel has head sizes {HEAD_SIZES} and not {head_dim}: use another backend")
    if kv_heads < 1 or heads < 1 or heads % kv_heads:
        raise BadInputError(f"{heads} heads cannot share {kv_heads} key heads: use a multiple of them")
    if capacity < 1:
        raise BadInputError("a cache needs room for one token at least: give it a capacity")
    share = heads // kv_heads
    together = next((size for size in SHARES if size >= share), SHARES[-1])
    columns = kv_heads * -(-share // together)
    wanted = -(-BLOCKS_PER_MULTIPROCESSOR * limits.multiprocessors // columns)
    splits = max(1, min(wanted, -(-capacity // ATTEND_TOKENS)))
    attend = Launch(f"attend_d{head_dim}_g{together}", (splits, columns, rows), ATTEND_THREADS).check(limits)
    return AttendPlan(attend, Launch("attend_merge", (heads, rows, 1), head_dim).check(limits), splits)


def names() -> dict[str, tuple[str, ...]]:
    """The kernels of every program."""
    sizes = [f"attend_d{head_dim}_g{share}" for head_dim in HEAD_SIZES for share in SHARES]
    return {
        "quantize": ("quantize_tokens", "quantize_static"),
        "gemv": tuple(f"gemv_w8a8_m{size}" for size in (1, 2, 4, MOST_TOKENS)),
        "attention": (*sizes, "attend_merge", "cache_store"),
    }
