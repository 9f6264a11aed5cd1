"""genai_config.json says what the graph and the checkpoint say; tests/interop loads it for real."""

import json
import sys
from pathlib import Path

import pytest

from inference_pio.errors import BadInputError
from inference_pio.export.genai_config import MAX_LENGTH, genai_config

sys.path.insert(0, str(Path(__file__).parents[1]))
from graph_cases import spec_with

SPEC = spec_with(context_length=40_960)
INPUTS = ["input_ids", "attention_mask", "past_key_values.0.key"]


def made(generation=None, config=None, context=40_960, inputs=INPUTS):
    return genai_config(SPEC, context, config or {}, {"eos_token_id": 2} if generation is None else generation, inputs)


def test_sizes_and_names(tiny_artifact):
    values = json.loads((tiny_artifact("int8") / "genai_config.json").read_text())
    model, decoder = values["model"], values["model"]["decoder"]
    assert (model["type"], model["vocab_size"], model["context_length"]) == ("qwen3", 2048, 4096)
    sizes = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_size", "hidden_size")
    assert [decoder[name] for name in sizes] == [5, 4, 2, 64, 160]
    manifest = json.loads((tiny_artifact("int8") / "manifest.json").read_text())
    (graph,) = manifest["graphs"]
    names = {tensor["name"] for tensor in (*graph["inputs"], *graph["outputs"])}
    for name in (*decoder["inputs"].values(), *decoder["outputs"].values()):
        assert (name % 0 if "%d" in name else name) in names
    assert decoder["filename"] == graph["file"]


def test_only_inputs_of_the_graph_are_named():
    assert set(made()["model"]["decoder"]["inputs"]) == {
        "input_ids",
        "attention_mask",
        "past_key_names",
        "past_value_names",
    }
    assert "attention_mask" not in made(inputs=["input_ids"])["model"]["decoder"]["inputs"]


def test_the_cache_that_genai_allocates_stays_modest():
    assert made()["search"]["max_length"] == MAX_LENGTH == 2048
    assert made(context=100)["search"]["max_length"] == 100


def test_sampling_follows_the_checkpoint():
    search = made({"eos_token_id": 2, "do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95})["search"]
    assert [search[name] for name in ("do_sample", "temperature", "top_k", "top_p")] == [True, 0.6, 20, 0.95]
    assert made()["search"]["do_sample"] is False
    assert made({"eos_token_id": 2, "top_k": 10_000})["search"]["top_k"] == SPEC.vocab_size


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [3, 4]}, {}, ([3, 4], 3, 3)),
        ({"eos_token_id": 3, "bos_token_id": 0, "pad_token_id": 7}, {}, (3, 0, 7)),
        ({"eos_token_id": 3}, {"bos_token_id": 1, "pad_token_id": 5, "eos_token_id": 9}, (3, 1, 5)),
        ({}, {"eos_token_id": 9}, (9, 9, 9)),
    ],
)
def test_special_ids(generation, config, expected):
    model = made(generation, config)["model"]
    assert tuple(model[f"{name}_token_id"] for name in ("eos", "bos", "pad")) == expected


@pytest.mark.parametrize("eos", [None, []])
def test_without_an_end_there_is_no_configuration(eos):
    assert made({"eos_token_id": eos, "top_k": 1}) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [("temperature", "1"), ("top_k", [5]), ("top_p", True), ("eos_token_id", "2"), ("eos_token_id", [2, None])],
)
def test_values_of_the_wrong_type_are_named(key, value):
    with pytest.raises(BadInputError, match=f"generation_config.json: {key} is"):
        made({"eos_token_id": 2, key: value})
