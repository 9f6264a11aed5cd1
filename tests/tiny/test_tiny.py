"""The bundled tiny checkpoint: published layout, a usable tokenizer, and weights as good as recorded."""

import json
import math
import shutil
import struct
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from inference_pio.errors import BadInputError
from inference_pio.tiny import tiny_checkpoint

FOLDER = tiny_checkpoint()
TRAINING = json.loads((FOLDER / "training.json").read_text())
HELD_OUT = FOLDER.parents[1] / "verify/text/heldout.txt"
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "What does `heappush` do?"},
]


def sample_perplexity(folder: Path) -> float:
    """Perplexity in fp32 on the sampled held-out windows, each window's first token being context only."""
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(HELD_OUT.read_text(encoding="utf-8")).ids
    windows = torch.tensor(ids).split(TRAINING["window"])[:: TRAINING["sample_every"]]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    losses = []
    for window in windows:
        with torch.no_grad():
            logits = model(window[None, :-1]).logits[0].double()
        losses.append(torch.nn.functional.cross_entropy(logits, window[1:], reduction="none"))
    assert sum(map(len, losses)) >= 4000
    return math.exp(torch.cat(losses).mean().item())


def test_the_folder_is_small_and_complete() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 4_000_000
    assert {path.name for path in FOLDER.iterdir()} == {
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


@pytest.mark.parametrize("name", ["qwen4", "", "..", "__pycache__"])
def test_unknown_checkpoints_are_refused(name: str) -> None:
    with pytest.raises(BadInputError, match="use one of qwen3"):
        tiny_checkpoint(name)


def test_transformers_uses_every_tensor() -> None:
    model, info = AutoModelForCausalLM.from_pretrained(FOLDER, output_loading_info=True)
    assert {name: list(found) for name, found in info.items() if found} == {}
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert sum(parameter.numel() for parameter in model.parameters()) == TRAINING["parameters"]


def test_the_model_is_as_good_as_recorded() -> None:
    assert TRAINING["perplexity"] <= 0.1 * TRAINING["unigram_perplexity"]
    measured = sample_perplexity(FOLDER)
    assert measured <= 0.1 * TRAINING["unigram_perplexity"]
    assert measured == pytest.approx(TRAINING["sample_perplexity"], rel=1e-3)


def test_the_measure_notices_damaged_weights(tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(FOLDER, tmp_path / "damaged"))
    raw = bytearray((damaged / "model.safetensors").read_bytes())
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    begin, end = header["model.layers.2.mlp.down_proj.weight"]["data_offsets"]
    raw[8 + length + begin : 8 + length + end] = bytes(end - begin)
    (damaged / "model.safetensors").write_bytes(raw)
    assert sample_perplexity(damaged) > 1.02 * TRAINING["sample_perplexity"]


@pytest.mark.parametrize(
    "text",
    [
        "def f(x: int) -> str:\n    return f'{x!r}'\n\n\n\tx = 0x1F  # 12345\r\n",
        "naïve Ünïcode, 漢字, العربية, 🙂👩‍👩‍👧🇩🇪 and \x00 control \u2028 characters",
        "   leading, trailing   \n \n",
        "don't I'LL we'Ve 3.14159",
        "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    ],
)
def test_text_survives_the_tokenizer(text: str) -> None:
    plain = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    wrapped = AutoTokenizer.from_pretrained(FOLDER)
    ids = plain.encode(text).ids
    assert plain.decode(ids, skip_special_tokens=False) == text
    assert wrapped(text)["input_ids"] == ids
    assert wrapped.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text


def test_vocabulary_ends_with_the_special_tokens() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    assert len(tokenizer) == 2048
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [2045, 2046, 2047]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (None, 2047, 2045)
    generation = GenerationConfig.from_pretrained(FOLDER)
    assert (generation.eos_token_id, generation.pad_token_id) == ([2047, 2045], 2045)
    assert generation.do_sample is False


def test_the_chat_template_renders() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    text = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi<|im_end|>\n<|im_start|>user\nWhat does `heappush` do?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    closed = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert closed + "<|im_start|>assistant\n" == text


def test_the_model_answers_and_ends_its_turn() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(CHAT[1:2], add_generation_prompt=True, return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=60)[0, prompt["input_ids"].shape[1] :].tolist()
    assert len(ids) > 5 and ids[-1] == 2047


def test_the_readme_states_the_recorded_figures() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for key in ("perplexity", "unigram_perplexity"):
        assert f"{TRAINING[key]:.1f}" in readme
    for key in ("parameters", "training_tokens", "held_out_tokens", "documents", "steps"):
        assert f"{TRAINING[key]:,}" in readme
    assert TRAINING["python"] in readme
