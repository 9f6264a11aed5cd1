"""The DP4A kernels on this machine's GPU: right against float64, and how much of the memory's bandwidth they reach.

    python benchmarks/gpu/dp4a_kernels.py [--json FILE]

Shapes are those of Qwen3-4B (linear layers, head) and of its attention at several contexts. Every launch reads other
weights, so that a cache on the chip helps no more than it would between two steps of a model. The copy's bandwidth is
what the card reaches in practice; the nominal one follows from clock and width.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
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


@dataclass(frozen=True)
class Row:
    """One kernel and shape: the largest error as a share of the largest result, median time, bytes read per second."""

    kernel: str
    shape: str
    error: float
    microseconds: float
    gigabytes_per_s: float


def timed(driver: Driver, launch: Callable[[int], None], repeat: int) -> float:
    """Median seconds of `repeat` groups of launches, each long enough for the clock; `launch` gets a running number."""
    events = [ctypes.c_void_p() for _ in range(2)]
    for event in events:
        driver.call("cuEventCreate", ctypes.byref(event), 0)
    found, group, number = [], 1, 0
    while len(found) < repeat:
        driver.call("cuEventRecord", events[0], None)
        for _ in range(group):
            launch(number)
            number += 1
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
    return statistics.median(found)


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
        seconds = timed(driver, lambda i: multiply(kernels, rounded, weights[i % len(weights)], y), repeat)
    shape_text = f"{name} {rows} x {columns}, {tokens} tokens"
    return Row("gemv_w8a8", shape_text, error, seconds * 1e6, rows * columns / seconds / 1e9)


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
        seconds = timed(driver, lambda i: caches[i % len(caches)].attend(q_BHD, lengths, y_BHD, scale), repeat)
    return Row(
        "attend", f"{HEADS} / {KV_HEADS} heads of {HEAD_DIM}, {context}", error, seconds * 1e6, size / seconds / 1e9
    )


def copy_bandwidth(driver: Driver, repeat: int) -> float:
    """Bytes per second, read and written, of a copy within the card's memory."""
    shape = (WORKING_SET // 2,)
    with DeviceArray(driver, shape, np.int8) as source, DeviceArray(driver, shape, np.int8) as target:
        addresses = (ctypes.c_uint64(target.address), ctypes.c_uint64(source.address), ctypes.c_size_t(source.size))
        return 2 * source.size / timed(driver, lambda _: driver.call("cuMemcpyDtoD_v2", *addresses), repeat)


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    try:
        driver = Driver()
        kernels = Kernels(driver, Path.home() / ".cache" / "inference-pio")
    except InferencePioError as error:
        sys.exit(str(error))
    copied = copy_bandwidth(driver, arguments.repeat)
    print(f"{driver.limits.name}: nominal {driver.limits.bandwidth / 1e9:.0f} GB/s, copy {copied / 1e9:.0f} GB/s\n")
    print("| kernel | shape | error | us | GB/s | of the copy's |\n|---|---|---|---|---|---|")
    rows = []
    for name, shape in LINEARS.items():
        rows += [show(linear(kernels, name, shape, tokens, arguments.repeat), copied) for tokens in TOKENS]
    rows += [show(attention(kernels, context, arguments.repeat), copied) for context in CONTEXTS]
    if arguments.json:
        facts = {"gpu": asdict(driver.limits), "copy_bytes_per_s": copied, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    driver.close()


def show(row: Row, copied: float) -> Row:
    """Print a row of the table."""
    share = row.gigabytes_per_s * 1e9 / copied
    numbers = f"{row.error:.1e} | {row.microseconds:.1f} | {row.gigabytes_per_s:.0f} | {share:.0%}"
    print(f"| {row.kernel} | {row.shape} | {numbers} |", flush=True)
    return row


if __name__ == "__main__":
    main()
