"""Which files hold a checkpoint's weights, and which tensor lies in which of them.

`model.safetensors` wins over an index beside it, as in transformers, which is what an artifact is verified
against; only an index that counts `model.safetensors` among its own shards is read instead.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from inference_pio.artifact.printable import listed, printable
from inference_pio.checkpoint.files import read_json_object
from inference_pio.checkpoint.safetensors_header import MAX_HEADER_BYTES, TensorInfo, read_header
from inference_pio.errors import BadInputError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Weights:
    """The weight files in use, the index when one was followed, and the tensors sorted by name."""

    files: list[Path]
    index: Path | None
    tensors: dict[str, TensorInfo]


def find_weights(folder: Path, names: Collection[str]) -> Weights:
    """The weights of a checkpoint; `names` is what its folder holds.

    With an index, shards and index must agree tensor by tensor. Raises `BadInputError` with the names.
    """
    shard_of = read_index(folder / INDEX_FILE) if INDEX_FILE in names else {}
    shards = sorted(set(shard_of.values()))
    if SINGLE_FILE in names and SINGLE_FILE not in shards:
        shard_of, shards = {}, [SINGLE_FILE]
    if not shards:
        raise BadInputError(_no_weights(folder, names))
    absent = [shard for shard in shards if shard not in names]
    if absent:
        raise BadInputError(f"{INDEX_FILE} lists shards that are missing: {listed(absent)}; download them")
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        found = read_header(folder / shard)
        if shard_of:
            _compare(shard, found.keys(), shard_of)
        tensors.update(found)
    if not tensors:
        raise BadInputError(f"{listed(shards)} holds no tensors; download the checkpoint again")
    index = folder / INDEX_FILE if shard_of else None
    return Weights([folder / shard for shard in shards], index, dict(sorted(tensors.items())))


def read_index(path: Path) -> dict[str, str]:
    """Shard file name by tensor name, from an index file; raises `BadInputError`.

    Shards are plain file names: nothing in an index can point outside the folder.
    """
    shard_of = read_json_object(path, MAX_HEADER_BYTES).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise BadInputError(f"{path.name} has no 'weight_map' that maps tensor names to shards")
    for name, shard in shard_of.items():
        if not isinstance(shard, str) or not _is_plain(shard):
            raise BadInputError(
                f"{path.name} places tensor {printable(name)} in {printable(shard)}, which is not the plain "
                "name of a .safetensors file in the checkpoint's folder"
            )
    return shard_of


def _is_plain(shard: str) -> bool:
    return (
        shard.endswith(".safetensors")
        and shard.isprintable()
        and not any(part in shard for part in ("/", "\\", ":", ".."))
    )


def _compare(shard: str, found: Collection[str], shard_of: dict[str, str]) -> None:
    listed_here = {name for name, file in shard_of.items() if file == shard}
    lacking = sorted(listed_here - set(found))
    if lacking:
        raise BadInputError(f"{shard} lacks tensors that {INDEX_FILE} places there: {listed(lacking)}")
    strange = sorted(set(found) - listed_here)
    if strange:
        where = printable(shard_of.get(strange[0], "no shard"))
        raise BadInputError(
            f"{shard} holds tensors that {INDEX_FILE} does not place there: {listed(strange)}; "
            f"it places the first in {where}"
        )


def _no_weights(folder: Path, names: Collection[str]) -> str:
    place = f"{printable(str(folder))} has no {SINGLE_FILE} and no {INDEX_FILE}"
    strays = sorted(name for name in names if name.endswith(".safetensors"))
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    if "manifest.json" in names:
        return f"{place}, but a manifest.json: it is an exported artifact; give the original checkpoint"
    if strays:
        return f"{place}, only {listed(strays)}; download the whole checkpoint, or rename a single file"
    if pickles:
        return (
            f"{place}, only {listed(pickles)}: pickles can run code when they are read and are refused; "
            "convert them with transformers' save_pretrained, which writes safetensors"
        )
    return f"{place}; download the checkpoint again, in the safetensors format"
