"""Builds an artifact's parts with TensorRT, runs them, and compares with the same files on ONNX Runtime.

Prints per engine: seconds to build and size; then the largest difference of logits, agreement of the top token, and
tokens per second of prefill and decode on both sides; of a vision tower the same of an image's features. Needs a GPU.
README.md in this folder has the commands.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from inference_pio.artifact.bundle import Artifact
from inference_pio.build.options import BuildOptions
from inference_pio.build.pipeline import build
from inference_pio.errors import InferencePioError
from inference_pio.runtime import Engine, EngineConfig, SamplingParams


def main(arguments: list[str]) -> int:
    """Run, print a table, write JSON; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, help="an artifact for target tensorrt")
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="keep the engines here; a temporary folder by default")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            found = measure(chosen, chosen.cache or Path(scratch))
    except InferencePioError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    show(found)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1), "utf-8")
    return 0


def measure(chosen: argparse.Namespace, cache: Path) -> dict[str, Any]:
    """Build, compare and time."""
    options = BuildOptions(max_context=chosen.prompt_tokens + chosen.new_tokens + 1, device=chosen.device)
    report = build(Artifact.open(chosen.artifact), options, cache)
    sides: dict[str, dict[str, Any]] = {}
    logits, features = {}, {}
    for backend in ("chain", "tensorrt"):
        config = EngineConfig(backend=backend, cache_dir=cache, prefix_cache_bytes=0)
        with Engine.open(chosen.artifact, config) as engine:
            ids = np.random.default_rng(0).integers(0, engine.manifest.model.vocab_size, chosen.prompt_tokens).tolist()
            logits[backend] = engine.logits(ids)
            sides[backend] = speed(engine, ids, chosen.new_tokens, chosen.repeat)
            if engine.vision is not None:
                features[backend], sides[backend]["image_s"] = images(engine, chosen.repeat)
    ours, theirs = logits["tensorrt"], logits["chain"]
    return {
        "gpu": report.gpu,
        "tensorrt": report.tensorrt,
        "engines": [{"graph": e.graph, "bytes": e.size, "build_s": e.seconds} for e in report.engines],
        "max_logit_difference": float(np.abs(ours - theirs).max()),
        "top1_agreement": float((ours.argmax(-1) == theirs.argmax(-1)).mean()),
        "max_feature_difference": float(np.abs(np.subtract(*features.values())).max()) if features else None,
        "speed": sides,
    }


def speed(engine: Engine, ids: list[int], new_tokens: int, repeat: int) -> dict[str, float]:
    """Medians over runs after a first one: tokens per second of prefill, and of the steps after the first token."""
    params = SamplingParams(max_new_tokens=new_tokens, temperature=0, ignore_eos=True)
    prefill, decode = [], []
    for _ in range(repeat + 1):
        started = time.perf_counter()
        times = [time.perf_counter() for _ in engine.stream(ids, params)]
        prefill.append(len(ids) / (times[0] - started))
        decode.append((new_tokens - 1) / (times[-1] - times[0]))
    return {
        "prefill_tokens_per_s": float(np.median(prefill[1:])),
        "decode_tokens_per_s": float(np.median(decode[1:])),
    }


def images(engine: Engine, repeat: int) -> tuple[np.ndarray, float]:
    """Features of a random image of 256 x 256 pixels, and the median seconds for images of that size after a first."""
    vision, seconds = engine.vision, []
    assert vision is not None
    for seed in range(repeat, -1, -1):
        pixels = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        patches = vision.prepared.image(pixels, "image 0")
        started = time.perf_counter()
        found = vision.encoder.features(patches).layers
        seconds.append(time.perf_counter() - started)
    return found, float(np.median(seconds[1:]))


def show(found: dict[str, Any]) -> None:
    """The figures as text."""
    print(f"{found['gpu']}, TensorRT {found['tensorrt']}")
    for engine in found["engines"]:
        print(f"{engine['graph']:<16} {engine['bytes'] / 1e6:9.1f} MB  built in {engine['build_s']:.1f} s")
    print(f"largest logit difference {found['max_logit_difference']:.3g}, top token {found['top1_agreement']:.2%}")
    if found["max_feature_difference"] is not None:
        seconds = ", ".join(f"{backend} {figures['image_s']:.3f} s" for backend, figures in found["speed"].items())
        print(f"largest difference of an image's features {found['max_feature_difference']:.3g}; {seconds}")
    for backend, figures in found["speed"].items():
        prefill, decode = figures["prefill_tokens_per_s"], figures["decode_tokens_per_s"]
        print(f"{backend:<10} prefill {prefill:9.1f} tokens/s  decode {decode:8.1f} tokens/s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
