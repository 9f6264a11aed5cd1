"""Where the time goes: kernels by operator, for a prompt and for a decode step, from ONNX Runtime's profiler.

"products alone" is the speed that would remain if everything but the matrix products were free: the limit of any
engine around these kernels. Profiling itself slows a step down by a few milliseconds, its kernels hardly.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import artifact, checkpoint, child, common_options, one_decimal, save, show, two_decimals, work_folder

PRODUCTS = ("MatMulNBits", "FusedMatMul", "MatMul", "Gemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")


def by_operator(events: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]]) -> Counter[str]:
    """Kernel milliseconds by operator within `runs`."""
    found: Counter[str] = Counter()
    first, last = runs[0]["ts"], runs[-1]["ts"] + runs[-1]["dur"]
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and first <= event["ts"] <= last:
            found[event["args"]["op_name"]] += event["dur"] / 1000
    return found


def profile(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as work:
        asked = {
            "artifact": str(folder),
            "profile": f"{work}/profile",
            "threads": options.threads,
            "chunk": options.chunk,
            "prompt_tokens": options.prompt_tokens,
            "new_tokens": options.new_tokens,
        }
        result = child("profile_ours", asked).result
        events = json.loads(Path(result["file"]).read_text("utf-8"))
    runs = [event for event in events if event["name"] == "model_run"]
    chunks, steps = result["chunks"], options.new_tokens
    runs = runs[-(chunks + steps) :]
    prompt, step = by_operator(events, runs[:chunks]), by_operator(events, runs[chunks:])
    rows = [
        {"operator": name, "prompt_ms": prompt[name], "step_ms": step[name] / steps}
        for name, _ in (prompt + step).most_common()
    ]
    total = {key: sum(row[key] for row in rows) for key in ("prompt_ms", "step_ms")}
    products = {key: sum(row[key] for row in rows if row["operator"] in PRODUCTS) for key in total}
    limit = {
        "operator": "products alone, tokens/s",
        "prompt_ms": 1000 * options.prompt_tokens / products["prompt_ms"],
        "step_ms": 1000 / products["step_ms"],
    }
    return [*rows[: options.top], {"operator": "all kernels", **total}, limit]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    common_options(parser)
    parser.add_argument("--precisions", nargs="+", default=["int8", "int4"])
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--chunk", type=int, default=128, help="prompt tokens of one run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--top", type=int, default=8, help="operators to show")
    options = parser.parse_args()
    found = {}
    with work_folder(options.work) as work:
        source = checkpoint(options.checkpoint, options.layers, work)
        for precision in options.precisions:
            name, _, block = precision.partition(":")
            found[precision] = profile(artifact(source, work, name, int(block) if block else None), options)
            print(f"\n{precision}: {options.prompt_tokens} prompt tokens, then one step")
            show(found[precision], {"operator": None, "prompt_ms": one_decimal, "step_ms": two_decimals})
    save(options.json, {"checkpoint": source.name, "chunk": options.chunk, "operators": found})


if __name__ == "__main__":
    main()
