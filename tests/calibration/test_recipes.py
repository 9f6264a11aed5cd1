"""Recipes by name and from files: which tensor gets which format, and what is refused."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from inference_pio.calibration.recipes import RECIPES, SUPPORTED, find_recipe
from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import FP16, FP32, W8A8, Activations, WeightFormat

sys.path.insert(0, str(Path(__file__).parents[1]))
from graph_cases import SPEC

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LAYER = "model.layers.3.mlp.down_proj.weight"


@pytest.fixture
def recipe_file(tmp_path: Path):
    def write(content: object, name: str = "mine.json") -> str:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("name", "layers", "edges"),
    [
        ("fp32", FP32, FP32),
        ("fp16", FP16, FP16),
        ("int8", WeightFormat(8), WeightFormat(8)),
        ("int4", WeightFormat(4), WeightFormat(8)),
        ("int4-exact", WeightFormat(4, activations=Activations.EXACT), FP16),
    ],
)
def test_plain_recipes(name, layers, edges):
    recipe = find_recipe(name, "ort-cpu")
    assert recipe.name == name
    assert recipe.format_of(LAYER, SPEC) == layers
    assert recipe.format_of(EMBEDDING, SPEC) == recipe.format_of(HEAD, SPEC) == edges


@pytest.mark.parametrize(
    ("name", "expected"),
    [("fp32", FP32), ("fp16", FP16), ("int8", FP16), ("int4", WeightFormat(8)), ("int4-exact", FP16), ("w8a8", W8A8)],
)
def test_sensitive_tensors_are_one_width_up_and_the_manifest_says_so(name, expected):
    spec = replace(SPEC, sensitive_tensors=("model.layers.3.mlp.*",))
    recipe = find_recipe(name, "ort-cpu")
    assert recipe.format_of(LAYER, spec) == expected
    assert recipe.format_of(LAYER.replace("3", "2"), spec) == recipe.layers
    assert recipe.formats(spec).get("sensitive") == (None if expected == recipe.layers else str(expected))
    assert "sensitive" not in recipe.formats(SPEC)


def test_an_override_wins_over_the_models_exceptions(recipe_file):
    recipe = find_recipe(recipe_file({"base": "int4", "block_size": 64, "overrides": {"*.mlp.up*": "int4"}}), "ort-cpu")
    spec = replace(SPEC, sensitive_tensors=("model.layers.3.mlp.*",))
    assert recipe.format_of(LAYER, spec) == WeightFormat(8, 64)
    assert recipe.format_of(LAYER.replace("down", "up"), spec) == WeightFormat(4)


def test_the_table_of_pairs_names_known_recipes():
    assert set(SUPPORTED["ort-cpu"]) <= set(RECIPES)


@pytest.mark.parametrize("name", ["", "int3", "W8A8", "INT8", "int8-calibrate", "mine.yaml", "int8.jso"])
def test_unknown_names(name):
    with pytest.raises(BadInputError, match=r"is not known: use auto, fp32, .*, w8a8-static or the path of a \.json"):
        find_recipe(name, "ort-cpu")


def test_block_sizes_reach_the_layers_and_edges_of_the_same_width():
    eight = find_recipe("int8", "ort-cpu").with_block_size(32)
    assert eight.format_of(LAYER, SPEC) == eight.format_of(EMBEDDING, SPEC) == WeightFormat(8, 32)
    four = find_recipe("int4", "ort-cpu").with_block_size(32)
    assert (four.format_of(LAYER, SPEC), four.format_of(EMBEDDING, SPEC)) == (WeightFormat(4, 32), WeightFormat(8))


@pytest.mark.parametrize("size", [0, -32, 8, 48, 256, 31, 1.5, "32", None, [32]])
def test_block_sizes_that_no_kernel_has(size):
    with pytest.raises(BadInputError, match="is not supported: use one of 128, 64, 32, 16"):
        find_recipe("int8", "ort-cpu").with_block_size(size)


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_block_sizes_without_blocks(name):
    with pytest.raises(BadInputError, match=f"no meaning for recipe {name}"):
        find_recipe(name, "ort-cpu").with_block_size(32)


def test_a_file_has_a_base_and_exceptions(recipe_file):
    path = recipe_file(
        {
            "base": "int4",
            "block_size": 32,
            "overrides": {"*.layers.3.mlp.*": "int8-block64", "*.mlp.*": "fp16", "lm_head.weight": "fp32"},
        }
    )
    recipe = find_recipe(path, "ort-cpu")
    assert recipe.name == "mine"
    assert recipe.format_of(LAYER, SPEC) == WeightFormat(8, 64)  # the first pattern that fits
    assert recipe.format_of("model.layers.4.mlp.up_proj.weight", SPEC) == FP16
    assert recipe.format_of("model.layers.4.self_attn.q_proj.weight", SPEC) == WeightFormat(4, 32)
    assert recipe.format_of(HEAD, SPEC) == FP32
    assert recipe.format_of(EMBEDDING, SPEC) == WeightFormat(8)


def test_patterns_ask_for_the_whole_name_and_its_case(recipe_file):
    recipe = find_recipe(recipe_file({"base": "int8", "overrides": {"LM_head*": "fp32", "mlp": "fp32"}}), "ort-cpu")
    assert recipe.format_of(HEAD, SPEC) == recipe.format_of(LAYER, SPEC) == WeightFormat(8)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"base": "int8", "base": "int4"}', "stands twice"),
        ("[" * 100_000, "nested"),
        ({}, 'an object with "base"'),
        ({"base": "int8", "bits": 3}, 'an object with "base"'),
        ({"base": "int3"}, "base must be one of fp32"),
        ({"base": 8}, "base must be one of fp32"),
        ({"base": ["int8"]}, "base must be one of fp32"),
        ({"base": "int8", "block_size": 7}, "block size 7"),
        ({"base": "int8", "block_size": [32]}, "block size"),
        ({"base": "int8", "overrides": ["a"]}, "must map tensor patterns to formats"),
        ({"base": "int8", "overrides": {"a": 8}}, "must map tensor patterns to formats"),
        ({"base": "int8", "overrides": {"a": "int9"}}, "weight format 'int9' is not known"),
        ({"base": "int8", "overrides": {"a": "int8-block5"}}, "int8-block5"),
    ],
    ids=str,
)
def test_broken_files(recipe_file, content, words):
    with pytest.raises(BadInputError, match=words):
        find_recipe(recipe_file(content), "ort-cpu")


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "folder.json").mkdir()
    for name, words in (("absent.json", "does not exist"), ("folder.json", "cannot be read")):
        with pytest.raises(BadInputError, match=words):
            find_recipe(str(tmp_path / name), "ort-cpu")


def test_a_pair_that_the_table_lacks(monkeypatch, recipe_file):
    monkeypatch.setitem(SUPPORTED, "ort-cpu", ("fp32",))
    for name in ("int8", recipe_file({"base": "int8"}, os.fsdecode(b"\xff.json"))):
        with pytest.raises(BadInputError, match="recipe int8 does not run on target ort-cpu: use fp32"):
            find_recipe(name, "ort-cpu")


def test_recipes_take_the_forms_that_a_gpu_has():
    old, new = (find_recipe("int4", f"ort-cuda/{dialect}") for dialect in ("sm61", "modern"))
    assert (str(old.layers), str(old.edges), old.compute) == ("int4-exact", "w8a8", "float32")
    assert (str(new.layers), str(new.edges), new.compute) == ("int4-exact", "int8-exact", "float16")
    assert [find_recipe(name, "ort-cuda/modern").compute for name in ("fp32", "bf16")] == ["float32", "bfloat16"]
    assert find_recipe("fp32", "ort-cuda/sm61").edges == FP32
    with pytest.raises(BadInputError, match="recipe int8 does not run on target ort-cuda/sm61"):
        find_recipe("int8", "ort-cuda/sm61")
    with pytest.raises(BadInputError, match="recipe bf16 does not run on target ort-cpu"):
        find_recipe("bf16", "ort-cpu")


def test_exceptions_take_those_forms_too(recipe_file):
    path = recipe_file({"base": "int4", "overrides": {"*.down_proj.weight": "int8", "*.o_proj.weight": "fp32"}})
    overrides = dict(find_recipe(str(path), "ort-cuda/modern").overrides)
    assert [str(chosen) for chosen in overrides.values()] == ["int8-exact", "fp32"]
