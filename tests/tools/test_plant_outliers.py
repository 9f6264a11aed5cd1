"""Planted checkpoints compute what the original computes, and really have the outliers they are for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import plant_outliers
import pytest
import torch
from plant_outliers import Kind, plant
from random_checkpoint import published_config, write_random_checkpoint
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.runtime.engine import Engine
from inference_pio.tiny import tiny_checkpoint
from inference_pio.verify.windows import read_text

WINDOW = 512
MODULES = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    """The tiny checkpoint with outliers of a kind, made once."""
    folder = tmp_path_factory.mktemp("planted")

    def make(kind: Kind) -> Path:
        if not (folder / kind.value).exists():
            plant(tiny_checkpoint("qwen3"), folder / kind.value, kind)
        return folder / kind.value

    return make


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small models on several threads mostly wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    """Held-out text, [3, 512]."""
    tokens = Tokenizer.from_file(str(tiny_checkpoint("qwen3") / "tokenizer.json")).encode(read_text(None).content).ids
    return np.array(tokens[: 3 * WINDOW]).reshape(3, WINDOW)


def logits(checkpoint: Path, out: Path, tokens: np.ndarray) -> np.ndarray:
    export(checkpoint, out, ExportOptions(precision="fp32"))
    with Engine.open(out) as engine:
        return engine.logits(tokens.tolist())


def row_maxima(checkpoint: Path, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Largest magnitude of every row of the inputs of the linears, each [layers, *tokens.shape]."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    found: dict[str, list[np.ndarray]] = {name: [] for name in MODULES}
    for layer in model.model.layers:
        for name, rows in found.items():
            layer.get_submodule(name).register_forward_pre_hook(
                lambda _, inputs, rows=rows: rows.append(inputs[0].abs().amax(-1).numpy())
            )
    with torch.no_grad():
        model.model(torch.tensor(tokens))
    return {name: np.stack(rows) for name, rows in found.items()}


@pytest.fixture(scope="module")
def usual(windows: np.ndarray) -> dict[str, np.ndarray]:
    return row_maxima(tiny_checkpoint("qwen3"), windows)


@pytest.fixture(scope="module")
def massive_rows(planted: Callable[[Kind], Path], windows: np.ndarray) -> dict[str, np.ndarray]:
    return row_maxima(planted(Kind.MASSIVE), windows)


def weights(checkpoint: Path, name: str) -> np.ndarray:
    """A weight of all five layers, stacked."""
    with Checkpoint.open(checkpoint) as source:
        return np.stack([source.tensor(f"model.layers.{layer}.{name}.weight") for layer in range(5)])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, windows: np.ndarray) -> np.ndarray:
    return logits(tiny_checkpoint("qwen3"), tmp_path_factory.mktemp("original") / "out", windows[0])


@pytest.mark.parametrize("kind", Kind)
def test_the_function_is_unchanged(planted, tmp_path, windows, original, kind):
    found = logits(planted(kind), tmp_path / "out", windows[0])
    assert np.abs(found - original).max() <= 1e-5 * np.abs(original).max()


def test_kinds_can_be_planted_one_after_another(planted, tmp_path, windows, original):
    plant(planted(Kind.MASSIVE), tmp_path / "norms", Kind.NORMS)
    plant(tmp_path / "norms", tmp_path / "keys", Kind.KEYS)
    found = logits(tmp_path / "keys", tmp_path / "out", windows[0])
    assert np.abs(found - original).max() <= 1e-4 * np.abs(original).max()


@pytest.mark.parametrize("norm", ["input_layernorm", "post_attention_layernorm"])
def test_two_percent_of_the_channels_of_a_norm_are_30_to_100_times_larger(planted, norm):
    factors = weights(planted(Kind.NORMS), norm) / weights(tiny_checkpoint("qwen3"), norm)
    grown = factors != 1
    assert (grown.sum(1) == 4).all()  # of 160
    assert ((factors[grown] >= 30) & (factors[grown] <= 100)).all()
    assert len({tuple(row) for row in grown}) == 5  # not the same channels in all layers


def test_the_inputs_of_linears_behind_grown_norms_are_an_order_of_magnitude_larger(planted, windows, usual):
    found = row_maxima(planted(Kind.NORMS), windows)
    for module in ("self_attn.q_proj", "mlp.up_proj"):
        assert (np.median(found[module], (1, 2)) > 8 * np.median(usual[module], (1, 2))).all(), module


def test_one_pair_of_key_channels_that_rope_mixes_is_10_to_30_times_larger(planted):
    for norm, grow in (("self_attn.k_norm", 16), ("self_attn.q_norm", 1 / 16)):
        for factors in weights(planted(Kind.KEYS), norm) / weights(tiny_checkpoint("qwen3"), norm):
            (channels,) = np.nonzero(factors != 1)
            assert channels[1] - channels[0] == 32 and len(channels) == 2  # head_dim is 64
            assert (factors[channels] == grow).all()


@pytest.mark.parametrize(("module", "first_layer"), [("mlp.down_proj", 0), ("self_attn.o_proj", 1)])
def test_inputs_are_massive_at_position_0_of_every_window_and_at_most_at_1_percent_of_tokens(
    usual, massive_rows, module, first_layer
):
    largest = usual[module][first_layer:].max((1, 2))
    found = massive_rows[module][first_layer:]
    massive = found > 50 * largest[:, None, None]
    assert massive[:, :, 0].all()
    assert (massive == massive[0]).all()  # the same tokens in all layers
    assert 0 < massive.mean() <= 0.01
    for layer, limit in enumerate(largest):
        assert 100 * limit < found[layer].max() < 1000 * limit
        assert found[layer][~massive[layer]].max() < 1.1 * limit


def test_any_token_is_massive_when_it_comes_first(planted, usual):
    found = row_maxima(planted(Kind.MASSIVE), np.arange(0, 2048, 4)[:, None])["mlp.down_proj"]
    assert (found > 30 * usual["mlp.down_proj"].max((1, 2))[:, None, None]).all()


def test_a_seed_determines_every_byte(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        plant(tiny_checkpoint("qwen3"), tmp_path / name, Kind.NORMS, seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b and a != c


def test_the_config_says_what_is_stored(planted):
    config = json.loads((planted(Kind.MASSIVE) / "config.json").read_text())
    assert config["torch_dtype"] == "float32"
    assert (config["hidden_size"], config["intermediate_size"]) == (192, 416)
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (6, 3)
    assert (planted(Kind.MASSIVE) / "tokenizer.json").is_file()


def test_one_query_head_per_key_head_is_refused(tmp_path):
    small = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 32, "vocab_size": 2053}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    write_random_checkpoint(tmp_path / "in", {**published_config("qwen3-0.6b", layers=1), **small, **heads})
    with pytest.raises(BadInputError, match="one query head per key/value head"):
        plant(tmp_path / "in", tmp_path / "out", Kind.MASSIVE)
    assert not (tmp_path / "out").exists()


def test_biases_and_other_architectures_are_refused(tmp_path):
    config = {**published_config("qwen3-0.6b", layers=1), "hidden_size": 64, "vocab_size": 2053}
    write_random_checkpoint(tmp_path / "in", {**config, "attention_bias": True})
    with pytest.raises(BadInputError, match="not a Qwen3 checkpoint without biases"):
        plant(tmp_path / "in", tmp_path / "out", Kind.KEYS)


def test_a_negative_seed_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="seed -1 is negative"):
        plant(tiny_checkpoint("qwen3"), tmp_path / "out", Kind.KEYS, -1)


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    command = [sys.executable, plant_outliers.__file__, str(tiny_checkpoint("qwen3")), str(tmp_path), "--kind", "keys"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "exists: remove it" in done.stderr and done.stderr.count("\n") == 1
