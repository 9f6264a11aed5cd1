"""What is decided before a calibration starts: architecture, recipe, formats, memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import onnx_ir as ir

from inference_pio.artifact.printable import printable
from inference_pio.calibration.examples import EXAMPLE
from inference_pio.calibration.memory import LayerSizes, expected_memory, sizes_of
from inference_pio.calibration.options import CalibrationOptions
from inference_pio.calibration.recipes import Recipe, find_recipe
from inference_pio.calibration.text import CalibrationText
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError, ResourceLimitError
from inference_pio.graphs.architectures import build_graphs, declare_cut, read_decoder
from inference_pio.graphs.formats import Activations, WeightFormat
from inference_pio.graphs.rewrites.static_head_products import fits_groups
from inference_pio.graphs.source import WeightSource
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.graphs.targets import find_pair
from inference_pio.runtime.values import checked_int


@dataclass(frozen=True)
class CalibrationPlan:
    """The decisions of one calibration."""

    architecture: ModuleType
    spec: DecoderSpec
    recipe: Recipe
    options: CalibrationOptions
    threads: int
    sizes: tuple[LayerSizes, ...]

    def format_of(self, tensor: str) -> WeightFormat:
        """The recipe's format of a checkpoint tensor."""
        return self.recipe.format_of(tensor, self.spec)

    def needs_gram(self, linears: Sequence[str]) -> bool:
        """Whether second-order rounding will ask for X^T X of the input of these linear layers."""
        return self.options.switches.second_order and any(self.format_of(name).bits == 4 for name in linears)

    @property
    def static(self) -> bool:
        """Whether any input has a step that is fixed beforehand."""
        return is_static(self.recipe)

    @property
    def static_head(self) -> bool:
        """Whether the head has a static input."""
        return self.recipe.calibrated and self.recipe.edges.activations is Activations.STATIC

    @property
    def static_head_products(self) -> bool:
        """Whether products with a weight by head have one: where a target has no blocks, and if the sizes fit."""
        return self.static_head and fits_groups(self.spec)

    def build(self, checkpoint: Checkpoint) -> dict[str, ir.Model]:
        """The canonical graphs with lazy weights, by role."""
        source = WeightSource(checkpoint)
        declare_cut(source, checkpoint, self.spec)
        return build_graphs(self.architecture, self.spec, source)

    def expected_memory(self) -> int:
        """Expected peak of resident memory in bytes."""
        options = self.options
        return expected_memory(self.sizes, self.spec, options.samples, options.length, self.static_head_products)


def plan_calibration(checkpoint: Checkpoint, options: CalibrationOptions) -> CalibrationPlan:
    """Settle every choice; raises BadInputError for what does not fit together and ResourceLimitError for memory."""
    checked_int("samples", options.samples, least=1)
    checked_int("length", options.length, least=1)
    recipe = find_recipe(options.precision, find_pair(options.target, options.hardware)[0].key)
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
    sizes = sizes_of(checkpoint.tensors, recipe, spec, options.switches.second_order)
    plan = CalibrationPlan(architecture, spec, recipe, options, threads, sizes)
    needed = plan.expected_memory()
    if options.max_memory is not None and needed > options.max_memory:
        raise ResourceLimitError(
            f"this calibration needs {-(-needed // 10**6)}MB of memory and --max-memory allows "
            f"{options.max_memory // 10**6}MB: raise it, or use shorter samples"
        )
    return plan


def check_images(plan: CalibrationPlan, text: CalibrationText) -> None:
    """Raise BadInputError where steps for all inputs would be fixed on text alone, and clip what images give."""
    if plan.spec.vision is not None and plan.static and not text.scenes:
        raise BadInputError(
            f"calibration text {printable(text.name)} shows no images, whose inputs the steps of recipe "
            f"{plan.recipe.name} would clip: add lines such as {EXAMPLE}, or use --calibration default"
        )


def is_static(recipe: Recipe) -> bool:
    """Whether any of a recipe's formats has a fixed step for its inputs."""
    formats = (recipe.layers, recipe.edges, *(chosen for _, chosen in recipe.overrides))
    return any(chosen.activations is Activations.STATIC for chosen in formats)
