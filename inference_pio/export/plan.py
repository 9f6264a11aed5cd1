"""Everything that is decided before an export starts: architecture, target, recipe, context, memory and disk."""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import onnx_ir as ir

from inference_pio.calibration.recipes import Recipe, find_recipe
from inference_pio.calibration.result import Calibration
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError, ResourceLimitError
from inference_pio.export.options import ExportOptions
from inference_pio.export.preprocessor_files import check_preprocessors
from inference_pio.export.side_bytes import IN_MEMORY
from inference_pio.export.tokenizer_files import check_tokenizer
from inference_pio.export.weight_writer import data_bytes
from inference_pio.graphs.architectures import read_decoder
from inference_pio.graphs.formats import Activations
from inference_pio.graphs.hardware import AUTO
from inference_pio.graphs.hardware.hardware import Hardware
from inference_pio.graphs.rewrites.rewrite import LoweringContext
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.graphs.targets import find_pair
from inference_pio.graphs.targets.target import Target
from inference_pio.graphs.weights import CHUNK_ELEMENTS

KV_CACHES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
"""What `--kv-cache` calls the type of activations, which the cache has unless it is int8."""

COMPUTE = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
"""Of a recipe, the type of activations and cache."""

BASE_BYTES = 100 << 20
"""Interpreter, numpy, onnx and the graph itself."""

OTHER_FILES_BYTES = 32 << 20
"""Graph, tokenizer and configuration."""

CHUNK_COPIES = 5
"""float32 copies of a row chunk that are alive at once in one thread while it is quantized."""


@dataclass(frozen=True)
class ExportPlan:
    """The decisions of one export."""

    architecture: ModuleType
    spec: DecoderSpec
    target: Target
    hardware: Hardware
    recipe: Recipe
    context_length: int
    threads: int
    calibration: Calibration | None = None
    int8_cache: bool = False
    block_layers: int | None = None

    def lowering(self) -> LoweringContext:
        """What the rewrites need to know; raises BadInputError when a calibration lacks the cache's scales."""
        scales = None
        if self.int8_cache:
            assert self.calibration is not None  # checked before
            scales = self.calibration.kv_scales(self.spec.layers)
        return LoweringContext(
            self.spec,
            lambda tensor: self.recipe.format_of(tensor, self.spec),
            self.context_length,
            self.calibration if self.recipe.calibrated else None,
            scales,
            self._head_step(),
            compute=COMPUTE[self.recipe.compute],
        )

    def _head_step(self) -> float | None:
        """The calibrated step of a static head; raises BadInputError when it was measured behind other layers."""
        if self.calibration is None or self.recipe.edges.activations is not Activations.STATIC:
            return None
        return self.calibration.head_step(self.spec.layers)


@dataclass(frozen=True)
class Estimate:
    """Expected peak of resident memory, size of the weights and of the whole result, in bytes."""

    peak_memory: int
    weights: int
    disk: int


def plan_export(checkpoint: Checkpoint, options: ExportOptions, calibration: Calibration | None = None) -> ExportPlan:
    """Read the configuration and settle every choice; raises BadInputError for what does not fit together."""
    target, hardware = find_pair(options.target, options.hardware)
    recipe = find_recipe(options.precision, target.key)
    if options.block_size is not None:
        recipe = recipe.with_block_size(options.block_size)
    check_overrides(recipe, checkpoint.tensors)
    check_kv_cache(checkpoint, options)
    architecture, spec = read_decoder(checkpoint, options.ignore_config_keys, options.layers)
    check_tokenizer(checkpoint, spec.vocab_size)
    check_preprocessors(checkpoint, spec.vision)
    context = check_context_length(spec, options.context_length, target.default_context)
    threads = os.cpu_count() or 1 if options.threads is None else options.threads
    if threads < 1:
        raise BadInputError(f"--threads must be at least 1, not {threads}")
    if calibration is not None:
        calibration.check_source(checkpoint, spec.layers)
        if options.kv_cache == "int8" and spec.vision is not None and not calibration.shows_images:
            raise BadInputError(
                f"{calibration.folder} was calibrated on text alone, and its steps would clip the keys and values of "
                "images: calibrate on images too, or leave --kv-cache int8 out"
            )
        recipe = recipe.with_exceptions(calibration.exceptions)
    return ExportPlan(
        architecture,
        spec,
        target,
        hardware,
        recipe,
        context,
        threads,
        calibration,
        options.kv_cache == "int8",
        options.block_layers,
    )


