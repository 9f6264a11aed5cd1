"""A Hugging Face checkpoint folder, opened for reading: config, tensors, and the files that go with them.

Nothing in it is executed. Files that are symbolic links are followed: a snapshot in the Hugging Face cache
consists of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference_pio.artifact.printable import listed, printable
from inference_pio.checkpoint.files import hash_files, read_json_object, reason
from inference_pio.checkpoint.fused_experts import split_experts
from inference_pio.checkpoint.location import find_folder
from inference_pio.checkpoint.safetensors import TensorInfo, TensorReader
from inference_pio.checkpoint.weight_files import find_weights
from inference_pio.errors import BadInputError

MAX_CONFIG_BYTES = 10_000_000

CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
PREPROCESSOR_FILES = ("preprocessor_config.json", "video_preprocessor_config.json")
_LICENSE_PREFIXES = ("license", "licence", "copying", "notice")

# Files beside the weights that say: these weights are not the whole model, or not its original numbers.
_ADAPTER_FILE = "adapter_config.json"
_QUANTIZED_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
_QUANTIZED_KEYS = ("quantization_config", "compression_config", "quantization")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An open checkpoint; close it, or use it as a context manager. Threads may share it.

    `config` and `generation_config` are the files' JSON as it stands, `tensors` is sorted by name and holds fused
    experts one by one, `parameters` counts the elements of all tensors, `code_files` lists Python files, which are
    never run.
    """

    path: Path
    config: dict[str, Any]
    generation_config: dict[str, Any] | None
    tensors: dict[str, TensorInfo]
    weight_files: list[Path]
    tokenizer_files: list[Path]
    preprocessor_files: list[Path]
    license_files: list[Path]
    code_files: list[Path]
    _hashed_files: list[Path] = field(repr=False)
    _reader: TensorReader = field(default_factory=TensorReader, repr=False)

    @classmethod
    def open(cls, source: str | Path, hub_cache: Path | None = None) -> Checkpoint:
        """Opens a folder, or a hub id `org/name` that is already in the local Hugging Face cache.

        `hub_cache` is by default ~/.cache/huggingface/hub. Raises `BadInputError` for everything that is
        missing, broken, contradictory or not supported (adapters, quantized weights, pickles).
        """
        folder = find_folder(source, hub_cache)
        names = _list(folder)
        config = _read_config(folder, names)
        weights = find_weights(folder, names)
        generation_config = None
        if GENERATION_CONFIG_FILE in names:
            generation_config = read_json_object(folder / GENERATION_CONFIG_FILE, MAX_CONFIG_BYTES)
        tokenizer_files = [folder / name for name in TOKENIZER_FILES if _is_file(folder / name)]
        preprocessor_files = [folder / name for name in PREPROCESSOR_FILES if _is_file(folder / name)]
        index = [] if weights.index is None else [weights.index]
        return cls(
            path=folder,
            config=config,
            generation_config=generation_config,
            tensors=split_experts(weights.tensors),
            weight_files=weights.files,
            tokenizer_files=tokenizer_files,
            preprocessor_files=preprocessor_files,
            license_files=_matching(folder, names, lambda name: name.lower().startswith(_LICENSE_PREFIXES)),
            code_files=_matching(folder, names, lambda name: name.endswith(".py")),
            _hashed_files=[folder / CONFIG_FILE, *weights.files, *index, *tokenizer_files, *preprocessor_files],
        )

    @property
    def parameters(self) -> int:
        """Elements of all tensors together; a tied embedding that is stored once counts once."""
        return sum(math.prod(info.shape) for info in self.tensors.values())

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows start..stop along axis 0 of a tensor, as float32 [stop - start, *shape[1:]].

        Raises `BadInputError` as `TensorReader.read_rows`, and for a tensor that is not there.
        """
        return self._reader.read_rows(self._info(name), start, stop)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """A whole tensor as float32 of its own shape. Raises `BadInputError` as `rows`."""
        return self._reader.read(self._info(name))

    def file_hashes(self, progress: Callable[[int, int], None] | None = None) -> dict[str, dict[str, str | int]]:
        """{"sha256", "size"} of config.json, weights, index and tokenizer files, by file name.

        `progress(bytes done, bytes in all)` is called after every chunk. The digests are those that the hub
        shows. Raises `BadInputError` for a file that cannot be read any more.
        """
        return hash_files(self._hashed_files, progress)

    def close(self) -> None:
        """Closes the weight files."""
        self._reader.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise BadInputError(f"the checkpoint {printable(self.path.name)} has no tensor {printable(name)}")
        return self.tensors[name]


def read_config(source: str | Path, hub_cache: Path | None = None) -> dict[str, Any]:
    """The config.json of a checkpoint, found as by `Checkpoint.open`, whose weights need not be there.

    Raises `BadInputError` for a folder that is not there or no checkpoint, adapters and quantized weights.
    """
    folder = find_folder(source, hub_cache)
    return _read_config(folder, _list(folder))


def _list(folder: Path) -> frozenset[str]:
    try:
        return frozenset(entry.name for entry in folder.iterdir())
    except OSError as fault:
        raise BadInputError(f"{printable(str(folder))} cannot be listed: {reason(fault)}") from fault


def _read_config(folder: Path, names: frozenset[str]) -> dict[str, Any]:
    if _ADAPTER_FILE in names:
        raise BadInputError(
            f"{printable(str(folder))} has an {_ADAPTER_FILE}: adapters are not supported; merge the adapter "
            "into its base model (peft: merge_and_unload) and export the result"
        )
    if CONFIG_FILE not in names:
        raise BadInputError(
            f"{printable(str(folder))} has no {CONFIG_FILE}; give the folder of a Hugging Face checkpoint"
        )
    config = read_json_object(folder / CONFIG_FILE, MAX_CONFIG_BYTES)
    quantized = [f"{CONFIG_FILE}: {key}" for key in _QUANTIZED_KEYS if config.get(key)]
    quantized += [name for name in _QUANTIZED_FILES if name in names]
    if quantized:
        raise BadInputError(
            f"the checkpoint is already quantized ({listed(quantized)}): pre-quantized checkpoints are not "
            "supported; export from the original"
        )
    return config


def _matching(folder: Path, names: frozenset[str], wanted: Callable[[str], bool]) -> list[Path]:
    return [folder / name for name in sorted(names) if wanted(name) and _is_file(folder / name)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False
