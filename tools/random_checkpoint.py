"""Write a checkpoint of a real Qwen3 shape with random weights, shard by shard, in bounded memory.

``python tools/random_checkpoint.py qwen3-0.6b OUT`` needs numpy alone. Such a checkpoint serves tests and
benchmarks of size and speed; what it generates means nothing.
"""

from __future__ import annotations

import argparse
import errno
import json
import math
import re
import shutil
import sys
from pathlib import Path
from typing import BinaryIO

from random_tensors import Dtype, RandomTensors

from inference_pio.errors import BadInputError, InferencePioError, ResourceLimitError
from inference_pio.tiny import tiny_checkpoint

SPARE_BYTES = 64_000_000  # left on the disk for tokenizer files and the file system
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
SHAPES = Path(__file__).parent / "shapes"  # one published config.json per shape
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def published_config(shape: str, layers: int | None = None) -> dict[str, object]:
    """config.json of the published checkpoint named ``shape``, cut to ``layers`` layers where given."""
    known = sorted(path.stem for path in SHAPES.glob("*.json"))
    if shape not in known:
        raise BadInputError(f"unknown shape {shape!r}: use one of {', '.join(known)}")
    config = json.loads((SHAPES / f"{shape}.json").read_text(encoding="utf-8"))
    if layers is not None:
        config |= {"num_hidden_layers": layers, "max_window_layers": layers}
    return config


def tensor_shapes(config: dict[str, object]) -> dict[str, tuple[int, ...]]:
    """Published name and shape of every tensor of a Qwen3 checkpoint with this config, in file order."""
    if config.get("model_type") != "qwen3":
        raise BadInputError(f"model_type is {config.get('model_type')!r}: only qwen3 can be written")
    hidden, ffn = positive(config, "hidden_size"), positive(config, "intermediate_size")
    heads, layers = positive(config, "num_attention_heads"), positive(config, "num_hidden_layers")
    head = positive({"head_dim": 128, **config}, "head_dim")  # 128 is what transformers takes without the key
    kv_heads = positive(config, "num_key_value_heads")
    embedding = (positive(config, "vocab_size"), hidden)

    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": embedding}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        linears = {
            "self_attn.q_proj": (heads * head, hidden),
            "self_attn.k_proj": (kv_heads * head, hidden),
            "self_attn.v_proj": (kv_heads * head, hidden),
            "self_attn.o_proj": (hidden, heads * head),
            "mlp.gate_proj": (ffn, hidden),
            "mlp.up_proj": (ffn, hidden),
            "mlp.down_proj": (hidden, ffn),
        }
        for name, shape in linears.items():
            shapes[f"{prefix}{name}.weight"] = shape
            if config.get("attention_bias") and name.startswith("self_attn"):
                shapes[f"{prefix}{name}.bias"] = shape[:1]
        shapes[prefix + "self_attn.q_norm.weight"] = (head,)
        shapes[prefix + "self_attn.k_norm.weight"] = (head,)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = embedding
    return shapes


