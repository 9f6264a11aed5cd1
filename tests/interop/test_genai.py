"""onnxruntime-genai loads an artifact's folder and gives the tokens that the engine gives."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.runtime import Engine, FinishReason, SamplingParams
from inference_pio.runtime.chat_template import ChatTemplate
from inference_pio.tiny import tiny_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))
from shapes import write_shape

og = pytest.importorskip("onnxruntime_genai")

NEW_TOKENS = 64
NEAR_TIE = 0.2
"""Logits by which a row of a batch may differ from the row alone when blocks are larger than 32.

The kernels then add up in another order for several rows than for one, and an activation on the edge between two 8-bit
steps falls on the other side. With blocks of 32, and without quantization, a row is the same to the bit.
"""
SHAPES = ("plain", "untied", "yarn", "llama3", "window_one_kv_head", "odd_heads", "bias")
EXPERTS = ("moe_dense_between", "moe_every_second")
RELATIVES = ("qwen2", "qwen2_windows", "llama", "llama_biases", "mistral", "mistral_no_window")
PROMPTS = ("class Parser:\n    def ", "The following example shows how the module is used to")
TEXTS = (
    "def f(x):\n    return x\n",
    "Hello,  World! äöü 漢字 🙂 12345 don't",
    "\t\t  \r\n\n x  ",
    "<|im_start|>user\nhi<|im_end|>\n",
)


def genai_tokens(folder: Path, prompts: list[list[int]], new_tokens: int, **search: Any) -> list[list[int]]:
    """Greedy tokens of a batch, padded on the right as genai wants it; rows end early as genai ends them."""
    model = og.Model(str(folder))
    pad = json.loads((folder / "genai_config.json").read_text("utf-8"))["model"].get("pad_token_id", 0)
    longest = max(len(prompt) for prompt in prompts)
    ids = np.full((len(prompts), longest), pad, np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    params = og.GeneratorParams(model)
    params.set_search_options(batch_size=len(prompts), max_length=longest + new_tokens, do_sample=False, **search)
    generator = og.Generator(model, params)
    generator.append_tokens(ids if len(prompts) > 1 else ids[0])
    while not generator.is_done():
        generator.generate_next_token()
    return [generator.get_sequence(row)[longest:].tolist() for row in range(len(prompts))]


def engine_tokens(folder: Path, prompts: list[list[int]], **params: Any) -> list[list[int]]:
    with Engine.open(folder) as engine:
        results = engine.generate(prompts, SamplingParams(temperature=0.0, **params))
    return [list(result.token_ids) for result in results]


def tokenized(folder: Path, texts: tuple[str, ...]) -> list[list[int]]:
    with Engine.open(folder) as engine:
        return [engine.tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("repetition_penalty", [1.0, 1.3])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4", "w8a8", "w8a8-static", "int4-calibrated"])
def test_one_prompt(tiny_artifact: Callable[[str], Path], precision: str, repetition_penalty: float):
    folder = tiny_artifact(precision)
    for prompt in tokenized(folder, PROMPTS):
        expected = engine_tokens(folder, [prompt], max_new_tokens=NEW_TOKENS, repetition_penalty=repetition_penalty)
        assert genai_tokens(folder, [prompt], NEW_TOKENS, repetition_penalty=repetition_penalty) == expected


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_trained_model_with_experts(tmp_path: Path, precision: str):
    export(tiny_checkpoint("qwen3_moe"), tmp_path / "out", ExportOptions(precision=precision))
    for prompt in tokenized(tmp_path / "out", PROMPTS):
        expected = engine_tokens(tmp_path / "out", [prompt], max_new_tokens=NEW_TOKENS)
        assert genai_tokens(tmp_path / "out", [prompt], NEW_TOKENS) == expected


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_batch_of_two_lengths(tiny_artifact: Callable[[str], Path], precision: str):
    check_batch(tiny_artifact(precision), near_tie=0.0)


def test_integer_products_in_a_batch_of_two_lengths(tiny_artifact: Callable[[str], Path]):
    check_batch(tiny_artifact("w8a8"), near_tie=NEAR_TIE)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantized_batch_of_two_lengths(
    tiny: Path, tiny_artifact: Callable[[str], Path], tmp_path: Path, precision: str
):
    export(tiny, tmp_path / "block32", ExportOptions(precision=precision, block_size=32))
    check_batch(tmp_path / "block32", near_tie=0.0)
    check_batch(tiny_artifact(precision), near_tie=NEAR_TIE)


def check_batch(folder: Path, near_tie: float) -> None:
    """A batch, in either order, gives each row what it gets alone, up to a tie closer than `near_tie` in logits."""
    prompts = tokenized(folder, PROMPTS)
    assert len(prompts[0]) != len(prompts[1])
    expected = engine_tokens(folder, prompts, max_new_tokens=NEW_TOKENS)
    found = genai_tokens(folder, prompts, NEW_TOKENS)
    assert genai_tokens(folder, prompts[::-1], NEW_TOKENS) == found[::-1]
    for prompt, row, alone in zip(prompts, found, expected, strict=True):
        assert len(row) == len(alone) == NEW_TOKENS
        if row != alone:
            step = next(index for index in range(NEW_TOKENS) if row[index] != alone[index])
            with Engine.open(folder) as engine:
                logits = engine.logits(prompt + alone[:step])[-1]
            assert logits[alone[step]] - logits[row[step]] < near_tie, f"token {step} differs without a near tie"


@pytest.mark.parametrize(
    "shape", ["plain", "untied", "yarn", "llama3", "window_one_kv_head", "odd_heads", "bias", *RELATIVES, *EXPERTS]
)
def test_shapes(tmp_path: Path, shape: str):
    export(stopping_checkpoint(tmp_path, 2044, shape), tmp_path / "fp32", ExportOptions(precision="fp32"))
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, 2000, length).tolist() for length in (150, 37)]
    expected = engine_tokens(tmp_path / "fp32", prompts, max_new_tokens=NEW_TOKENS)
    assert [len(row) for row in expected] == [NEW_TOKENS, NEW_TOKENS]
    assert genai_tokens(tmp_path / "fp32", prompts, NEW_TOKENS) == expected
    assert genai_tokens(tmp_path / "fp32", prompts[:1], NEW_TOKENS) == expected[:1]


def stopping_checkpoint(tmp_path: Path, eos: Any, shape: str = "plain", **generation: Any) -> Path:
    """A random checkpoint whose generation_config.json has these end-of-text ids."""
    path = write_shape(shape, tmp_path / "checkpoint")
    generation = {"eos_token_id": eos, "pad_token_id": 2045, **generation}
    (path / "generation_config.json").write_text(json.dumps(generation), "utf-8")
    return path


@pytest.mark.parametrize("as_list", [False, True], ids=["number", "list"])
def test_stops_at_end_of_text(tmp_path: Path, as_list: bool):
    prompts = [np.random.default_rng(5).integers(0, 2000, length).tolist() for length in (9, 14)]
    export(stopping_checkpoint(tmp_path, 2044), tmp_path / "free", ExportOptions(precision="int8"))
    free = engine_tokens(tmp_path / "free", prompts, max_new_tokens=NEW_TOKENS)
    eos = next(token for index, token in enumerate(free[0]) if index > 5 and token not in free[0][:index])
    shutil.rmtree(tmp_path / "checkpoint")
    checkpoint = stopping_checkpoint(tmp_path, [2044, eos] if as_list else eos)
    export(checkpoint, tmp_path / "stops", ExportOptions(precision="int8"))
    with Engine.open(tmp_path / "stops") as engine:
        found = engine.generate(prompts[0], SamplingParams(max_new_tokens=NEW_TOKENS))
    assert found.finish_reason is FinishReason.STOP
    assert len(found.token_ids) < NEW_TOKENS
    assert genai_tokens(tmp_path / "stops", prompts[:1], NEW_TOKENS) == [list(found.token_ids[:-1])]
    rows = genai_tokens(tmp_path / "stops", prompts, NEW_TOKENS)
    assert rows[0][: len(found.token_ids) - 1] == list(found.token_ids[:-1])
    assert set(rows[0][len(found.token_ids) - 1 :]) <= {2045, eos}


@pytest.mark.parametrize("eos", [None, []])
def test_no_configuration_without_end_of_text(tmp_path: Path, eos: Any):
    path = stopping_checkpoint(tmp_path, eos)
    export(path, tmp_path / "fp32", ExportOptions(precision="fp32"))
    assert not (tmp_path / "fp32" / "genai_config.json").exists()


def test_missing_special_ids(tmp_path: Path):
    path = stopping_checkpoint(tmp_path, 2044, pad_token_id=None, bos_token_id=None)
    export(path, tmp_path / "fp32", ExportOptions(precision="fp32"))
    expected = engine_tokens(tmp_path / "fp32", [[5, 6, 7]], max_new_tokens=12)
    assert genai_tokens(tmp_path / "fp32", [[5, 6, 7]], 12) == expected


def test_sampling_checkpoint_can_still_be_greedy(tmp_path: Path):
    path = stopping_checkpoint(tmp_path, 2044, do_sample=True, top_k=100_000, top_p=0.8, temperature=0.7)
    export(path, tmp_path / "fp32", ExportOptions(precision="fp32"))
    search = json.loads((tmp_path / "fp32" / "genai_config.json").read_text("utf-8"))["search"]
    assert (search["do_sample"], search["top_p"], search["temperature"]) == (True, 0.8, 0.7)
    expected = engine_tokens(tmp_path / "fp32", [[5, 6, 7]], max_new_tokens=12)
    assert genai_tokens(tmp_path / "fp32", [[5, 6, 7]], 12) == expected


def test_tokenizer(tiny_artifact: Callable[[str], Path]):
    folder = tiny_artifact("int8")
    tokenizer = og.Tokenizer(og.Model(str(folder)))
    for text, ids in zip(TEXTS, tokenized(folder, TEXTS), strict=True):
        assert tokenizer.encode(text).tolist() == ids
        if "<|" not in text:  # genai leaves special tokens out when it decodes
            assert tokenizer.decode(np.array(ids, np.int32)) == text


def test_chat_template(tiny_artifact: Callable[[str], Path]):
    folder = tiny_artifact("int8")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is ä 漢?"},
        {"role": "assistant", "content": "A letter."},
        {"role": "user", "content": "And then?"},
    ]
    tokenizer = og.Tokenizer(og.Model(str(folder)))
    found = tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=True)
    assert found == ChatTemplate.load(folder).render(messages)
