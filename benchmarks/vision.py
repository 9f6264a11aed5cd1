"""Time to the features of one image and to the first token behind it, ours beside transformers.

Every round measures all rows, one fresh process each, which asks about a small image to warm up and about another of
the size that counts. The image is noise; the first token includes preparing it.
"""

from __future__ import annotations

import argparse
import tempfile
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
    ratio,
    save,
    show,
    two_decimals,
    warm,
    work_folder,
)

MEASURES = ("features_s", "first_token_s", "prompt_tokens", "steady_rss_bytes", "peak_rss_bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    common_options(parser)
    parser.add_argument("--precisions", nargs="+", default=["int8"])
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"], help="of transformers")
    parser.add_argument("--side", type=int, default=1024, help="pixels of the square image")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with work_folder(options.work) as work, tempfile.TemporaryDirectory() as cache_dir:
        source = checkpoint(options.checkpoint, options.layers, work)
        asked = {"threads": options.threads, "side": options.side}
        asked |= {"cache_dir": cache_dir, "checkpoint": str(source)}
        jobs: dict[str, tuple[str, dict[str, Any]]] = {}
        for precision in options.precisions:
            folder = artifact(source, work, precision)
            warm(folder)
            jobs[f"ours {Path(precision).stem}"] = ("image_ours", {**asked, "artifact": str(folder)})
        for dtype in options.dtypes:
            jobs[f"transformers {dtype}"] = ("image_transformers", {**asked, "dtype": dtype})
        found: dict[str, list[dict[str, Any]]] = {who: [] for who in jobs}
        for seed in range(options.repeat):
            for who, (script, spec) in jobs.items():
                done = child(script, {**spec, "seed": seed})
                if done.code != 0:
                    raise SystemExit(f"{who}: {last_line(done.stderr)}")
                found[who].append(done.result)
    rows = [
        {"who": who, **{key: median([r[key] for r in rounds]) for key in MEASURES}} for who, rounds in found.items()
    ]
    for row in rows:
        row["first_token_ratio"] = row["first_token_s"] / rows[0]["first_token_s"]
    times = {"features_s": two_decimals, "first_token_s": two_decimals, "first_token_ratio": ratio}
    show(
        rows, {"who": None, "prompt_tokens": None, **times, "steady_rss_bytes": megabytes, "peak_rss_bytes": megabytes}
    )
    save(options.json, {"checkpoint": source.name, "side": options.side, "rows": rows, "rounds": found})


if __name__ == "__main__":
    main()
