"""Recipes: which weight is stored in which format. Plain rounding needs no calibration text."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inference_pio.artifact.jsonfile import read_json_object
from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import BF16, BLOCK_SIZES, FP16, FP32, W8A8, W8A8_STATIC, Activations, WeightFormat
from inference_pio.graphs.spec import DecoderSpec


@dataclass(frozen=True)
class Recipe:
    """Formats of the layers' weights and of the edges (token table and head), with exceptions by tensor name.

    `overrides` are (shell pattern over checkpoint tensor names, format); the first that fits wins. A `calibrated`
    recipe needs text. `compute` is the type of activations and cache: float32, float16 or bfloat16.
    """

    name: str
    layers: WeightFormat
    edges: WeightFormat
    overrides: tuple[tuple[str, WeightFormat], ...] = ()
    calibrated: bool = False
    compute: str = "float32"

    def format_of(self, tensor: str, spec: DecoderSpec) -> WeightFormat:
        """The format of the checkpoint tensor called `tensor`."""
        for pattern, chosen in self.overrides:
            if fnmatch.fnmatchcase(tensor, pattern):
                return chosen
        if any(fnmatch.fnmatchcase(tensor, pattern) for pattern in spec.float_tensors):
            return FP32
        chosen = self.edges if tensor in spec.edge_tensors else self.layers
        if any(fnmatch.fnmatchcase(tensor, pattern) for pattern in spec.sensitive_tensors):
            return chosen.wider()
        return chosen

    def formats(self, spec: DecoderSpec) -> dict[str, str]:
        """The formats by kind of tensor, as they are carried out; experts have no integer products."""
        found = {"layers": str(self.layers), "edges": str(self.edges)}
        if spec.moe is not None:
            found["experts"] = str(self.layers.for_experts())
        if spec.sensitive_tensors and self.layers.wider() != self.layers:
            found["sensitive"] = str(self.layers.wider())
        return found

    def rules(self) -> dict[str, Any]:
        """Everything that `format_of` goes by, as JSON: a recipe file of the same name may say something else."""
        overrides = [[pattern, str(chosen)] for pattern, chosen in self.overrides]
        return {"layers": str(self.layers), "edges": str(self.edges), "overrides": overrides}

    def with_exceptions(self, tensors: tuple[str, ...]) -> Recipe:
        """The same recipe with `tensors` kept in what it computes in."""
        kept = {"float32": FP32, "float16": FP16, "bfloat16": BF16}[self.compute]
        return replace(self, overrides=(*((tensor, kept) for tensor in tensors), *self.overrides))

    def with_block_size(self, block_size: int) -> Recipe:
        """The same recipe with another block size for the layers, and for edges of the same width.

        Edges that are wider than the layers keep their large blocks: finer ones would add bytes and hardly any
        accuracy. Raises BadInputError for sizes that no kernel has.
        """
        if block_size not in BLOCK_SIZES:
            sizes = ", ".join(map(str, BLOCK_SIZES))
            raise BadInputError(f"block size {block_size} is not supported: use one of {sizes}")
        if self.layers.integer_product:
            raise BadInputError(f"--block-size has no meaning for recipe {self.name}, which has a scale per channel")
        if not self.layers.quantized:
            raise BadInputError(f"--block-size has no meaning for recipe {self.name}, which quantizes nothing")
        layers = replace(self.layers, block_size=block_size)
        same = self.edges.bits == self.layers.bits
        return replace(self, layers=layers, edges=replace(self.edges, block_size=block_size) if same else self.edges)


_INT8, _INT4 = WeightFormat(8), WeightFormat(4)
_INT4_EXACT = WeightFormat(4, activations=Activations.EXACT)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("fp32", FP32, FP32),
        Recipe("fp16", FP16, FP16),
        Recipe("bf16", BF16, BF16),
        Recipe("int8", _INT8, _INT8),
        Recipe("int4", _INT4, _INT8),
        Recipe("int4-exact", _INT4_EXACT, FP16),
        Recipe("int8-calibrated", _INT8, _INT8, calibrated=True),
        Recipe("int4-calibrated", _INT4, _INT8, calibrated=True),
        Recipe("w8a8", W8A8, _INT8, calibrated=True),
        Recipe("w8a8-static", W8A8_STATIC, _INT8, calibrated=True),
    )
}

SUPPORTED = {
    "ort-cpu": tuple(name for name in RECIPES if name != "bf16"),
    "tensorrt/trt85": ("fp32", "w8a8-static"),
    "tensorrt/modern": ("fp32", "fp16", "w8a8-static"),
    "ort-cuda/sm61": ("fp32", "int4", "int4-calibrated", "w8a8", "w8a8-static"),
    "ort-cuda/modern": ("fp32", "fp16", "bf16", "int8", "int4", "int8-calibrated", "int4-calibrated"),
}
"""Recipes per `Target.key`; a pair that is not here is refused before any work."""


AUTO = {
    "ort-cpu": "w8a8",
    "tensorrt/trt85": "w8a8-static",
    "tensorrt/modern": "w8a8-static",
    "ort-cuda/sm61": "w8a8",
    "ort-cuda/modern": "int8",
}
"""What `auto` means per `Target.key`: the fastest recipe that stays the same model."""

EXACT_BLOCKS = ("ort-cuda/sm61", "ort-cuda/modern")
"""Targets whose blockwise products leave activations as they are."""
INTEGER_EDGES = ("ort-cuda/sm61",)
"""Targets whose blockwise kernels have no 8 bits: token table and head are int8 by rows instead."""
HALF_COMPUTE = {
    "ort-cuda/modern": {"fp32": "float32", "bf16": "bfloat16"},
    "tensorrt/modern": {"fp32": "float32"},
}
"""Targets that compute in float16, and their recipes that do not."""


UNIFORM = ("tensorrt/trt85", "tensorrt/modern")
"""Targets that know no blockwise formats: token table and head take the layers' format too."""