def positive(config: dict[str, object], key: str) -> int:
    """The positive whole number that ``config`` has under ``key``."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadInputError(f"{key} of the config is {value!r}: give a positive whole number")
    return value


def plan_shards(shapes: dict[str, tuple[int, ...]], dtype: Dtype, shard_bytes: int) -> list[list[str]]:
    """Tensor names per shard, in order; a tensor larger than ``shard_bytes`` has a shard to itself."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * dtype.bytes
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def write_shard(
    file: BinaryIO, names: list[str], shapes: dict[str, tuple[int, ...]], dtype: Dtype, source: RandomTensors
) -> None:
    """Write one safetensors file: length of the header, header padded to 8 bytes, contents in order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        end = offset + math.prod(shapes[name]) * dtype.bytes
        entry = {"dtype": dtype.safetensors_name, "shape": list(shapes[name]), "data_offsets": [offset, end]}
        header[name] = entry
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(len(encoded).to_bytes(8, "little") + encoded)
    for name in names:
        for chunk in source.chunks(name, math.prod(shapes[name])):
            file.write(memoryview(chunk))


def write_random_checkpoint(
    out: Path,
    config: dict[str, object],
    *,
    shard_bytes: int = 2 * 10**9,
    dtype: Dtype = Dtype.BF16,
    seed: int = 0,
    tokenizer: Path | None = None,
) -> None:
    """Write a checkpoint with the config.json ``config`` (``model_type`` qwen3) into the new folder ``out``.

    Matrices and biases are normal(0, 0.02), norm weights normal(1, 0.05); a seed gives the same bytes each
    time, and the same tensors at any ``shard_bytes``. One file alone has no index, as published ones have
    none. Tokenizer files come from ``tokenizer``, by default the bundled tiny checkpoint.
    Raises BadInputError, ResourceLimitError.
    """
    dtype = Dtype(dtype)
    shapes = tensor_shapes(config)
    total = sum(math.prod(shape) for shape in shapes.values()) * dtype.bytes
    source = tokenizer or tiny_checkpoint("qwen3")
    if not (source / "tokenizer.json").is_file():
        raise BadInputError(f"no tokenizer.json in {source}: name a folder that holds a tokenizer")
    if shard_bytes < 1 or seed < 0:
        raise BadInputError(f"shard size {shard_bytes} or seed {seed} is too small: give 1 byte, seed 0 or more")
    if out.exists() or out.is_symlink():
        raise BadInputError(f"{out} exists: remove it or name another folder")
    check_disk(out, total)
    out.mkdir(parents=True)
    try:
        write_weights(out, shapes, total, dtype, RandomTensors(dtype, seed), shard_bytes)
        write_small_files(out, config, dtype, source)
    except BaseException:  # an interrupted run leaves nothing behind either
        shutil.rmtree(out)
        raise


def check_disk(out: Path, total: int) -> None:
    """Refuse when the disk that will hold ``out`` has too little room for ``total`` bytes of weights."""
    existing = next(folder for folder in out.absolute().parents if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < total + SPARE_BYTES:
        raise ResourceLimitError(
            f"{existing} has {free / 1e9:.1f} GB free but the checkpoint needs {total / 1e9:.1f} GB: "
            "free space, or use another disk or fewer layers"
        )


def write_weights(
    out: Path,
    shapes: dict[str, tuple[int, ...]],
    total: int,
    dtype: Dtype,
    source: RandomTensors,
    shard_bytes: int,
) -> None:
    """Write the shards, and their index where there is more than one."""
    shards = plan_shards(shapes, dtype, shard_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        weight_map |= dict.fromkeys(names, name)
        with (out / name).open("wb") as file:
            write_shard(file, names, shapes, dtype, source)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(out / "model.safetensors.index.json", index)


def write_small_files(out: Path, config: dict[str, object], dtype: Dtype, tokenizer: Path) -> None:
    """Write configuration and generation defaults (greedy), and copy the tokenizer's files."""
    key = "dtype" if "dtype" in config else "torch_dtype"
    write_json(out / "config.json", {**config, key: dtype.torch_name})
    ids: dict[str, object] = {
        name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in config
    }
    write_json(out / "generation_config.json", {**ids, "do_sample": False})
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, out / name)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def parse_size(text: str) -> int:
    """Bytes of a size such as 2GB (decimal units) or 512MiB (binary units)."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = {"": 1, "B": 1, **UNITS}.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: write 2GB or 512MiB")
    return int(float(match[1]) * unit)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", help=f"one of {', '.join(sorted(path.stem for path in SHAPES.glob('*.json')))}")
    parser.add_argument("out", type=Path, help="folder to create")
    parser.add_argument("--layers", type=int, help="fewer or more layers than the published shape")
    parser.add_argument("--shard-size", type=parse_size, default="2GB", help="largest file (default %(default)s)")
    parser.add_argument("--dtype", choices=[dtype.value for dtype in Dtype], default=Dtype.BF16.value)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path, help="folder with tokenizer files (default: the tiny checkpoint)")
    options = parser.parse_args()
    try:
        write_random_checkpoint(
            options.out,
            published_config(options.shape, options.layers),
            shard_bytes=options.shard_size,
            dtype=Dtype(options.dtype),
            seed=options.seed,
            tokenizer=options.tokenizer,
        )
    except InferencePioError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: cannot write {options.out}: {error.strerror}", file=sys.stderr)
        return ResourceLimitError.exit_code if error.errno == errno.ENOSPC else BadInputError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
