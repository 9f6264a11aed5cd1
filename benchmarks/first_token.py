"""Wall time of a fresh process from its start to the first token of a short prompt, and its phases.

"first open" hashes the weights (its cache folder is new); "known" finds the stamp of an earlier open. The artifact is
in the page cache. ONNX Runtime is loaded inside "open"; hashing runs beside it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from common import (
    artifact,
    checkpoint,
    child,
    common_options,
    median,
    megabytes,
    save,
    show,
    two_decimals,
    warm,
    work_folder,
)

PHASES = ("interpreter_s", "import_s", "open_s", "first_token_s", "total_s")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Results of first and known opens, alternating."""
    found: dict[str, list[dict[str, Any]]] = {"first open": [], "known": []}
    for seed in range(options.repeat):
        warm(folder)
        with tempfile.TemporaryDirectory() as cache_dir:
            for name in found:
                asked = {
                    "artifact": str(folder),
                    "cache_dir": cache_dir,
                    "threads": options.threads,
                    "prompt_tokens": options.prompt_tokens,
                    "seed": seed,
                    "spawned": time.monotonic(),
                }
                found[name].append(child("open_and_first_token", asked).result)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_options(parser)
    parser.add_argument("--precisions", nargs="+", default=["int8", "int4"])
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    rows, raw = [], {}
    with work_folder(options.work) as work:
        source = checkpoint(options.checkpoint, options.layers, work)
        for precision in options.precisions:
            raw[precision] = measure(artifact(source, work, precision), options)
            for name, rounds in raw[precision].items():
                medians = {key: median([one[key] for one in rounds]) for key in (*PHASES, "peak_rss_bytes")}
                slowest = max(one["total_s"] for one in rounds)
                rows.append({"weights": precision, "open": name, **medians, "slowest_s": slowest})
    seconds = dict.fromkeys((*PHASES, "slowest_s"), two_decimals)
    show(rows, {"weights": None, "open": None, **seconds, "peak_rss_bytes": megabytes})
    save(options.json, {"checkpoint": source.name, "summary": rows, "rounds": raw})


if __name__ == "__main__":
    main()
