"""Sizes are those of the published models, and of what an export really writes."""

import math
import sys
from pathlib import Path

import pytest
from random_shapes import published_config

from inference_pio.artifact.bundle import Artifact
from inference_pio.calibration.recipes import RECIPES, SUPPORTED, find_recipe
from inference_pio.checkpoint.checkpoint import read_config
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.graphs import architectures
from inference_pio.planning.plan import PlanOptions
from inference_pio.planning.planner import make_plans
from inference_pio.planning.weights import Part, Product, angle_bytes, layer_contexts, part_sizes, tensor_shapes
from inference_pio.tiny import tiny_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))
from block_cases import LEAST, export_blocks


def sizes_of(config, precision):
    architecture, spec = architectures.read_config(config)
    return part_sizes(tensor_shapes(architecture, spec), spec, find_recipe(precision, "ort-cpu")), spec


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ("qwen3-4b", 4_022_468_096),
        ("qwen3-coder-30b", 30_532_122_624),
        ("qwen3-vl-2b", 2_127_532_032),
        ("glm-4.7-flash", 29_943_393_920),
        ("llama-3.2-1b", 1_235_814_400),
    ],
)
def test_parameters_of_published_models(shape, parameters):
    architecture, spec = architectures.read_config(published_config(shape))
    assert sum(math.prod(s) for s in tensor_shapes(architecture, spec).values()) == parameters


@pytest.mark.parametrize("precision", [name for name in SUPPORTED["ort-cpu"] if not RECIPES[name].calibrated])
@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "glm4_moe_lite", "qwen3_vl"])
def test_an_export_writes_as_many_bytes(tmp_path, family, precision):
    folder = tiny_checkpoint(family)
    sizes, spec = sizes_of(read_config(folder), precision)
    files = export(folder, tmp_path / "out", ExportOptions(precision=precision)).manifest.files
    written = sum(entry.size for name, entry in files.items() if name.endswith(".data"))
    planned = sum(size.stored for size in sizes.values())
    planned -= sizes[Part.TABLE].stored if spec.tied_embeddings else 0
    rotary = 0 if spec.vision or spec.mla else 4 * spec.head_dim
    assert rotary == angle_bytes(spec, find_recipe(precision, "ort-cpu"))
    assert written == pytest.approx(planned + rotary * spec.context_length, rel=0.02)


@pytest.mark.parametrize(
    ("family", "hardware", "precision"),
    [
        ("qwen3", "sm75", "int8"),
        ("qwen3", "sm75", "fp16"),
        ("qwen3", "sm75", "fp32"),
        ("qwen3_moe", "sm75", "int8"),
        ("glm4_moe_lite", "sm75", "int4"),
        ("qwen3_vl", "sm75", "int8"),
        ("qwen3", "sm61", "int4"),
    ],
)
def test_a_plan_for_a_gpu_has_as_many_bytes_as_its_export(tmp_path, family, hardware, precision):
    folder = tiny_checkpoint(family)
    options = ExportOptions(target="ort-cuda", hardware=hardware, precision=precision, context_length=1024)
    files = export(folder, tmp_path / "out", options).manifest.files
    written = sum(entry.size for name, entry in files.items() if name.endswith(".data"))
    asked = PlanOptions(hardware, target="ort-cuda", precision=precision, context_length=1024)
    plan = make_plans(read_config(folder), "tiny", asked)[0]
    planned = sum(place["bytes"] for place in plan.places if place["part"] != "cache")
    assert written == pytest.approx(planned, rel=0.01)


def test_a_plan_for_tensorrt_has_as_many_bytes_as_its_export(tmp_path):
    """Latent attention too is int8 there."""
    folder = tiny_checkpoint("glm4_moe_lite")
    files = Artifact.open(export_blocks(folder, tmp_path / "out", "auto", **LEAST)).manifest.files
    written = sum(entry.size for name, entry in files.items() if name.endswith(".data"))
    plan = make_plans(read_config(folder), "tiny", PlanOptions("sm61", target="tensorrt"))[0]
    planned = sum(place["bytes"] for place in plan.places if place["part"] != "cache")
    assert written == pytest.approx(planned, rel=0.01)


def test_parts_of_experts():
    sizes, spec = sizes_of(published_config("qwen3-coder-30b", 2), "fp32")
    assert list(sizes) == [Part.LAYERS, Part.HEAD, Part.TABLE, Part.EXPERTS]
    experts = 2 * 128 * 3 * 2048 * 768
    assert sizes[Part.EXPERTS].stored == 4 * experts
    assert sizes[Part.EXPERTS].read == pytest.approx(4 * experts * 8 / 128)
    assert sizes[Part.EXPERTS].operations[Product.FLOATS] == pytest.approx(2 * experts * 8 / 128)
    assert sizes[Part.TABLE].read == 4 * 2048
    assert sizes[Part.HEAD].stored == sizes[Part.HEAD].read == 4 * 2048 * 151_936
    assert spec.moe.count == 128


def test_what_experts_compute_with():
    """Experts have no integer products: their weights fall back to blocks."""
    sizes, _ = sizes_of(published_config("glm-4.7-flash", 3), "w8a8")
    assert set(sizes[Part.EXPERTS].operations) == {Product.BLOCKS}
    assert max(sizes[Part.LAYERS].operations, key=sizes[Part.LAYERS].operations.get) is Product.INTEGERS
    shared = 2 * 3 * 2048 * 1536
    assert sizes[Part.LAYERS].operations[Product.INTEGERS] > 2 * shared


def test_a_vision_tower_counts_per_patch():
    sizes, spec = sizes_of(published_config("qwen3-vl-2b"), "fp32")
    vision = spec.vision
    blocks = vision.depth * (4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size)
    mergers = 4 * (4096 * 4096 + 4096 * 2048) / vision.merge_size**2
    patches = vision.patch_values * vision.hidden_size
    assert sizes[Part.VISION].operations[Product.FLOATS] == 2 * (blocks + mergers + patches)


def test_windows_limit_what_a_layer_attends_to():
    _, spec = sizes_of(published_config("mistral-7b") | {"sliding_window": 64}, "fp32")
    assert set(layer_contexts(spec, 1000)) == {64} and set(layer_contexts(spec, 10)) == {10}
