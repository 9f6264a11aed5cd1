"""ort-cuda artifacts on a GPU: the tokens of ort-cpu, and speed beside PyTorch and the bandwidth of the memory.

For each recipe: teacher-forced logits beside the float32 artifact for CPUs on the same tokens (largest difference,
share of positions with the same best token, and that where the best two are further apart than `--gap`), then prefill
and decode. A step reads all weights and the cache once; the bandwidth of a copy over these bytes is the ceiling.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import (
    artifact,
    checkpoint,
    child,
    common_options,
    last_line,
    median,
    one_decimal,
    percent,
    pio,
    save,
    show,
    two_decimals,
    work_folder,
)

from inference_pio.errors import InferencePioError
from inference_pio.runtime.device import open_gpu


def exported(source: Path, work: Path, precision: str, hardware: str) -> Path:
    """The artifact for a GPU, made once."""
    folder = work / f"{source.name}-cuda-{hardware}-{precision}"
    if not folder.exists():
        chosen = ["--target", "ort-cuda", "--hardware", hardware, "--precision", precision]
        if precision.startswith("w8a8") or precision.endswith("-calibrated"):
            chosen += ["--calibration", "default"]
        done = pio("export", source, "-o", folder, *chosen)
        if done.code != 0:
            raise SystemExit(last_line(done.stderr))
    return folder


def logits(folder: Path, device: str, options: argparse.Namespace, cache_dir: str) -> Any:
    """float32 [tokens, vocabulary]."""
    import numpy as np

    with tempfile.NamedTemporaryFile(suffix=".npy") as out:
        asked = {"artifact": str(folder), "device": device, "seed": 0, "tokens": options.check_tokens}
        child("logits_ours", {**asked, "out": out.name, "cache_dir": cache_dir}).result  # noqa: B018 (raises)
        return np.load(out.name)


def agreement(found: Any, expected: Any, gap: float) -> dict[str, float]:
    """How far two sets of logits are from each other."""
    import numpy as np

    top = np.partition(expected, -2, axis=1)[:, -2:]
    clear, same = top[:, 1] - top[:, 0] > gap, found.argmax(axis=1) == expected.argmax(axis=1)
    return {
        "largest_difference": float(np.abs(found - expected).max()),
        "same_token": float(same.mean()),
        "same_token_clear": float(same[clear].mean()) if clear.any() else 1.0,
    }


def check_gpu(device: str) -> None:
    """End the program with one sentence where the GPU cannot be used, before anything is made for it."""
    try:
        open_gpu(int(device.partition(":")[2] or 0))
    except InferencePioError as error:
        raise SystemExit(f"error: {error}, or try the script with --device cpu") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    common_options(parser)
    parser.add_argument("--hardware", required=True, help="profile of the GPU, such as sm61 or sm86")
    parser.add_argument("--device", default="cuda", help="cpu tries the script without a GPU")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16", "int8", "int4"])
    parser.add_argument("--torch-dtypes", nargs="*", default=["float16"], help="of PyTorch beside it")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--check-tokens", type=int, default=128, help="positions that are compared")
    parser.add_argument("--gap", type=float, default=0.1, help="in logits; below it two tokens are a near tie")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    if options.device != "cpu":
        check_gpu(options.device)
    rows: list[dict[str, Any]] = []
    with work_folder(options.work) as work, tempfile.TemporaryDirectory() as cache_dir:
        source = checkpoint(options.checkpoint, options.layers, work)
        memory = child("gpu_bandwidth", {"device": options.device, "bytes": 1 << 28}).result
        expected = logits(artifact(source, work, "fp32"), "cpu", options, cache_dir)
        sizes = {"prompt_tokens": options.prompt_tokens, "new_tokens": options.new_tokens}
        for precision in options.precisions:
            folder = exported(source, work, precision, options.hardware)
            close = agreement(logits(folder, options.device, options, cache_dir), expected, options.gap)
            asked = {**sizes, "artifact": str(folder), "device": options.device, "cache_dir": cache_dir, "threads": 2}
            asked |= {"prefix_cache_bytes": 0, "sampling": {"temperature": 0.0}}
            rounds = [child("generate_ours", {**asked, "seed": seed}).result for seed in range(options.repeat)]
            speeds = {key: median([one[key] for one in rounds]) for key in rounds[0] if key.endswith("_per_s")}
            facts = json.loads((folder / "manifest.json").read_text("utf-8"))["memory"]
            context = options.prompt_tokens + options.new_tokens / 2
            read = facts["weight_bytes"] + facts["cache_bytes_per_token"] * context
            ceiling = memory["bytes_per_s"] / read
            share = speeds["decode_tokens_per_s"] / ceiling
            rows.append({"what": precision, **close, **speeds, "ceiling_per_s": ceiling, "of_ceiling": share})
        for dtype in options.torch_dtypes:
            asked = {**sizes, "checkpoint": str(source), "dtype": dtype, "device": options.device, "threads": 2}
            rounds = [child("generate_transformers", {**asked, "seed": seed}).result for seed in range(options.repeat)]
            speeds = {key: median([one[key] for one in rounds]) for key in rounds[0] if key.endswith("_per_s")}
            rows.append({"what": f"PyTorch {dtype}", **speeds})
    show(
        rows,
        {
            "what": None,
            "largest_difference": two_decimals,
            "same_token": percent,
            "same_token_clear": percent,
            "prefill_tokens_per_s": one_decimal,
            "decode_tokens_per_s": one_decimal,
            "ceiling_per_s": one_decimal,
            "of_ceiling": percent,
        },
    )
    save(options.json, {"checkpoint": source.name, "hardware": options.hardware, "memory": memory, "rows": rows})


if __name__ == "__main__":
    main()
