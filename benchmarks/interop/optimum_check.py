"""Does Optimum's ORTModelForCausalLM load an artifact, and does it generate the same greedy tokens?

Optimum pins an older transformers, so it gets an environment of its own, made at the first run (about 1 GB; needs the
package index). Prints what works and what does not; docs/interop.md explains the outcome.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
from common import HERE, ROOT, run, save, show
from random_checkpoint import published_config, write_random_checkpoint
from random_tensors import Dtype

from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.runtime import Engine, SamplingParams
from inference_pio.tiny import tiny_checkpoint

PINS = ("torch==2.13.0", "optimum-onnx[onnxruntime]==0.1.0")
TEXTS = ("def f(x):\n    return x\n", "Hello,  World! äöü 漢字 🙂 12345 don't")
SQUARE = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 512,
    "vocab_size": 2048,
    "bos_token_id": 2045,
    "eos_token_id": 2047,
}
"""A shape whose heads divide the hidden size, as those of Qwen3 1.7B, 8B and 14B do; 0.6B, 4B and 32B do not."""

PROMPTS = ("class Parser:\n    def ", "The following example shows how the module is used to")


def environment(folder: Path) -> Path:
    """The Python of Optimum's environment, made where it is missing; torch first, so that nothing moves its version."""
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for count in range(1, len(PINS) + 1):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PINS[:count]], check=True)
        done.touch()
    return python


def compare(found: dict[str, Any], expected: list[list[int]]) -> str:
    """An outcome in a word: same tokens, where they part, or the error."""
    if "error" in found:
        return str(found["error"])
    parts = []
    for row, tokens in zip(found["tokens"], expected, strict=True):
        index = next((i for i, (a, b) in enumerate(zip(row, tokens, strict=True)) if a != b), None)
        parts.append("same tokens" if index is None else f"differs from token {index}")
    return ", ".join(parts)


def check(artifact: Path, python: Path, new_tokens: int) -> dict[str, Any]:
    """Outcome of every way of generating, and of the tokenizer."""
    params = SamplingParams(max_new_tokens=new_tokens, temperature=0.0, ignore_eos=True)
    with Engine.open(artifact) as engine:
        first, second = (engine.tokenizer.encode(text) for text in PROMPTS)
        assert len(first) < len(second)
        prompts = [first, second, second[: len(first)]]
        results = engine.generate(prompts, params)
        assert isinstance(results, list)
        one, two, cut = (list(result.token_ids) for result in results)
        texts = [engine.tokenizer.encode(text) for text in TEXTS]
    asked = {"artifact": str(artifact), "prompts": [first, second], "new_tokens": new_tokens, "texts": TEXTS}
    found = run([python, HERE / "interop" / "optimum_child.py", json.dumps(asked)]).result
    return {
        "packages": found["packages"],
        "as it is": compare(found["as it is"], [one]),
        "head size set": compare(found["one prompt"], [one]),
        "batch of one length": compare(found["batch of one length"], [one, cut]),
        "batch of two lengths": compare(found["batch of two lengths"], [one, two]),
        "io binding": compare(found["io binding"], [one]),
        "tokenizer": "same ids" if found["tokenizer"] == texts else "other ids",
    }


def own_artifacts(folder: Path) -> dict[str, Path]:
    """The tiny checkpoint in three precisions, and a random one whose heads divide its hidden size."""
    found = {}
    for precision in ("fp32", "int8", "int4"):
        found[f"tiny, {precision}"] = folder / precision
        export(tiny_checkpoint(), folder / precision, ExportOptions(precision=precision))
    square = folder / "square-checkpoint"
    config = published_config("qwen3-0.6b", layers=3) | SQUARE
    write_random_checkpoint(square, config, shard_bytes=1 << 30, dtype=Dtype.BF16, seed=0, tokenizer=None)
    found["heads divide, fp32"] = folder / "square"
    export(square, folder / "square", ExportOptions(precision="fp32"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifacts", nargs="*", type=Path, help="artifact folders (the tiny checkpoint's by default)")
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv-optimum", help="folder of the environment")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = parser.parse_args()
    python = environment(options.environment)
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        artifacts = {path.name: path for path in options.artifacts} or own_artifacts(Path(folder))
        for name, path in artifacts.items():
            try:
                results[name] = check(path, python, options.new_tokens)
            except RuntimeError as error:
                results[name] = {"as it is": f"does not load: {error}"}
    packages = None
    for found in results.values():
        packages = found.pop("packages", packages)
    print("packages:", packages)
    rows = [
        {"artifact": name, "way": way, "outcome": outcome}
        for name, ways in results.items()
        for way, outcome in ways.items()
    ]
    show(rows, dict.fromkeys(("artifact", "way", "outcome")))
    save(options.json, {"packages": packages, "outcome": results})


if __name__ == "__main__":
    main()
