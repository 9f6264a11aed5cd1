"""The bundled tiny checkpoints: published layout, a usable tokenizer, and weights as good as recorded."""

from __future__ import annotations

import json
import math
import re
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_cases import Bundled
from tiny_measure import load
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GenerationConfig

from inference_pio.errors import BadInputError
from inference_pio.tiny import tiny_checkpoint

HELD_OUT = tiny_checkpoint("qwen3").parents[1] / "verify/text/heldout.txt"
FILES = {
    "LICENSE",
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "training.json",
}
DAMAGED = {
    "glm4_moe_lite": r"model\.layers\.2\.mlp\.(shared_experts|experts\.\d)\.down_proj\.weight",
    "qwen3": r"model\.layers\.2\.mlp\.down_proj\.weight",
    "qwen3_moe": r"model\.layers\.2\.mlp\.experts\.\d\.down_proj\.weight",
    "qwen3_vl": r"model\.language_model\.layers\.2\.mlp\.down_proj\.weight",
}


def sample_perplexity(model: torch.nn.Module, bundled: Bundled) -> float:
    """Perplexity in fp32 on the sampled held-out windows, each window's first token being context only."""
    tokenizer = Tokenizer.from_file(str(bundled.folder / "tokenizer.json"))
    ids = torch.tensor(tokenizer.encode(HELD_OUT.read_text(encoding="utf-8")).ids)
    losses = []
    for window in ids.split(bundled.training["window"])[:: bundled.training["sample_every"]]:
        with torch.no_grad():
            logits = model(window[None, :-1]).logits[0].double()
        losses.append(torch.nn.functional.cross_entropy(logits, window[1:], reduction="none"))
    assert sum(map(len, losses)) >= 4000
    return math.exp(torch.cat(losses).mean().item())


def test_the_folder_is_small_and_complete(bundled: Bundled) -> None:
    assert sum(path.stat().st_size for path in bundled.folder.iterdir()) <= 4_000_000
    expected = FILES | ({"preprocessor_config.json"} if bundled.name == "qwen3_vl" else set())
    assert {path.name for path in bundled.folder.iterdir()} == expected


@pytest.mark.parametrize("name", ["qwen4", "", "..", "__pycache__"])
def test_unknown_checkpoints_are_refused(name: str) -> None:
    with pytest.raises(BadInputError, match="use one of glm4_moe_lite, qwen3, qwen3_moe, qwen3_vl"):
        tiny_checkpoint(name)


def test_transformers_uses_every_tensor_of_the_layers_that_it_knows(bundled: Bundled) -> None:
    model, info = type(bundled.model).from_pretrained(bundled.folder, output_loading_info=True)
    found = {name: set(names) for name, names in info.items() if names}
    if bundled.name == "glm4_moe_lite":
        assert all(name.startswith("model.layers.4.") for name in found.pop("unexpected_keys"))
    assert found == {}
    assert model.dtype == torch.bfloat16
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == bundled.config["tie_word_embeddings"]
    assert sum(parameter.numel() for parameter in model.parameters()) == bundled.training["parameters"]


def test_the_model_is_as_good_as_recorded(bundled: Bundled) -> None:
    training = bundled.training
    assert training["perplexity"] <= 0.1 * training["unigram_perplexity"]
    measured = sample_perplexity(bundled.model, bundled)
    assert measured <= 0.1 * training["unigram_perplexity"]
    assert measured == pytest.approx(training["sample_perplexity"], rel=1e-3)


def test_the_measure_notices_damaged_weights(bundled: Bundled, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(bundled.folder, tmp_path / "damaged"))
    raw = bytearray((damaged / "model.safetensors").read_bytes())
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    names = [name for name in header if re.fullmatch(DAMAGED[bundled.name], name)]
    assert names
    for name in names:
        begin, end = header[name]["data_offsets"]
        raw[8 + length + begin : 8 + length + end] = bytes(end - begin)
    (damaged / "model.safetensors").write_bytes(raw)
    assert sample_perplexity(load(damaged), bundled) > 1.02 * bundled.training["sample_perplexity"]