def check_kv_cache(checkpoint: Checkpoint, options: ExportOptions) -> None:
    """Raise BadInputError for a cache that the target, its operators or the model do not allow."""
    target, _ = find_pair(options.target, options.hardware)
    recipe = find_recipe(options.precision, target.key)
    known = kv_caches(target, recipe)
    if options.kv_cache not in (AUTO, *known):
        raise BadInputError(
            f"--kv-cache {options.kv_cache} is not available on {target.key} with --precision {recipe.name}: use "
            f"{' or '.join(known)}"
        )
    if options.kv_cache == "int8":
        _, spec = read_decoder(checkpoint, options.ignore_config_keys, options.layers)
        check_int8_cache(spec, options.target)


def kv_caches(target: Target, recipe: Recipe) -> list[str]:
    """What `--kv-cache` may be, `auto` first: the type of activations, and int8 where the target has it."""
    return [KV_CACHES[recipe.compute], *(kind for kind in target.kv_caches if kind == "int8")]


def has_int8_cache(spec: DecoderSpec) -> bool:
    """Whether a model's cache can be int8."""
    return spec.mla is None


def check_int8_cache(spec: DecoderSpec, target: str) -> None:
    """Raise BadInputError for a model whose cache cannot be int8."""
    if not has_int8_cache(spec):
        raise BadInputError(
            f"--kv-cache int8 is not available for {spec.model_type}: it caches latents, which no operator of "
            f"{target} reads as int8: leave it out (a latent is small already)"
        )


def check_overrides(recipe: Recipe, tensors: Collection[str]) -> None:
    """Raise BadInputError for a pattern of a recipe that fits none of these names of tensors."""
    for pattern, _ in recipe.overrides:
        if not fnmatch.filter(tensors, pattern):
            raise BadInputError(
                f"recipe {recipe.name}: the pattern '{pattern}' fits no tensor of the checkpoint: names look like "
                f"'{next(iter(tensors), '')}'"
            )


def check_context_length(spec: DecoderSpec, asked: int | None, default: int | None = None) -> int:
    """The context asked for, by default the target's or the model's own.

    Raises BadInputError for one that the model lacks.
    """
    if asked is None:
        return min(spec.context_length, default or spec.context_length)
    if not 1 <= asked <= spec.context_length:
        raise BadInputError(
            f"--context-length {asked} is outside 1 to {spec.context_length}, the positions the model was made for"
        )
    return asked


def estimate(graphs: Collection[ir.Graph], threads: int) -> Estimate:
    """Memory and disk that writing the weights of lowered `graphs` takes."""
    chunks = (threads + 2) * CHUNK_COPIES * CHUNK_ELEMENTS * 4
    weights = sum(map(data_bytes, graphs))
    return Estimate(BASE_BYTES + chunks + IN_MEMORY, weights, weights + OTHER_FILES_BYTES)


def fit_resources(
    graphs: Collection[ir.Graph], plan: ExportPlan, out: Path, max_memory: int | None
) -> tuple[Estimate, int]:
    """The estimate and the number of threads that fits `max_memory`; raises ResourceLimitError with the need."""
    threads = plan.threads
    needed = estimate(graphs, threads)
    while max_memory is not None and needed.peak_memory > max_memory and threads > 1:
        threads -= 1
        needed = estimate(graphs, threads)
    if max_memory is not None and needed.peak_memory > max_memory:
        raise ResourceLimitError(
            f"this export needs {_mb(needed.peak_memory)} of memory and --max-memory allows {_mb(max_memory)}: "
            f"raise it to at least {_mb(needed.peak_memory)}"
        )
    folder = next(p for p in (out.parent, *out.parent.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    if needed.disk > free:
        raise ResourceLimitError(
            f"the artifact needs {_mb(needed.disk)} of disk and {folder} has {_mb(free)}: free some space or choose "
            "another -o"
        )
    return needed, threads


def _mb(size: int) -> str:
    return f"{-(-size // 1_000_000)}MB"
