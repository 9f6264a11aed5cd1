"""What an export says of itself: manifest and build report."""

from __future__ import annotations

import math
import os
import platform
import re
from collections import Counter
from dataclasses import asdict, fields
from importlib.metadata import version

import onnx_ir as ir

from inference_pio.artifact.jsonfile import json_bytes
from inference_pio.artifact.manifest import (
    CacheSpec,
    Contract,
    FileHash,
    GraphFacts,
    Manifest,
    Memory,
    ModelFacts,
    PositionSpec,
    RecipeFacts,
    Requires,
    Source,
    TensorFacts,
    VisionFacts,
    fingerprint,
)
from inference_pio.artifact.process import peak_rss_bytes
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.checkpoint.config import decoder_config
from inference_pio.export.graphs import Graphs
from inference_pio.export.plan import Estimate, ExportPlan
from inference_pio.graphs.blocks.rope import RopeSpec
from inference_pio.graphs.parts import Part
from inference_pio.graphs.rewrites.linear_kernels import rounds_activations
from inference_pio.graphs.spec import DecoderSpec, VisionSpec
from inference_pio.graphs.targets.target import RewriteReport
from inference_pio.version import __version__

NOT_IN_FINGERPRINT = re.compile(
    r"(licen[sc]e|notice|copying|use_policy).*|genai_config\.json|config\.json|calibration\.json", re.IGNORECASE
)
ROUNDING = {"MatMulInteger", "MatMulIntegerToFloat", "QuantizeLinear"}
"""Operators whose activations are always rounded, by themselves or by the nodes before them."""
DTYPES = {
    ir.DataType.BOOL: "bool",
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.INT8: "int8",
    ir.DataType.INT64: "int64",
    ir.DataType.INT32: "int32",
}


def make_manifest(
    plan: ExportPlan,
    source: Checkpoint,
    source_files: dict[str, FileHash],
    graphs: Graphs,
    files: dict[str, FileHash],
) -> Manifest:
    """The manifest of lowered graphs whose other files are all written."""
    spec, target = plan.spec, plan.target
    dtype = "int8" if plan.int8_cache else plan.recipe.compute
    cache = CacheSpec(spec.layers, spec.kv_heads, spec.head_dim, dtype, list(spec.cache_kinds))
    table = graphs.table_facts()
    positions = _positions(spec.rope) if table is not None or spec.rope.sections is not None else None
    vision = _vision(spec.vision)
    hashed = {n: f for n, f in files.items() if not NOT_IN_FINGERPRINT.fullmatch(n)}
    operators = [node for part in graphs.parts for node in part.model.graph.all_nodes()]
    rounds = any(node.op_type in ROUNDING or rounds_activations(node) for node in operators)
    return Manifest(
        producer=f"inference-pio {__version__}",
        fingerprint=fingerprint(hashed, cache, positions, vision, table),
        model=ModelFacts(
            spec.model_type,
            _parameters(source, spec),
            spec.layers,
            spec.hidden_size,
            spec.vocab_size,
            plan.context_length,
        ),
        source=Source(
            _text(_source_name(source)),
            source_files,
            spec.layers if spec.layers != decoder_config(source.config)["num_hidden_layers"] else None,
        ),
        target=target.name,
        dialect=target.dialect,
        hardware=plan.hardware.name,
        recipe=RecipeFacts(
            _text(plan.recipe.name),
            plan.recipe.formats(spec),
            {pattern: str(chosen) for pattern, chosen in plan.recipe.overrides},
        ),
        requires=Requires(
            dict(target.requires) | {package: least for part in graphs.parts for package, least in part.requires},
            list(plan.hardware.cpu_classes),
            dict(Counter(f"{node.domain or 'ai.onnx'}::{node.op_type}" for node in operators)),
        ),
        graphs=[*map(_graph, graphs.parts)],
        cache=cache,
        contract=Contract(
            padding=target.padding,
            compact_cache=target.compact_cache,
            shared_cache_buffer=target.shared_cache_buffer,
            rounds_activations=rounds or plan.int8_cache or plan.recipe.compute != "float32",
        ),
        memory=Memory(
            sum(files[name].size for name in graphs.decoder_files), cache.bytes_per_token, _bytes_per_patch(spec)
        ),
        accuracy=None,
        files=dict(sorted(files.items())),
        positions=positions,
        vision=vision,
        table=table,
    )


def _graph(part: Part) -> GraphFacts:
    inputs, outputs = part.model.graph.inputs, part.model.graph.outputs
    layers = list(part.layers)
    return GraphFacts(part.role, "any", part.file, [*map(_tensor, inputs)], [*map(_tensor, outputs)], layers)


def _positions(rope: RopeSpec) -> PositionSpec:
    return PositionSpec(list(rope.inverse_frequencies), list(rope.streams), rope.scaling)


def _vision(vision: VisionSpec | None) -> VisionFacts | None:
    if vision is None:
        return None
    return VisionFacts(**{entry.name: getattr(vision, entry.name) for entry in fields(VisionFacts)})


def _bytes_per_patch(spec: DecoderSpec) -> int:
    """What a run of the vision tower takes per patch: a block's activations, and the features of its token twice.

    The factors are measured on ONNX Runtime's CPU kernels, whose attention does not hold all scores at once.
    """
    vision = spec.vision
    if vision is None:
        return 0
    features = 2 * (1 + len(vision.deepstack)) * spec.hidden_size // vision.merge_size**2
    return 4 * (11 * vision.hidden_size + 4 * vision.intermediate_size + features)


def _text(name: str) -> str:
    """A file's name as valid Unicode."""
    return os.fsencode(name).decode("utf-8", "replace")


def _source_name(source: Checkpoint) -> str:
    """The hub id of a snapshot in the Hugging Face cache, else the name of the checkpoint's folder."""
    cached = re.fullmatch(r"models--(.+)", source.path.parent.parent.name)
    if cached and source.path.parent.name == "snapshots":
        return cached[1].replace("--", "/")
    return source.path.resolve().name


def _parameters(source: Checkpoint, spec: DecoderSpec) -> int:
    dropped = re.compile(re.escape(spec.prefix) + r"\.layers\.(\d+)\.")
    return sum(
        math.prod(info.shape)
        for name, info in source.tensors.items()
        if not ((match := dropped.match(name)) and int(match[1]) >= spec.layers)
    )


def _tensor(value: ir.Value) -> TensorFacts:
    assert value.shape is not None and value.dtype is not None
    shape = [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape]
    return TensorFacts(str(value.name), DTYPES[value.dtype], shape)


def build_report(
    needed: Estimate, threads: int, rewrites: list[RewriteReport], graphs: Graphs, seconds: float
) -> bytes:
    """How the export went on this machine: times, memory, matches; not part of the fingerprint."""
    return json_bytes(
        {
            "seconds": round(seconds, 3),
            "expected_peak_bytes": needed.peak_memory,
            "process_peak_bytes": peak_rss_bytes(),
            "threads": threads,
            "nodes": sum(len(list(part.model.graph)) for part in graphs.parts),
            "rewrites": [asdict(report) for report in rewrites],
            "machine": platform.machine(),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in ("numpy", "onnx", "onnx-ir", "tokenizers")},
        }
    )
