"""The share of a decode step spent outside ONNX Runtime: sampling, penalties, detokenization, the loop itself."""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

from common import (
    artifact,
    checkpoint,
    child,
    common_options,
    median,
    percent,
    save,
    show,
    two_decimals,
    warm,
    work_folder,
)

SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature, top-k, top-p, penalties": {
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "seed": 7,
    },
    "the same without top-k": {
        "temperature": 0.8,
        "top_k": 0,
        "top_p": 0.95,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "seed": 7,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    common_options(parser)
    parser.add_argument("--precisions", nargs="+", default=["int8", "int4"])
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    rows = []
    with work_folder(options.work) as work, tempfile.TemporaryDirectory() as cache_dir:
        source = checkpoint(options.checkpoint, options.layers, work)
        for precision in options.precisions:
            folder = artifact(source, work, precision)
            warm(folder)
            asked = {
                "artifact": str(folder),
                "cache_dir": cache_dir,
                "prefix_cache_bytes": 0,
                "threads": options.threads,
                "prompt_tokens": options.prompt_tokens,
                "new_tokens": options.new_tokens,
            }
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in SAMPLINGS}
            for seed in range(options.repeat):
                for name, sampling in SAMPLINGS.items():
                    spec = {**asked, "seed": seed, "sampling": sampling}
                    found[name].append(child("generate_ours", spec).result)
            for name, rounds in found.items():
                outside = [one["outside_run_share"] for one in rounds]
                steps = [one["decode_step_ms"] for one in rounds]
                rows.append(
                    {
                        "weights": precision,
                        "sampling": name,
                        "outside_share": median(outside),
                        "largest_share": max(outside),
                        "step_ms": median(steps),
                        "outside_ms": median([a * b for a, b in zip(outside, steps, strict=True)]),
                        "run_ms": median([(1 - a) * b for a, b in zip(outside, steps, strict=True)]),
                    }
                )
    shares = {"outside_share": percent, "largest_share": percent}
    times = dict.fromkeys(("step_ms", "run_ms", "outside_ms"), two_decimals)
    show(rows, {"weights": None, "sampling": None, **shares, **times})
    save(options.json, {"checkpoint": source.name, "repeat": options.repeat, "shares": rows})


if __name__ == "__main__":
    main()
