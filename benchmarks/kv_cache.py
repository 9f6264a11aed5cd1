"""What an int8 key/value cache changes: prefill and decode speed, bytes per token and memory, at a long context.

Rounds alternate between an artifact with a float32 cache and one with an int8 cache, otherwise alike; every measurement
is a fresh process that runs one prompt to warm up and measures another. Figures are medians over the rounds; a ratio is
the median of each round's ratio.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import (
    artifact,
    checkpoint,
    child,
    common_options,
    last_line,
    median,
    megabytes,
    one_decimal,
    pio,
    ratio,
    save,
    show,
    warm,
    work_folder,
)

MEASURES = ("prefill_tokens_per_s", "decode_tokens_per_s", "steady_rss_bytes", "peak_rss_bytes")
FLOAT, INT8 = "float32", "int8"


def int8_artifact(source: Path, work: Path, precision: str) -> Path:
    """An artifact of `source` with an int8 cache, exported once."""
    folder = work / f"{source.name}-ours-{Path(precision).stem}-kv-int8"
    if not folder.exists():
        done = pio("export", source, "-o", folder, "--precision", precision, "--kv-cache", "int8")
        if done.code != 0:
            raise SystemExit(last_line(done.stderr))
    return folder


def measure(folders: dict[str, Path], options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Results per cache, one per round."""
    asked = {"threads": options.threads, "prompt_tokens": options.prompt_tokens, "new_tokens": options.new_tokens}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in folders}
    with tempfile.TemporaryDirectory() as cache_dir:
        greedy = {"sampling": {"temperature": 0.0}, "cache_dir": cache_dir, "prefix_cache_bytes": 0}
        for seed in range(options.repeat):
            for name, folder in folders.items():
                warm(folder)
                spec = {**asked, **greedy, "artifact": str(folder), "seed": seed}
                results[name].append(child("generate_ours", spec).result)
    return results


def summary(folders: dict[str, Path], results: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row per cache with medians, then the ratios of int8 to float32."""
    rows: list[dict[str, Any]] = []
    for name, folder in folders.items():
        memory = json.loads((folder / "manifest.json").read_text("utf-8"))["memory"]
        row: dict[str, Any] = {"cache": name, "cache_bytes_per_token": memory["cache_bytes_per_token"]}
        rows.append(row | {key: median([one[key] for one in results[name]]) for key in MEASURES})
    pairs = list(zip(results[INT8], results[FLOAT], strict=True))
    ratios = {key: median([ours[key] / other[key] for ours, other in pairs]) for key in MEASURES}
    bytes_ratio = rows[1]["cache_bytes_per_token"] / rows[0]["cache_bytes_per_token"]
    return [*rows, {"cache": "int8 / float32", "cache_bytes_per_token": bytes_ratio, **ratios}]


def display(rows: list[dict[str, Any]]) -> None:
    speeds: dict[str, Callable[[Any], str] | None] = {
        "prefill_tokens_per_s": one_decimal,
        "decode_tokens_per_s": one_decimal,
    }
    sizes: dict[str, Callable[[Any], str] | None] = {
        "cache_bytes_per_token": str,
        "steady_rss_bytes": megabytes,
        "peak_rss_bytes": megabytes,
    }
    show(rows[:-1], {"cache": None, **speeds, **sizes})
    print()
    show(rows[-1:], {"cache": None, **{key: ratio for key in (*speeds, *sizes)}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    common_options(parser)
    parser.add_argument("--precision", default="int8", help="recipe of the weights")
    parser.add_argument("--prompt-tokens", type=int, default=2048)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with work_folder(options.work) as work:
        source = checkpoint(options.checkpoint, options.layers, work)
        floats = artifact(source, work, options.precision)
        folders = {FLOAT: floats, INT8: int8_artifact(source, work, options.precision)}
        raw = measure(folders, options)
        rows = summary(folders, raw)
    display(rows)
    asked = {key: getattr(options, key) for key in ("precision", "prompt_tokens", "new_tokens", "threads", "repeat")}
    save(options.json, {"checkpoint": source.name, "asked": asked, "summary": rows, "rounds": raw})


if __name__ == "__main__":
    main()
