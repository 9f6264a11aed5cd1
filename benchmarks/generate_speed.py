"""Prefill and decode speed, load time and memory, side by side with onnxruntime-genai's own export.

Rounds alternate between ours and genai; every measurement is a fresh process that loads, runs one prompt to warm up and
measures another of the same length. Figures are medians over the rounds; a ratio is the median of each round's ratio.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import (
    artifact,
    checkpoint,
    child,
    common_options,
    folder_bytes,
    genai_export,
    median,
    megabytes,
    one_decimal,
    ratio,
    save,
    show,
    two_decimals,
    warm,
    work_folder,
)

PREFIX_CACHE_BYTES = 256 << 20
MEASURES = ("prefill_tokens_per_s", "decode_tokens_per_s", "load_s", "steady_rss_bytes", "peak_rss_bytes")


@dataclass(frozen=True)
class Pair:
    """Our artifact and the export of genai's builder that it is compared with."""

    name: str
    ours: Path
    genai: Path


def pairs(source: Path, work: Path, names: list[str]) -> list[Pair]:
    """`int8`, `int4` or `fp32`, or `int4:32` for another block size of ours (genai's block is 32 in any case)."""
    found = []
    for name in names:
        precision, _, block = name.partition(":")
        ours = artifact(source, work, precision, int(block) if block else None)
        found.append(Pair(name, ours, genai_export(source, work, precision)))
    return found


def measure(pair: Pair, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Results per contender, one per round."""
    vocabulary = json.loads((pair.ours / "config.json").read_text("utf-8"))["vocab_size"]
    asked = {"threads": options.threads, "prompt_tokens": options.prompt_tokens, "new_tokens": options.new_tokens}
    results: dict[str, list[dict[str, Any]]] = {"ours": [], "genai": [], "ours, prefix cache": []}
    with tempfile.TemporaryDirectory() as cache_dir:
        greedy = {"sampling": {"temperature": 0.0}, "cache_dir": cache_dir, "artifact": str(pair.ours)}
        for seed in range(options.repeat):
            asked["seed"] = seed
            for folder in (pair.ours, pair.genai):
                warm(folder)
            results["ours"].append(child("generate_ours", {**asked, **greedy, "prefix_cache_bytes": 0}).result)
            genai = child("generate_genai", {**asked, "folder": str(pair.genai), "vocab_size": vocabulary})
            results["genai"].append(genai.result)
            with_cache = {**asked, **greedy, "prefix_cache_bytes": PREFIX_CACHE_BYTES}
            results["ours, prefix cache"].append(child("generate_ours", with_cache).result)
    return results


def summary(pair: Pair, results: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row per contender with medians, then the ratios of ours to genai."""
    rows: list[dict[str, Any]] = []
    for who, rounds in results.items():
        row: dict[str, Any] = {"weights": pair.name, "who": who}
        row |= {key: median([one[key] for one in rounds]) for key in MEASURES}
        row["size_bytes"] = folder_bytes(pair.genai if who == "genai" else pair.ours)
        if who != "genai":
            limit = 1.3 * row["size_bytes"] + rounds[0]["kv_bytes"] + 100e6
            row["limit_bytes"] = limit + (PREFIX_CACHE_BYTES if who != "ours" else 0)
            row["outside_run_share"] = median([one["outside_run_share"] for one in rounds])
        rows.append(row)
    ratios = {
        key: median([ours[key] / genai[key] for ours, genai in zip(results["ours"], results["genai"], strict=True)])
        for key in MEASURES
    }
    return [*rows, {"weights": pair.name, "who": "ours / genai", "ratios": ratios}]


def display(rows: list[dict[str, Any]]) -> None:
    shown = [{**row, **{f"{key} ratio": value for key, value in row.get("ratios", {}).items()}} for row in rows]
    show(
        [row for row in shown if "ratios" not in row],
        {
            "weights": None,
            "who": None,
            "prefill_tokens_per_s": one_decimal,
            "decode_tokens_per_s": one_decimal,
            "load_s": two_decimals,
            "steady_rss_bytes": megabytes,
            "limit_bytes": megabytes,
            "peak_rss_bytes": megabytes,
            "size_bytes": megabytes,
        },
    )
    print()
    columns = {"weights": None, "who": None, **{f"{key} ratio": ratio for key in MEASURES}}
    show([row for row in shown if "ratios" in row], columns)
    print("limit: 1.3 x artifact + cache of the tokens + 100 MB (+ the prefix cache's budget where it is on)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    common_options(parser)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--precisions", nargs="+", default=["int8", "int4", "int4:32"], help=pairs.__doc__)
    options = parser.parse_args()
    rows, raw = [], {}
    with work_folder(options.work) as work:
        source = checkpoint(options.checkpoint, options.layers, work)
        for pair in pairs(source, work, options.precisions):
            raw[pair.name] = measure(pair, options)
            rows += summary(pair, raw[pair.name])
    display(rows)
    asked = {key: getattr(options, key) for key in ("prompt_tokens", "new_tokens", "threads", "repeat")}
    save(options.json, {"checkpoint": source.name, "asked": asked, "summary": rows, "rounds": raw})


if __name__ == "__main__":
    main()
