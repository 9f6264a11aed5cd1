"""Random checkpoints: what transformers makes of them, and that they are cheap, safe and repeatable."""

import json
import shutil
import subprocess
import sys
import tracemalloc
from argparse import ArgumentTypeError
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import random_checkpoint
import torch
import transformers
from odd_configs import odd
from random_checkpoint import parse_size, write_random_checkpoint
from random_tensors import CHUNK_VALUES, Dtype, RandomTensors
from safetensors.torch import load_file
from tensor_shapes import tensor_shapes
from tiny_routing import Routers, shares
from transformers import AutoModelForCausalLM, AutoTokenizer

from inference_pio.errors import BadInputError, ResourceLimitError


def odd_config(**changes: object) -> dict[str, object]:
    """A shape in which no two sizes agree by accident and none is a multiple of a large power of two."""
    return odd("qwen3-0.6b", 3, **changes)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_transformers_uses_every_tensor(tmp_path: Path, tied: bool, bias: bool) -> None:
    config = odd_config(tie_word_embeddings=tied, attention_bias=bias)
    write_random_checkpoint(tmp_path / "out", config)
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, output_loading_info=True)
    assert {name: list(found) for name, found in info.items() if found} == {}
    loaded = model.state_dict()
    tensors = stored(tmp_path / "out")
    assert set(loaded) - set(tensors) == ({"lm_head.weight"} if tied else set())
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor.float()), name
    assert ("model.layers.2.self_attn.o_proj.bias" in tensors) == bias
    logits = model(torch.tensor([[5, 2052, 0, 17]])).logits
    assert torch.isfinite(logits).all() and 0.01 < logits.std() < 10


def test_tokenizer_of_the_tiny_checkpoint_comes_along(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "out", odd_config())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.decode(tokenizer("def f():")["input_ids"]) == "def f():"
    assert tokenizer.chat_template


def test_shards_hold_the_tensors_of_the_single_file(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "one", odd_config())
    write_random_checkpoint(tmp_path / "many", odd_config(), shard_bytes=100_000)
    assert [path.name for path in (tmp_path / "one").glob("model*")] == ["model.safetensors"]
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 3 and files == sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    sizes = {}
    for file in files:
        tensors = load_file(tmp_path / "many" / file)
        assert {name for name, place in index["weight_map"].items() if place == file} == set(tensors)
        sizes[file] = sum(tensor.nbytes for tensor in tensors.values())
        assert sizes[file] <= 100_000 or len(tensors) == 1
    assert index["metadata"]["total_size"] == sum(sizes.values())
    one, many = stored(tmp_path / "one"), stored(tmp_path / "many")
    assert one.keys() == many.keys() and all(torch.equal(one[name], many[name]) for name in one)
    AutoModelForCausalLM.from_pretrained(tmp_path / "many")


