import json
from collections.abc import Callable
from pathlib import Path

import pytest

from inference_pio.checkpoint.weight_files import INDEX_FILE, find_weights
from inference_pio.errors import BadInputError


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def write_index(folder: Path, shard_of: object) -> None:
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": shard_of}))


def test_one_file(folder: Path) -> None:
    weights = find_weights(folder, names(folder))
    assert weights.files == [folder / "model.safetensors"]
    assert weights.index is None
    assert list(weights.tensors) == ["a", "b"]


def test_shards_are_joined_and_sorted_by_name(sharded: Path) -> None:
    weights = find_weights(sharded, names(sharded))
    assert [file.name[:11] for file in weights.files] == ["model-00001", "model-00002"]
    assert weights.index == sharded / INDEX_FILE
    assert list(weights.tensors) == ["a", "b"]
    assert weights.tensors["a"].file == weights.files[1]


def test_a_single_file_wins_over_an_index_of_other_shards(
    sharded: Path, write_weights: Callable[[Path, dict[str, list[int]]], None]
) -> None:
    write_weights(sharded / "model.safetensors", {"c": [1]})
    weights = find_weights(sharded, names(sharded))
    assert (list(weights.tensors), weights.index) == (["c"], None)


def test_a_stale_index_does_not_disturb_a_single_file(folder: Path) -> None:
    write_index(folder, {"a": "model-00001-of-00001.safetensors"})
    assert list(find_weights(folder, names(folder)).tensors) == ["a", "b"]


def test_an_index_of_the_single_file_is_followed(
    folder: Path, write_weights: Callable[[Path, dict[str, list[int]]], None]
) -> None:
    write_index(folder, {"a": "model.safetensors", "b": "model.safetensors", "c": "more.safetensors"})
    write_weights(folder / "more.safetensors", {"c": [1]})
    weights = find_weights(folder, names(folder))
    assert (list(weights.tensors), weights.index) == (["a", "b", "c"], folder / INDEX_FILE)
    write_index(folder, {"a": "model.safetensors"})
    with pytest.raises(BadInputError, match=r"does not place there: 'b'; it places the first in 'no shard'"):
        find_weights(folder, names(folder))


def test_other_safetensors_files_are_left_alone(
    folder: Path, write_weights: Callable[[Path, dict[str, list[int]]], None]
) -> None:
    write_weights(folder / "consolidated.safetensors", {"c": [1]})
    assert list(find_weights(folder, names(folder)).tensors) == ["a", "b"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "download the checkpoint again, in the safetensors format"),
        (["pytorch_model.bin"], "'pytorch_model.bin': pickles can run code"),
        (["consolidated.00.pth"], "'consolidated.00.pth': pickles can run code"),
        (["model-00001-of-00002.safetensors"], "only 'model-00001-of-00002.safetensors'"),
        (["model.fp16.safetensors", "pytorch_model.bin"], "only 'model.fp16.safetensors'"),
        (["manifest.json", "model.onnx"], "it is an exported artifact"),
    ],
)
def test_a_folder_without_weights_says_what_it_has(tmp_path: Path, files: list[str], words: str) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadInputError) as caught:
        find_weights(tmp_path, names(tmp_path))
    assert words in str(caught.value)


def test_weights_without_tensors_are_refused(
    folder: Path, write_weights: Callable[[Path, dict[str, list[int]]], None]
) -> None:
    write_weights(folder / "model.safetensors", {})
    with pytest.raises(BadInputError, match=r"'model\.safetensors' holds no tensors"):
        find_weights(folder, names(folder))