def find_recipe(name_or_file: str, target: str) -> Recipe:
    """The recipe called so, or the one in a JSON file, for the target with the key `target`.

    Raises BadInputError for unknown names and unfit pairs.
    """
    if name_or_file == "auto":
        name_or_file = AUTO[target]
    if name_or_file in RECIPES:
        recipe, base = RECIPES[name_or_file], name_or_file
    elif name_or_file.endswith(".json"):
        recipe, base = _read_recipe(Path(name_or_file))
    else:
        raise BadInputError(
            f"precision '{name_or_file}' is not known: use auto, {', '.join(RECIPES)} or the path of a .json recipe"
        )
    if base not in SUPPORTED[target]:
        raise BadInputError(f"recipe {base} does not run on target {target}: use {', '.join(SUPPORTED[target])}")
    return _fitted(recipe, base, target)


def _fitted(recipe: Recipe, base: str, target: str) -> Recipe:
    """A recipe in the forms that a target has for it."""
    if target in UNIFORM:
        recipe = replace(recipe, edges=recipe.layers)
    if target in INTEGER_EDGES and recipe.edges == _INT8:
        recipe = replace(recipe, edges=W8A8)
    if target in EXACT_BLOCKS:
        overrides = tuple((pattern, chosen.exact()) for pattern, chosen in recipe.overrides)
        recipe = replace(recipe, layers=recipe.layers.exact(), edges=recipe.edges.exact(), overrides=overrides)
    if target in HALF_COMPUTE:
        recipe = replace(recipe, compute=HALF_COMPUTE[target].get(base, "float16"))
    return recipe


def _read_recipe(path: Path) -> tuple[Recipe, str]:
    """A recipe file: {"base": NAME, "block_size": N, "overrides": {"PATTERN": "FORMAT", ...}}."""
    values = read_json_object(path)
    if set(values) - {"base", "block_size", "overrides"} or "base" not in values:
        raise BadInputError(f'recipe {path} must be an object with "base" and perhaps "block_size" and "overrides"')
    base, overrides, block_size = values["base"], values.get("overrides", {}), values.get("block_size")
    if not isinstance(base, str) or base not in RECIPES:
        raise BadInputError(f"recipe {path}: base must be one of {', '.join(RECIPES)}")
    if not isinstance(overrides, dict) or not all(isinstance(v, str) for v in overrides.values()):
        raise BadInputError(f"recipe {path}: overrides must map tensor patterns to formats")
    recipe = RECIPES[base]
    if block_size is not None:
        recipe = recipe.with_block_size(block_size)
    formats = tuple((pattern, WeightFormat.parse(text)) for pattern, text in overrides.items())
    return replace(recipe, name=path.stem, overrides=formats), base
