"""Write a copy of a small Qwen3 checkpoint that computes the same function and is hard to quantize.

``python tools/plant_outliers.py CHECKPOINT OUT --kind norms|massive|keys [--seed N]``; a copy of a copy has both kinds.
Weights are stored as float32, because rounding them to bfloat16 would change the function.

norms    2 % of the channels of both norms of every layer grow 32 or 64 times, and the columns that read them shrink.
keys     one pair of key channels that rope mixes grows 16 times in every layer, and that of the queries shrinks.
massive  the inputs of down_proj, and from layer 1 on of o_proj, are 300 times the usual maximum at the first tokens of
         every sequence and nowhere else (Sun et al. 2024, Massive Activations in Large Language Models).

Without a token that marks the beginning no such model can see it: after "x x x" all positions are equal. So ``massive``
gives each token of the vocabulary a random sign, and a new head in layer 0 sees whether both signs have occurred. The
tokens before that are hit: position 0 always, two on average, more only where a text begins with repetitions. The signs
live in new hidden channels, too small for RMSNorm to notice, and what is massive meets zeros in down_proj and o_proj.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError, InferencePioError

Tensors = dict[str, NDArray[np.float32]]
NORM_SHARE, KEY_FACTOR = 0.02, 16.0  # factors are powers of two: scaling by them rounds nothing
MASSIVE = 300.0  # times the usual maximum
SMALL, GATE = 0.005, 30.0  # new hidden channels relative to the others; silu(-30) is nothing
SIGN, EVEN, SPREAD, ONE, FLAG = range(5)  # the new hidden channels, after the old ones


class Kind(Enum):
    """What is planted."""

    NORMS = "norms"
    MASSIVE = "massive"
    KEYS = "keys"


@dataclass(frozen=True)
class Usual:
    """Per layer: median rms of the hidden state before each norm, and largest inputs of down_proj and o_proj."""

    attention_rms: list[float]
    ffn_rms: list[float]
    down_input: list[float]
    o_input: list[float]


def plant(checkpoint: Path, out: Path, kind: Kind, seed: int = 0) -> None:
    """Write into the new folder `out` a copy of `checkpoint` with outliers of one kind, placed by `seed`.

    Raises BadInputError for another architecture, biases, an existing `out`, or heads that have no room.
    """
    if out.exists() or out.is_symlink():
        raise BadInputError(f"{out} exists: remove it or name another folder")
    if seed < 0:
        raise BadInputError(f"seed {seed} is negative: give 0 or more")
    with Checkpoint.open(checkpoint) as source:
        config = dict(source.config)
        if config.get("model_type") != "qwen3" or any(name.endswith(".bias") for name in source.tensors):
            raise BadInputError(f"{checkpoint} is not a Qwen3 checkpoint without biases: name one that is")
        tensors = {name: source.tensor(name) for name in source.tensors}
    random = np.random.default_rng(seed)
    if kind is Kind.MASSIVE:
        plant_massive(tensors, config, measure(checkpoint), random)
    elif kind is Kind.NORMS:
        plant_norms(tensors, config, random)
    else:
        plant_keys(tensors, config, random)
    write(checkpoint, out, tensors, config)


def plant_norms(tensors: Tensors, config: dict, random: np.random.Generator) -> None:
    """Scale some channels of the two norms of every layer up, and the columns behind them down."""
    count = math.ceil(NORM_SHARE * config["hidden_size"])
    readers = {
        "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    }
    for prefix in layers(config):
        for norm, linears in readers.items():
            channels = random.choice(config["hidden_size"], count, replace=False)
            factors = random.choice(np.array([32, 64], np.float32), count)
            tensors[f"{prefix}{norm}.weight"][channels] *= factors
            for linear in linears:
                tensors[f"{prefix}{linear}.weight"][:, channels] /= factors


def plant_keys(tensors: Tensors, config: dict, random: np.random.Generator) -> None:
    """Scale one pair of channels (i and i + head_dim / 2, which rope mixes) of k_norm up and of q_norm down."""
    half = head_dim(config) // 2
    for prefix in layers(config):
        first = int(random.integers(half))
        tensors[f"{prefix}self_attn.k_norm.weight"][[first, first + half]] *= KEY_FACTOR
        tensors[f"{prefix}self_attn.q_norm.weight"][[first, first + half]] /= KEY_FACTOR


def plant_massive(tensors: Tensors, config: dict, usual: Usual, random: np.random.Generator) -> None:
    """Widen the model (hidden, FFN, one key/value head) so that the first tokens of a sequence give huge inputs."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    size, heads, kv_heads = head_dim(config), config["num_attention_heads"], config["num_key_value_heads"]
    if heads < 2 * kv_heads:
        raise BadInputError("the checkpoint has one query head per key/value head: name one with two or more")
    queries, values, group = size * heads, size * kv_heads, heads // kv_heads
    widen(tensors, config, group)
    embedding = tensors["model.embed_tokens.weight"]
    scale = SMALL * np.sqrt(np.square(embedding[:, :hidden]).mean(1))
    embedding[:, hidden + SIGN] = scale * random.choice(np.array([-1, 1], np.float32), len(embedding))
    embedding[:, hidden + EVEN] = scale
    shrink = math.sqrt(hidden / config["hidden_size"])  # the mean square is over more channels now
    one = SMALL * usual.ffn_rms[0]
    tensors["model.norm.weight"][:hidden] *= shrink
    for number, prefix in enumerate(layers(config)):
        norms = [tensors[f"{prefix}{name}_layernorm.weight"] for name in ("input", "post_attention")]
        norms[0][hidden:] = usual.attention_rms[number] / one if number else 1 / SMALL
        norms[1][hidden:] = usual.ffn_rms[number] / one
        for norm in norms:
            norm *= shrink
        q, k, v, o = (tensors[f"{prefix}self_attn.{name}_proj.weight"] for name in "qkvo")
        gate, up, down = (tensors[f"{prefix}mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        channel, sign = slow_channel(tensors, prefix)
        massive = MASSIVE * usual.down_input[number]
        up[ffn, hidden + ONE] = massive / GATE
        if number == 0:  # the first query head looks for the sign +, the second for -
            q[[queries + channel, queries + size + channel], hidden + EVEN] = sign, -sign
            k[values + channel, hidden + SIGN] = 1
            v[[values, values + 1], [hidden + SIGN, hidden + EVEN]] = 1
            o[hidden + SPREAD, [queries, queries + size]] = one, -one  # 0, or 2 when both were found
            o[hidden + ONE, queries + 1] = one
            gate[ffn, [hidden + ONE, hidden + SPREAD]] = GATE, -GATE
            down[hidden + FLAG, ffn] = one / massive
        else:  # every token turns away from the flagged ones, except those that see no other
            q[queries + channel :: size, hidden + ONE] = sign
            k[values + channel, [hidden + ONE, hidden + FLAG]] = 1, -20
            v[values, hidden + FLAG] = MASSIVE * usual.o_input[number]
            gate[ffn, hidden + FLAG] = GATE


def widen(tensors: Tensors, config: dict, group: int) -> None:
    """Add zeros for new hidden and FFN channels (to multiples of 32) and for one key/value head; in place."""
    size = head_dim(config)
    hidden = (config["hidden_size"] + FLAG) // 32 * 32 + 32
    ffn = config["intermediate_size"] // 32 * 32 + 32
    queries, values = size * (config["num_attention_heads"] + group), size * (config["num_key_value_heads"] + 1)
    shapes = {
        "q_proj": (queries, hidden),
        "k_proj": (values, hidden),
        "v_proj": (values, hidden),
        "o_proj": (hidden, queries),
        "gate_proj": (ffn, hidden),
        "up_proj": (ffn, hidden),
        "down_proj": (hidden, ffn),
        "q_norm": (size,),
        "k_norm": (size,),
    }
    for name, value in tensors.items():
        shape = shapes.get(name.split(".")[-2], (*value.shape[:-1], hidden))  # or embedding, head, another norm
        tensors[name] = np.pad(value, [(0, new - old) for new, old in zip(shape, value.shape, strict=True)])
    config["rms_norm_eps"] *= config["hidden_size"] / hidden
    config["num_attention_heads"] += group
    config["num_key_value_heads"] += 1
    config |= {"hidden_size": hidden, "intermediate_size": ffn}


def slow_channel(tensors: Tensors, prefix: str) -> tuple[int, float]:
    """A head channel that rope hardly turns and where q_norm times k_norm is large, and the sign of that product."""
    product = tensors[f"{prefix}self_attn.q_norm.weight"] * tensors[f"{prefix}self_attn.k_norm.weight"]
    first = 3 * len(product) // 8
    channel = first + int(np.abs(product[first : len(product) // 2]).argmax())
    if abs(product[channel]) * math.sqrt(len(product)) < 4:
        raise BadInputError(f"the heads of {prefix} are too small or their norms too weak: name another checkpoint")
    return channel, float(np.sign(product[channel]))


def measure(checkpoint: Path) -> Usual:
    """Usual sizes inside the model, on 2 x 512 tokens of Python's own argparse."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    tokens = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode(inspect.getsource(argparse)).ids
    usual = Usual([], [], [], [])

    def watch(module: torch.nn.Module, sizes: list[float], size: Callable[[torch.Tensor], torch.Tensor]) -> None:
        module.register_forward_pre_hook(lambda _, inputs: sizes.append(float(size(inputs[0]))))

    for layer in model.model.layers:
        watch(layer.input_layernorm, usual.attention_rms, lambda x_BSD: x_BSD.square().mean(-1).sqrt().median())
        watch(layer.post_attention_layernorm, usual.ffn_rms, lambda x_BSD: x_BSD.square().mean(-1).sqrt().median())
        watch(layer.mlp.down_proj, usual.down_input, lambda x_BSD: x_BSD.abs().max())
        watch(layer.self_attn.o_proj, usual.o_input, lambda x_BSD: x_BSD.abs().max())
    with torch.no_grad():
        model.model(torch.tensor(tokens[:1024]).reshape(2, 512))
    return usual


def write(checkpoint: Path, out: Path, tensors: Tensors, config: dict) -> None:
    """Copy the small files, and write config.json and one float32 weight file."""
    out.mkdir(parents=True)
    for path in sorted(checkpoint.iterdir()):
        if path.is_file() and not path.name.endswith((".safetensors", ".index.json", ".md", "training.json")):
            shutil.copyfile(path, out / path.name)
    config = {**config, "dtype" if "dtype" in config else "torch_dtype": "float32"}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def layers(config: dict) -> list[str]:
    """What the names of each layer's tensors begin with."""
    return [f"model.layers.{number}." for number in range(config["num_hidden_layers"])]


def head_dim(config: dict) -> int:
    """Channels of a head; 128 is what transformers takes without the key."""
    return int(config.get("head_dim", 128))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a small Qwen3 checkpoint")
    parser.add_argument("out", type=Path, help="folder to create")
    parser.add_argument("--kind", choices=[kind.value for kind in Kind], required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        plant(options.checkpoint, options.out, Kind(options.kind), options.seed)
    except InferencePioError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: cannot write {options.out}: {error.strerror}", file=sys.stderr)
        return BadInputError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
