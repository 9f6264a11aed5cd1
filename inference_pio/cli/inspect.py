"""`inference-pio inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.jsonfile import read_json_object
from inference_pio.artifact.manifest import Manifest, VisionFacts
from inference_pio.cli.common import FOLDER, json_option, size_text, visible, write_json
from inference_pio.cli.lint import judge
from inference_pio.errors import BadInputError
from inference_pio.runtime.generation_defaults import not_implemented


@click.command("inspect")
@click.argument("artifact", type=FOLDER)
@click.option("--check", is_flag=True, help="Hash every file, the weights too.")
@click.option(
    "--lint",
    "dialect",
    metavar="DIALECT",
    help="Judge ARTIFACT, here also a .onnx file, by the rules of trt85, modern or ort-1.20.2; 3 when it is refused.",
)
@json_option
def command(artifact: Path, check: bool, dialect: str | None, json_out: str | None) -> int:
    """Show what ARTIFACT is: model, recipe, graph, sizes, accuracy."""
    if dialect is not None:
        if check:
            raise BadInputError("--check hashes an artifact and --lint judges its graphs: ask for one at a time")
        return judge(artifact, dialect, json_out)
    opened = Artifact.open(artifact)
    if check:
        opened.check_large_files(None)
    facts = _facts(opened)
    if json_out is not None:
        write_json(facts, json_out)
    else:
        _show(opened, facts, check)
    return 0


def _facts(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest.to_dict()
    graph = manifest["graphs"][0]
    return {
        "manifest": manifest,
        "ops": manifest["requires"]["operators"],
        "inputs": graph["inputs"],
        "outputs": graph["outputs"],
        "bytes": {name: entry["size"] for name, entry in manifest["files"].items()},
        "unlisted_files": artifact.unlisted_files(),
        "ignored_generation_fields": list(not_implemented(read_json_object(artifact.path / "generation_config.json"))),
    }


def _show(artifact: Artifact, facts: dict[str, Any], checked: bool) -> None:
    manifest = artifact.manifest
    model, recipe, cache = manifest.model, manifest.recipe, manifest.memory.cache_bytes_per_token
    accuracy = manifest.accuracy
    formats = ", ".join(f"{kind} {form}" for kind, form in {**recipe.weights, **recipe.overrides}.items())
    rows = {
        "model": f"{model.model_type}, {model.parameters:,} parameters, {model.layers} layers",
        "source": manifest.source.name,
        "context": f"{model.context_length:,} tokens, {size_text(cache)} of {manifest.cache.dtype} cache per token",
        "target": f"{manifest.target_key} on {manifest.hardware}",
        "recipe": f"{recipe.name} ({formats})",
        "kernels": _kernels(manifest),
        "batches": f"padded on the {manifest.contract.padding}",
        "images": "none" if manifest.vision is None else _images(manifest.vision),
        "accuracy": "not recorded" if accuracy is None else _accuracy(accuracy.gate, accuracy.passed, accuracy.metrics),
        "size": size_text(sum(facts["bytes"].values())),
        "operators": ", ".join(f"{name.split('::')[1]} x{count}" for name, count in facts["ops"].items()),
        "fingerprint": manifest.fingerprint,
        "files": "all hashes match" if checked else "small files match; --check hashes the weights too",
    }
    if facts["unlisted_files"]:
        rows["not listed"] = ", ".join(facts["unlisted_files"])
    if facts["ignored_generation_fields"]:
        rows["ignored"] = f"{', '.join(facts['ignored_generation_fields'])} of generation_config.json"
    for name, text in rows.items():
        click.echo(f"{name:<12} {visible(text)}")


def _images(vision: VisionFacts) -> str:
    return f"a token per {vision.patch_size * vision.merge_size} x {vision.patch_size * vision.merge_size} pixels"


def _accuracy(gate: str, passed: bool, metrics: dict[str, float | None]) -> str:
    kl = metrics.get("kl_mean")
    return f"gate {gate} {'passed' if passed else 'FAILED'}" + (f", mean KL {kl:.2e}" if kl is not None else "")


def _kernels(manifest: Manifest) -> str:
    if manifest.cache.dtype in ("float16", "bfloat16"):
        return f"compute in {manifest.cache.dtype}"
    return "round activations to int8" if manifest.contract.rounds_activations else "keep activations exact"