@pytest.mark.parametrize(
    "text",
    [
        "def f(x: int) -> str:\n    return f'{x!r}'\n\n\n\tx = 0x1F  # 12345\r\n",
        "naïve Ünïcode, 漢字, العربية, 🙂👩‍👩‍👧🇩🇪 and \x00 control \u2028 characters",
        "   leading, trailing   \n \n",
        "don't I'LL we'Ve 3.14159",
        "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
        "[gMASK]<sop><|user|>hi<|assistant|><think>so</think><tool_call>f<arg_key>k</arg_key></tool_call>",
    ],
)
def test_text_survives_the_tokenizer(bundled: Bundled, text: str) -> None:
    plain = Tokenizer.from_file(str(bundled.folder / "tokenizer.json"))
    wrapped = AutoTokenizer.from_pretrained(bundled.folder)
    ids = plain.encode(text).ids
    assert plain.decode(ids, skip_special_tokens=False) == text
    assert wrapped(text)["input_ids"] == ids
    assert wrapped.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text


def test_all_families_have_the_same_entries_for_text(bundled: Bundled) -> None:
    own, qwen3 = (
        json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        for folder in (bundled.folder, tiny_checkpoint("qwen3"))
    )
    added = [token["id"] for token in own.pop("added_tokens")]
    qwen3.pop("added_tokens")
    assert own == qwen3
    assert added == list(range(2045, 2045 + len(added)))
    if bundled.name == "qwen3_moe":
        files = [folder / "tokenizer.json" for folder in (bundled.folder, tiny_checkpoint("qwen3"))]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("name", "count", "stops"),
    [
        ("qwen3", 2048, ["<|im_end|>", "<|endoftext|>"]),
        ("qwen3_moe", 2048, ["<|im_end|>", "<|endoftext|>"]),
        ("qwen3_vl", 2052, ["<|im_end|>", "<|endoftext|>"]),
        ("glm4_moe_lite", 2062, ["<|endoftext|>", "<|user|>", "<|observation|>"]),
    ],
)
def test_special_tokens(name: str, count: int, stops: list[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint(name))
    assert len(tokenizer) == count
    ids = tokenizer.convert_tokens_to_ids(stops)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (None, ids[0], 2045)
    generation = GenerationConfig.from_pretrained(tiny_checkpoint(name))
    assert (generation.eos_token_id, generation.pad_token_id, generation.do_sample) == (ids, 2045, False)
    config = json.loads((tiny_checkpoint(name) / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config", config)
    assert text["eos_token_id"] in (ids, ids[0]) and count <= text["vocab_size"] <= count + 16
    for key, token in (("image_token_id", "<|image_pad|>"), ("vision_start_token_id", "<|vision_start|>")):
        if key in config:
            assert config[key] == tokenizer.convert_tokens_to_ids(token)


def test_reasoning_and_calls_stay_visible_when_special_tokens_are_left_out() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint("glm4_moe_lite"))
    ids = tokenizer("<|assistant|><think>so</think><tool_call>f</tool_call><|user|>")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>so</think><tool_call>f</tool_call>"


def test_weights_are_bfloat16_but_for_router_biases(bundled: Bundled) -> None:
    tensors = load_file(bundled.folder / "model.safetensors")
    full = {name: tensor for name, tensor in tensors.items() if tensor.dtype == torch.float32}
    assert all(name.endswith("e_score_correction_bias") and tensor.any() for name, tensor in full.items())
    assert len(full) == (4 if bundled.name == "glm4_moe_lite" else 0)
    assert {tensor.dtype for name, tensor in tensors.items() if name not in full} == {torch.bfloat16}


def test_the_readme_states_the_recorded_figures(bundled: Bundled) -> None:
    readme = (bundled.folder / "README.md").read_text(encoding="utf-8")
    training = bundled.training
    for key in ("perplexity", "unigram_perplexity"):
        assert f"{training[key]:.1f}" in readme
    for key in ("parameters", "training_tokens", "held_out_tokens", "documents", "steps"):
        assert f"{training[key]:,}" in readme
    assert training["python"] in readme
    for key in ("answer_accuracy", "swapped_answer_accuracy"):
        if key in training:
            assert f"{100 * training[key]:.0f} %" in readme
