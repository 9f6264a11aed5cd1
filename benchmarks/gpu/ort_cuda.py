"""ort-cuda artifacts on a GPU: the tokens of ort-cpu, and speed beside PyTorch and the bandwidth of the memory.

For each recipe: teacher-forced logits beside the float32 artifact for CPUs on the same tokens (largest difference,
share of positions with the same best token, and that where the best two are further apart than `--gap`), and beside the
same artifact on the CPU where that runs it, which leaves out what quantization changes; then prefill and decode. A step
reads all weights and the cache once; the bandwidth of a copy over these bytes is the ceiling.
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
    scientific,
    show,
    two_decimals,
    work_folder,
)

from inference_pio.errors import InferencePioError
from inference_pio.runtime.device import open_gpu

THREADS = 2
COLUMNS = {
    "what": None,
    "largest_difference": two_decimals,
    "same_token": percent,
    "same_token_clear": percent,
    "from_itself_on_cpu": scientific,
    "prefill_tokens_per_s": one_decimal,
    "decode_tokens_per_s": one_decimal,
    "ceiling_per_s": one_decimal,
    "of_ceiling": percent,
}


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


def logits(folder: Path, device: str, options: argparse.Namespace, cache_dir: str, python: Path | None = None) -> Any:
    """float32 [tokens, vocabulary], by the interpreter `python`, by default this one."""
    import numpy as np

    with tempfile.NamedTemporaryFile(suffix=".npy") as out:
        asked = {"artifact": str(folder), "device": device, "seed": 0, "tokens": options.check_tokens}
        child("logits_ours", {**asked, "out": out.name, "cache_dir": cache_dir}, python).result  # noqa: B018 (raises)
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


def on_gpu(folder: Path, expected: Any, options: argparse.Namespace, cache_dir: str) -> dict[str, float | None]:
    """An artifact beside `expected` logits and, where the CPU runs it too, beside itself there; and its speeds."""
    found = logits(folder, options.device, options, cache_dir)
    close = agreement(found, expected, options.gap)
    try:
        itself = agreement(found, logits(folder, "cpu", options, cache_dir), options.gap)["largest_difference"]
    except RuntimeError:  # the CPU lacks operators of dialect `modern` in sixteen bits
        itself = None
    asked = {"artifact": str(folder), "cache_dir": cache_dir, "prefix_cache_bytes": 0, "sampling": {"temperature": 0.0}}
    return {**close, "from_itself_on_cpu": itself, **speeds("generate_ours", asked, options)}


def speeds(script: str, asked: dict[str, Any], options: argparse.Namespace) -> dict[str, float]:
    """Medians over prompts of the tokens per second that a child reports."""
    sizes = {"prompt_tokens": options.prompt_tokens, "new_tokens": options.new_tokens}
    asked = {**asked, **sizes, "device": options.device, "threads": THREADS}
    rounds = [child(script, {**asked, "seed": seed}).result for seed in range(options.repeat)]
    return {key: median([one[key] for one in rounds]) for key in rounds[0] if key.endswith("tokens_per_s")}


def ceiling(folder: Path, bytes_per_s: float, options: argparse.Namespace) -> float:
    """Decoded tokens per second if every step read all weights and the cache, and nothing else took time."""
    facts = json.loads((folder / "manifest.json").read_text("utf-8"))["memory"]
    context = options.prompt_tokens + options.new_tokens / 2
    return bytes_per_s / (facts["weight_bytes"] + facts["cache_bytes_per_token"] * context)


def measure(rows: list[dict[str, Any]], source: Path, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Add a row per recipe and per type of PyTorch; what fails is a row too. Returns the memory's bandwidth."""
    with tempfile.TemporaryDirectory() as cache_dir:
        memory = child("gpu_bandwidth", {"device": options.device, "bytes": 1 << 28}).result
        expected = logits(artifact(source, work, "fp32"), "cpu", options, cache_dir, options.cpu_python)
        for precision in options.precisions:
            print(f"measuring {precision}", file=sys.stderr)
            try:
                folder = exported(source, work, precision, options.hardware)
                row = on_gpu(folder, expected, options, cache_dir)
                most = ceiling(folder, memory["bytes_per_s"], options)
                rows.append({"what": precision, **row, "ceiling_per_s": most})
                rows[-1]["of_ceiling"] = rows[-1]["decode_tokens_per_s"] / most
            except (RuntimeError, SystemExit) as error:
                rows.append({"what": precision, "failed": str(error)})
    for dtype in options.torch_dtypes:
        print(f"measuring PyTorch {dtype}", file=sys.stderr)
        try:
            asked = {"checkpoint": str(source), "dtype": dtype}
            rows.append({"what": f"PyTorch {dtype}", **speeds("generate_transformers", asked, options)})
        except RuntimeError as error:
            rows.append({"what": f"PyTorch {dtype}", "failed": str(error)})
    return dict(memory)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    common_options(parser)
    parser.add_argument("--hardware", required=True, help="profile of the GPU, such as sm61 or sm86")
    parser.add_argument("--device", default="cuda", help="cpu tries the script without a GPU")
    parser.add_argument(
        "--cpu-python",
        type=Path,
        metavar="PYTHON",
        help="interpreter that runs the artifact for CPUs, which needs ONNX Runtime 1.31; this one by default",
    )
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16", "int8", "int4"])
    parser.add_argument("--torch-dtypes", nargs="*", default=["float16"], help="of PyTorch beside it")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--check-tokens", type=int, default=128, help="positions that are compared")
    parser.add_argument("--gap", type=float, default=0.1, help="in logits; below it two tokens are a near tie")
    parser.add_argument("--repeat", type=int, default=3)
    return parser.parse_args()


def main() -> int:
    """Measure, print a table, write JSON, also of what was done until an interruption; 1 where something failed."""
    options = parse()
    if options.device != "cpu":
        check_gpu(options.device)
    rows: list[dict[str, Any]] = []
    memory: dict[str, Any] = {}
    with work_folder(options.work) as work:
        source = checkpoint(options.checkpoint, options.layers, work)
        try:
            memory = measure(rows, source, work, options)
        except RuntimeError as error:
            rows.append({"what": "preparation", "failed": str(error)})
        finally:
            show(rows, COLUMNS)
            facts = {"checkpoint": source.name, "hardware": options.hardware, "memory": memory}
            save(options.json, {**facts, "rows": rows})
    failed = [row for row in rows if "failed" in row]
    for row in failed:
        print(f"{row['what']} failed: {row['failed']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
