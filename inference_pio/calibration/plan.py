"""What is decided before a calibration starts: architecture, recipe, formats, memory."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import onnx_ir as ir

from inference_pio.artifact.printable import printable
from inference_pio.calibration.examples import EXAMPLE
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

BASE_BYTES = 180 << 20
"""Interpreter, numpy, onnx, ONNX Runtime and the graph itself."""
LAYER_COPIES = 3.5
"""float32 copies of a layer's weights at the peak: as read, smoothed, rounded, and what rounding works on."""
STATIC_COPIES = 0.6
"""More of them where static steps take a second pass."""

_LAYER = re.compile(r"\.layers\.(?P<layer>\d+)\.(?:.*\.experts\.(?P<expert>\d+)\.)?")


@dataclass(frozen=True)
class CalibrationPlan:
    """The decisions of one calibration."""

    architecture: ModuleType
    spec: DecoderSpec
    recipe: Recipe
    options: CalibrationOptions
    threads: int
    largest_layer: int
    largest_expert: int
    """Elements of the largest expert; experts come one at a time and are not part of `largest_layer`."""
    expert_codes: int
    """Bytes of the codes of all experts of a layer, which are kept until the layer is done."""
    widest_gram: int
    """Columns of the widest weight that second-order rounding works on, 0 for none."""

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
        options, spec = self.options, self.spec
        by_head = spec.heads * (spec.mla.nope_dim + spec.mla.kv_rank) if spec.mla and self.static_head_products else 0
        kept = 4 * (spec.heads * spec.head_dim + 3 * spec.hidden_size + spec.intermediate_size + by_head) * 600
        activations = 4 * options.length * (6 * spec.hidden_size + 4 * spec.intermediate_size)
        attention = 4 * spec.heads * options.length**2
        gram = self.widest_gram**2 * (24 if self.widest_gram <= 4096 else 12)
        weights = (LAYER_COPIES + self.static * STATIC_COPIES) * 4 * max(self.largest_layer, self.largest_expert)
        decoder = weights + self.expert_codes + kept + 2 * activations + attention + gram
        return int(BASE_BYTES + max(decoder, self._tower_memory()))

    def _tower_memory(self) -> int:
        """Bytes for a block of the vision tower and an image of the largest size; see `scenes.SceneReader`."""
        vision = self.spec.vision
        if vision is None:
            return 0
        patches = max(self.options.length // 2, 1) * vision.merge_size**2
        weights = 4 * (4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size)
        merger = 4 * vision.merged_size * (vision.merged_size + self.spec.hidden_size)
        activations = 4 * patches * (8 * vision.hidden_size + 3 * vision.intermediate_size + 3 * vision.patch_values)
        return 2 * max(weights, merger) + activations + 8 * vision.heads * patches**2


def plan_calibration(checkpoint: Checkpoint, options: CalibrationOptions) -> CalibrationPlan:
    """Settle every choice; raises BadInputError for what does not fit together and ResourceLimitError for memory."""
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
    needed_sizes = _sizes(checkpoint, recipe, spec, options.switches.second_order)
    plan = CalibrationPlan(architecture, spec, recipe, options, threads, *needed_sizes)
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


def _sizes(checkpoint: Checkpoint, recipe: Recipe, spec: DecoderSpec, second_order: bool) -> tuple[int, int, int, int]:
    """`largest_layer`, `largest_expert`, `expert_codes` and `widest_gram` of a plan."""
    layers: Counter[str] = Counter()
    experts: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    widest = 0
    for name, info in checkpoint.tensors.items():
        found = _LAYER.search(name)
        if found is None:
            continue
        size, chosen = math.prod(info.shape), recipe.format_of(name, spec)
        if found["expert"] is None:
            layers[found["layer"]] += size
        else:
            experts[found[0]] += size
            codes[found["layer"]] += size * chosen.bits // 8 if chosen.quantized else 0
        if len(info.shape) == 2 and second_order and chosen.bits == 4:
            widest = max(widest, info.shape[1])
    largest_layer, largest_expert, most_codes = (max(found.values(), default=0) for found in (layers, experts, codes))
    return largest_layer, largest_expert, most_codes, widest
