"""Speed and memory of transformers itself on the same checkpoint, for context."""

from __future__ import annotations

import argparse

from common import (
    checkpoint,
    child,
    common_options,
    median,
    megabytes,
    one_decimal,
    save,
    show,
    two_decimals,
    warm,
    work_folder,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    common_options(parser)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    rows = []
    with work_folder(options.work) as work:
        source = checkpoint(options.checkpoint, options.layers, work)
        warm(source)
        for dtype in options.dtypes:
            asked = {"checkpoint": str(source), "dtype": dtype, "threads": options.threads}
            asked |= {"prompt_tokens": options.prompt_tokens, "new_tokens": options.new_tokens}
            rounds = [child("generate_transformers", {**asked, "seed": seed}).result for seed in range(options.repeat)]
            rows.append({"dtype": dtype, **{key: median([one[key] for one in rounds]) for key in rounds[0]}})
    speeds = dict.fromkeys(("prefill_tokens_per_s", "decode_tokens_per_s"), one_decimal)
    sizes = dict.fromkeys(("steady_rss_bytes", "peak_rss_bytes"), megabytes)
    show(rows, {"dtype": None, **speeds, "load_s": two_decimals, **sizes})
    save(options.json, {"checkpoint": source.name, "transformers": rows})


if __name__ == "__main__":
    main()