def test_a_seed_determines_every_byte(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_random_checkpoint(tmp_path / name, odd_config(), seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert len(a) == len(c) and a != c


def test_values_are_normal_and_no_row_repeats(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "out", odd_config())
    tensors = {name: tensor.float() for name, tensor in stored(tmp_path / "out").items()}
    embedding = tensors["model.embed_tokens.weight"]
    assert len(torch.unique(embedding, dim=0)) == 2053
    assert abs(embedding.std() - 0.02) < 2e-4 and abs(embedding.mean()) < 2e-4
    assert abs((embedding.abs() < 0.02).float().mean() - 0.6827) < 5e-3
    first, second = (tensors[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in (0, 1))
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.05
    norm = tensors["model.layers.1.input_layernorm.weight"]
    assert abs(norm.mean() - 1) < 0.03 and 0.03 < norm.std() < 0.07


def test_dtypes_hold_the_same_numbers(tmp_path: Path) -> None:
    for dtype in Dtype:
        write_random_checkpoint(tmp_path / dtype.value, odd_config(), dtype=dtype)
        config = json.loads((tmp_path / dtype.value / "config.json").read_text())
        assert config["torch_dtype"] == dtype.torch_name
    exact = stored(tmp_path / "fp32")
    for dtype, expected in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        rounded = stored(tmp_path / dtype)
        assert all(torch.equal(rounded[name], value.to(expected)) for name, value in exact.items())


def test_newer_configs_keep_their_key_for_the_dtype(tmp_path: Path) -> None:
    config = odd_config(dtype="float32")
    del config["torch_dtype"]
    write_random_checkpoint(tmp_path / "out", config, dtype=Dtype.FP16)
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written == {**config, "dtype": "float16"}


def test_chunks_go_on_where_the_last_one_ended() -> None:
    values = 2 * CHUNK_VALUES + 5
    chunks = list(RandomTensors(Dtype.BF16, 0).chunks("x", (1, values)))
    assert [len(chunk) for chunk in chunks] == [CHUNK_VALUES, CHUNK_VALUES, 5]
    assert (chunks[0] == chunks[1]).mean() < 0.01
    start = next(RandomTensors(Dtype.BF16, 0).chunks("x", (10, 10)))
    assert np.array_equal(start, chunks[0][:100])


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    config = odd_config(vocab_size=60_000, hidden_size=540, num_hidden_layers=1)
    tracemalloc.start()
    write_random_checkpoint(tmp_path / "out", config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out/model.safetensors").stat().st_size > 64_000_000
    assert peak < 20_000_000


def test_experts_are_published_one_by_one_and_all_of_them_are_used(tmp_path: Path) -> None:
    config = {**odd("qwen3-coder-30b", 2), "hidden_size": 256, "moe_intermediate_size": 40}
    config |= {"num_experts": 16, "num_experts_per_tok": 4}
    write_random_checkpoint(tmp_path / "out", config)
    assert set(stored(tmp_path / "out")) == set(tensor_shapes(config))
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, output_loading_info=True)
    assert {name: list(found) for name, found in info.items() if found} == {}
    routers = Routers(model)
    model(torch.randint(2000, (1, 500), generator=torch.Generator().manual_seed(0)))
    for logits, experts in routers.take():
        assert 0.7 < logits.std() < 1.4
        assert (shares(experts, 16) > 0.003).all()


def test_router_biases_are_float32_in_any_checkpoint_and_change_the_choice(tmp_path: Path) -> None:
    config = {**odd("glm-4.7-flash", 3), "num_nextn_predict_layers": 1}
    write_random_checkpoint(tmp_path / "out", config)
    tensors = stored(tmp_path / "out")
    biases = {name: tensor for name, tensor in tensors.items() if name.endswith("e_score_correction_bias")}
    assert len(biases) == 3 and all(tensor.dtype == torch.float32 for tensor in biases.values())
    assert {tensor.dtype for name, tensor in tensors.items() if name not in biases} == {torch.bfloat16}
    assert sum(tensor.nbytes for tensor in tensors.values()) < (tmp_path / "out/model.safetensors").stat().st_size
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, output_loading_info=True)
    assert [name for name, found in info.items() if found] == ["unexpected_keys"]
    assert all(name.startswith("model.layers.3.") for name in info["unexpected_keys"])
    router = model.model.layers[1].mlp.gate
    hidden = torch.randn(400, 90, generator=torch.Generator().manual_seed(0))
    with_bias = router(hidden)[2].sort(-1).values
    router.e_score_correction_bias.zero_()
    assert 0.01 < (router(hidden)[2].sort(-1).values != with_bias).any(-1).float().mean() < 0.9


def test_vision_checkpoints_fit_their_tokenizer_and_have_a_preprocessor(tmp_path: Path) -> None:
    config = odd("qwen3-vl-2b", 2, rope_scaling={"mrope_section": [4, 4, 4], "mrope_interleaved": True})
    write_random_checkpoint(tmp_path / "out", config, dtype=Dtype.FP16)
    architecture = transformers.Qwen3VLForConditionalGeneration
    model, info = architecture.from_pretrained(tmp_path / "out", dtype=torch.float32, output_loading_info=True)
    assert {name: list(found) for name, found in info.items() if found} == {}
    written = json.loads((tmp_path / "out/config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert written["image_token_id"] == tokenizer.convert_tokens_to_ids("<|image_pad|>") < 2053
    assert written["text_config"]["dtype"] == "float16" and "torch_dtype" not in written
    preprocessor = json.loads((tmp_path / "out/preprocessor_config.json").read_text())
    assert preprocessor["size"] == {"shortest_edge": 65_536, "longest_edge": 16_777_216}
    ids = torch.tensor(
        [[5, written["vision_start_token_id"], written["image_token_id"], written["vision_end_token_id"]]]
    )
    pixels = torch.randn(4, 4 * 2 * 6 * 6)
    logits = model(
        ids,
        pixel_values=pixels,
        image_grid_thw=torch.tensor([[1, 2, 2]]),
        mm_token_type_ids=(ids == written["image_token_id"]).int(),
    ).logits
    assert torch.isfinite(logits).all() and 0.01 < logits.std() < 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"hidden_size": None}, "hidden_size of the config is None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers of the config is 0"),
        ({"vocab_size": 10.5}, "vocab_size of the config is 10.5"),
        ({"head_dim": True}, "head_dim of the config is True"),
    ],
)
def test_impossible_configs_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        write_random_checkpoint(tmp_path / "out", odd_config(**changes))
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("kept")
    with pytest.raises(BadInputError, match="exists"):
        write_random_checkpoint(tmp_path / "out", odd_config())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no tokenizer\.json"):
        write_random_checkpoint(tmp_path / "out", odd_config(), tokenizer=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(ResourceLimitError, match=r"0\.0 GB free"):
        write_random_checkpoint(tmp_path / "a/b/out", odd_config())
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(random_checkpoint, "write_small_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_random_checkpoint(tmp_path / "out", odd_config())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "expected"), [("2GB", 2 * 10**9), ("1.5 MiB", 3 << 19), ("700", 700), ("3kb", 3000)])
def test_sizes_are_read(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "2XB", "1.2.3MB", "-1GB", "1e3"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["qwen3-9z", "out"], "unknown shape 'qwen3-9z': use one of glm-4.7-flash, llama-3.2-1b"),
        (["qwen3-0.6b", "out", "--layers", "-1"], "num_hidden_layers of the config is -1"),
        (["qwen3-0.6b", "file/out", "--layers", "1"], "cannot write file/out"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, random_checkpoint.__file__, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
