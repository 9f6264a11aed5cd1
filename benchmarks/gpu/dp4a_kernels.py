"""The DP4A kernels on this machine's GPU: right against float64, and how much of the memory's bandwidth they reach.

    python benchmarks/gpu/dp4a_kernels.py [--json FILE]

Shapes are those of Qwen3-4B (linear layers, head) and of its attention at several contexts. Every launch reads other
weights, so that a cache on the chip helps no more than it would between two steps of a model. The copy's bandwidth is
what the card reaches in practice; the nominal one follows from clock and width. `host us` is what a launch costs the
host: where it is as much as `us`, the host was measured and not the kernel (small shapes on fast GPUs). The exit code
is 3 where a result is further from float64 than its rounding explains.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inference_pio.errors import InferencePioError
from inference_pio.runtime.kernels import (
    DeviceArray,
    Driver,
    Int8Cache,
    Kernels,
    Lengths,
    Tokens,
    Weight,
    multiply,
    quantize,
)
from inference_pio.runtime.kernels.driver import LIBRARY

LINEARS = {
    "qkv": (6144, 2560),
    "o": (2560, 4096),
    "gate_up": (19456, 2560),
    "down": (2560, 9728),
    "head": (151936, 2560),
}
TOKENS, CONTEXTS = (1, 2, 4, 8), (512, 2048, 8192, 32768)
HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
WORKING_SET = 256 << 20
"""Bytes of weights or caches that launches go round in."""
CHECKED_ROWS = 512
LARGEST_ERROR = 1e-4
"""Of a right kernel: products are exact integers scaled in float32, queries are rounded to 16 bits."""
EXIT_WRONG = 3


@dataclass(frozen=True)
class Row:
    """One kernel and shape: the largest error as a share of the largest result, median times, bytes read per second."""

    kernel: str
    shape: str
    error: float
    microseconds: float
    host_microseconds: float
    gigabytes_per_s: float


def timed(driver: Driver, launch: Callable[[int], None], repeat: int) -> tuple[float, float]:
    """Median seconds of a launch on the GPU, and what it takes the host to ask for it.

    Over `repeat` groups of launches, each long enough for the clock; `launch` gets a running number.
    """
    events = [ctypes.c_void_p() for _ in range(2)]
    for event in events:
        driver.call("cuEventCreate", ctypes.byref(event), 0)
    found, asked, group, number = [], [], 1, 0
    while len(found) < repeat:
        driver.call("cuEventRecord", events[0], None)
        started = time.perf_counter()
        for _ in range(group):
            launch(number)
            number += 1
        asked.append((time.perf_counter() - started) / group)
        driver.call("cuEventRecord", events[1], None)
        driver.call("cuEventSynchronize", events[1])
        milliseconds = ctypes.c_float()
        driver.call("cuEventElapsedTime", ctypes.byref(milliseconds), *events)
        if milliseconds.value < 5 and group < 1024:
            group, found = 2 * group, []
            continue
        found.append(milliseconds.value / 1000 / group)
    for event in events:
        driver.call("cuEventDestroy_v2", event)
    return statistics.median(found), min(asked)


@contextmanager
def copies(make: Callable[[], Any], size: int) -> Iterator[list[Any]]:
    """As many of the same size as the working set takes, at least two."""
    with ExitStack() as stack:
        made = []
        for _ in range(max(2, -(-WORKING_SET // size))):
            made.append(make())
            stack.callback(made[-1].free)
        yield made


def linear(kernels: Kernels, name: str, shape: tuple[int, int], tokens: int, repeat: int) -> Row:
    """A product with `tokens` tokens, checked on its first rows."""
    driver, rng, (rows, columns) = kernels.driver, np.random.default_rng(shape), shape
    codes_NK = rng.integers(-127, 128, shape, dtype=np.int8)
    scales_N = rng.uniform(1e-3, 2e-3, rows).astype(np.float32)
    x_TK = rng.normal(size=(tokens, columns)).astype(np.float32)
    with ExitStack() as stack, copies(lambda: Weight.of(driver, codes_NK, scales_N), rows * columns) as weights:
        rounded = Tokens.room(driver, tokens, columns)
        stack.callback(rounded.free)
        quantize(kernels, stack.enter_context(DeviceArray.of(driver, x_TK)), rounded)
        y = stack.enter_context(DeviceArray(driver, (tokens, rows), np.float32))
        multiply(kernels, rounded, weights[0], y)
        part = slice(0, CHECKED_ROWS)
        levels_TK = rounded.codes.read()[:, :columns].astype(np.int64)
        exact = levels_TK @ codes_NK[part].T.astype(np.int64) * scales_N[part].astype(np.float64)
        exact *= rounded.scales.read()[:, None]
        error = float(np.abs(y.read()[:, part] - exact).max() / np.abs(exact).max())
        times = timed(driver, lambda i: multiply(kernels, rounded, weights[i % len(weights)], y), repeat)
    return row("gemv_w8a8", f"{name} {rows} x {columns}, {tokens} tokens", error, times, rows * columns)


def attention(kernels: Kernels, context: int, repeat: int) -> Row:
    """One token over a context of Qwen3-4B, checked on its first heads."""
    driver, rng = kernels.driver, np.random.default_rng(context)
    steps = rng.uniform(0.01, 0.03, (2, KV_HEADS, HEAD_DIM)).astype(np.float32)
    codes = [rng.integers(-127, 128, (1, KV_HEADS, context, HEAD_DIM), dtype=np.int8) for _ in range(2)]
    q = rng.normal(size=(1, HEADS, HEAD_DIM)).astype(np.float32)
    scale = HEAD_DIM**-0.5

    def make() -> Int8Cache:
        cache = Int8Cache(kernels, 1, context, HEADS, *steps)
        cache.keys.write(codes[0])
        cache.values.write(codes[1])
        return cache

    size = 2 * KV_HEADS * context * HEAD_DIM
    with ExitStack() as stack, copies(make, size) as caches:
        q_BHD = stack.enter_context(DeviceArray.of(driver, q))
        y_BHD = stack.enter_context(DeviceArray(driver, q.shape, np.float32))
        lengths = Lengths(driver, 1)
        stack.callback(lengths.free)
        lengths.set([context])
        caches[0].attend(q_BHD, lengths, y_BHD, scale)
        share = HEADS // KV_HEADS
        keys, values = (part[0, 0] * step[0].astype(np.float64) for part, step in zip(codes, steps, strict=True))
        scores = q[0, :share] @ keys.T * scale
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        exact = weights @ values / weights.sum(axis=1, keepdims=True)
        error = float(np.abs(y_BHD.read()[0, :share] - exact).max() / np.abs(exact).max())
        times = timed(driver, lambda i: caches[i % len(caches)].attend(q_BHD, lengths, y_BHD, scale), repeat)
    return row("attend", f"{HEADS} / {KV_HEADS} heads of {HEAD_DIM}, {context}", error, times, size)


def row(kernel: str, shape: str, error: float, times: tuple[float, float], size: int) -> Row:
    """The figures of a kernel that reads `size` bytes in `times` as `timed` returns them."""
    return Row(kernel, shape, error, times[0] * 1e6, times[1] * 1e6, size / times[0] / 1e9)


def copy_bandwidth(driver: Driver, repeat: int) -> float:
    """Bytes per second, read and written, of a copy within the card's memory."""
    shape = (WORKING_SET // 2,)
    with DeviceArray(driver, shape, np.int8) as source, DeviceArray(driver, shape, np.int8) as target:
        addresses = (ctypes.c_uint64(target.address), ctypes.c_uint64(source.address), ctypes.c_size_t(source.size))
        return 2 * source.size / timed(driver, lambda _: driver.call("cuMemcpyDtoD_v2", *addresses), repeat)[0]


def main(arguments: list[str], library: str = LIBRARY) -> int:
    """Measure everything, print a table, write JSON; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--device", type=int, default=0, help="the GPU's number")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    if chosen.repeat < 1:
        parser.error("--repeat must be at least 1")
    try:
        driver = Driver(chosen.device, library)
        rows = measure(driver, chosen)
    except InferencePioError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    driver.close()
    wrong = [f"{row.kernel} {row.shape}" for row in rows if not row.error <= LARGEST_ERROR]
    if wrong:
        print(f"error: further from float64 than {LARGEST_ERROR}: {'; '.join(wrong)}", file=sys.stderr)
    return EXIT_WRONG if wrong else 0


def measure(driver: Driver, chosen: argparse.Namespace) -> list[Row]:
    """All rows, printed one by one, and written where asked, also those before an interruption."""
    kernels = Kernels(driver, Path.home() / ".cache" / "inference-pio")
    copied = copy_bandwidth(driver, chosen.repeat)
    print(f"{driver.limits.name}: nominal {driver.limits.bandwidth / 1e9:.0f} GB/s, copy {copied / 1e9:.0f} GB/s\n")
    print("| kernel | shape | error | us | host us | GB/s | of the copy's |\n|---|---|---|---|---|---|---|")
    rows: list[Row] = []
    try:
        for name, shape in LINEARS.items():
            for tokens in TOKENS:
                rows.append(show(linear(kernels, name, shape, tokens, chosen.repeat), copied))
        for context in CONTEXTS:
            rows.append(show(attention(kernels, context, chosen.repeat), copied))
    finally:
        if chosen.json:
            facts = {"gpu": asdict(driver.limits), "copy_bytes_per_s": copied, "rows": [asdict(row) for row in rows]}
            chosen.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return rows


def show(row: Row, copied: float) -> Row:
    """Print a row of the table."""
    share = row.gigabytes_per_s * 1e9 / copied
    times = f"{row.microseconds:.1f} | {row.host_microseconds:.1f}"
    print(
        f"| {row.kernel} | {row.shape} | {row.error:.1e} | {times} | {row.gigabytes_per_s:.0f} | {share:.0%} |",
        flush=True,
    )
    return row


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
