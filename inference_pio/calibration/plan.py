"""What is decided before a calibration starts: architecture, recipe, formats, memory."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import onnx_ir as ir

from inference_pio.calibration.options import CalibrationOptions
from inference_pio.calibration.recipes import Recipe, find_recipe
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError, ResourceLimitError
from inference_pio.graphs.architectures import declare_cut, read_decoder
from inference_pio.graphs.formats import WeightFormat
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.graphs.targets import find_target

BASE_BYTES = 180 << 20
"""Interpreter, numpy, onnx, ONNX Runtime and the graph itself."""
LAYER_COPIES = 3.5
"""float32 copies of a layer's weights at the peak: as read, smoothed, rounded, and what rounding works on."""


@dataclass(frozen=True)
class CalibrationPlan:
    """The decisions of one calibration."""

    architecture: ModuleType
    spec: DecoderSpec
    recipe: Recipe
    options: CalibrationOptions
    threads: int
    largest_layer: int
    widest_gram: int
    """Columns of the widest weight that second-order rounding works on, 0 for none."""

    def format_of(self, tensor: str) -> WeightFormat:
        """The recipe's format of a checkpoint tensor."""
        return self.recipe.format_of(tensor, self.spec)

    def needs_gram(self, linears: Sequence[str]) -> bool:
        """Whether second-order rounding will ask for X^T X of the input of these linear layers."""
        return self.options.switches.second_order and any(self.format_of(name).bits == 4 for name in linears)

    def build(self, checkpoint: Checkpoint) -> ir.Model:
        """The canonical graph with lazy weights."""
        source = WeightSource(checkpoint)
        declare_cut(source, checkpoint, self.spec)
        model: ir.Model = self.architecture.build(self.spec, source)
        return model

    def expected_memory(self) -> int:
        """Expected peak of resident memory in bytes."""
        options, spec = self.options, self.spec
        kept = 4 * (spec.heads * spec.head_dim + 3 * spec.hidden_size + spec.intermediate_size) * 600
        activations = 4 * options.length * (6 * spec.hidden_size + 4 * spec.intermediate_size)
        attention = 4 * spec.heads * options.length**2
        gram = self.widest_gram**2 * (24 if self.widest_gram <= 4096 else 12)
        return int(BASE_BYTES + LAYER_COPIES * 4 * self.largest_layer + kept + 2 * activations + attention + gram)


def plan_calibration(checkpoint: Checkpoint, options: CalibrationOptions) -> CalibrationPlan:
    """Settle every choice; raises BadInputError for what does not fit together and ResourceLimitError for memory."""
    recipe = find_recipe(options.precision, find_target(options.target).name)
    if options.block_size is not None:
        recipe = recipe.with_block_size(options.block_size)
    architecture, spec = read_decoder(checkpoint, options.ignore_config_keys, options.layers)
    threads = os.cpu_count() or 1 if options.threads is None else options.threads
    if threads < 1:
        raise BadInputError(f"--threads must be at least 1, not {threads}")
    if options.length > spec.context_length:
        raise BadInputError(
            f"samples of {options.length} tokens exceed the model's context of {spec.context_length}: use shorter ones"
        )
    sizes: dict[str, int] = {}
    widest = 0
    for name, info in checkpoint.tensors.items():
        if ".layers." in name:
            layer = name.split(".layers.")[1].split(".")[0]
            sizes[layer] = sizes.get(layer, 0) + math.prod(info.shape)
            if len(info.shape) == 2 and options.switches.second_order and recipe.format_of(name, spec).bits == 4:
                widest = max(widest, info.shape[-1])
    plan = CalibrationPlan(architecture, spec, recipe, options, threads, max(sizes.values(), default=0), widest)
    needed = plan.expected_memory()
    if options.max_memory is not None and needed > options.max_memory:
        raise ResourceLimitError(
            f"this calibration needs {-(-needed // 10**6)}MB of memory and --max-memory allows "
            f"{options.max_memory // 10**6}MB: raise it, or use shorter samples"
        )
    return plan
