"""Write a checkpoint of a real shape with random weights, shard by shard, in bounded memory.

``python tools/random_checkpoint.py qwen3-0.6b OUT`` needs numpy alone. Such a checkpoint serves tests and
benchmarks of size and speed; what it generates means nothing. `shapes/` holds a config.json per shape.
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
from typing import Any, BinaryIO

from random_shapes import SHAPES, published_config, token_ids
from random_tensors import Dtype, RandomTensors, stored_as
from tensor_shapes import Shapes, tensor_shapes

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
PREPROCESSORS = Path(__file__).parent / "preprocessors"  # by model_type
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def plan_shards(shapes: Shapes, dtype: Dtype, shard_bytes: int) -> list[list[str]]:
    """Tensor names per shard, in order; a tensor larger than ``shard_bytes`` has a shard to itself."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * stored_as(name, dtype).bytes
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def write_shard(file: BinaryIO, names: list[str], shapes: Shapes, dtype: Dtype, source: RandomTensors) -> None:
    """Write one safetensors file: length of the header, header padded to 8 bytes, contents in order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        stored = stored_as(name, dtype)
        end = offset + math.prod(shapes[name]) * stored.bytes
        entry = {"dtype": stored.safetensors_name, "shape": list(shapes[name]), "data_offsets": [offset, end]}
        header[name] = entry
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(len(encoded).to_bytes(8, "little") + encoded)
    for name in names:
        for chunk in source.chunks(name, shapes[name]):
            file.write(memoryview(chunk))


def write_random_checkpoint(
    out: Path,
    config: dict[str, Any],
    *,
    shard_bytes: int = 2 * 10**9,
    dtype: Dtype = Dtype.BF16,
    seed: int = 0,
    tokenizer: Path | None = None,
) -> None:
    """Write a checkpoint with the config.json ``config`` into the new folder ``out``.

    `random_tensors` says how values are distributed; a seed gives the same bytes each time, and the same tensors at
    any ``shard_bytes``. One file alone has no index, as published ones have none. Tokenizer files come from
    ``tokenizer``, by default a bundled tiny checkpoint of the family or of Qwen3; ids of images are the tokenizer's.
    Raises BadInputError, ResourceLimitError.
    """
    dtype = Dtype(dtype)
    shapes = tensor_shapes(config)
    total = sum(math.prod(shape) * stored_as(name, dtype).bytes for name, shape in shapes.items())
    source = tokenizer or tokenizer_like(str(config["model_type"]))
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
        write_small_files(out, {**config, **token_ids(config, source)}, dtype, source)
    except BaseException:  # an interrupted run leaves nothing behind either
        shutil.rmtree(out)
        raise


def tokenizer_like(model_type: str) -> Path:
    """The tiny checkpoint of this family where there is one, else that of Qwen3."""
    try:
        return tiny_checkpoint(model_type)
    except BadInputError:
        return tiny_checkpoint("qwen3")


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
    shapes: Shapes,
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


def write_small_files(out: Path, config: dict[str, Any], dtype: Dtype, tokenizer: Path) -> None:
    """Write configuration and generation defaults (greedy), and copy the tokenizer's files."""
    text = config.get("text_config", config)
    key = "dtype" if "dtype" in text else "torch_dtype"
    changed = {**text, key: dtype.torch_name}
    write_json(out / "config.json", {**config, "text_config": changed} if "text_config" in config else changed)
    ids = {name: text[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in text}
    write_json(out / "generation_config.json", {**ids, "do_sample": False})
    preprocessor = PREPROCESSORS / f"{config['model_type']}.json"
    if preprocessor.is_file():
        shutil.copyfile(preprocessor, out / "preprocessor_config.json")
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
