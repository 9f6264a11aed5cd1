import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError


def test_a_folder_opens_with_all_its_parts(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"top_k": 20}')
    for name in ("tokenizer.json", "chat_template.jinja", "merges.txt", "LICENSE", "license.txt", "NOTICE"):
        (folder / name).write_text(name)
    (folder / "LICENSES").mkdir()
    (folder / "vocab.json").mkdir()
    (folder / "modeling_x.py").write_text("raise SystemExit(1)")
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.path == folder
        assert checkpoint.config == {"model_type": "qwen3", "hidden_size": 3}
        assert checkpoint.generation_config == {"top_k": 20}
        assert list(checkpoint.tensors) == ["a", "b"]
        assert checkpoint.weight_files == [folder / "model.safetensors"]
        assert checkpoint.parameters == 10
        assert [f.name for f in checkpoint.tokenizer_files] == [
            *("tokenizer.json", "merges.txt", "chat_template.jinja"),
        ]
        assert [f.name for f in checkpoint.license_files] == ["LICENSE", "NOTICE", "license.txt"]
        assert [f.name for f in checkpoint.code_files] == ["modeling_x.py"]


def test_what_a_folder_lacks_is_empty(folder: Path) -> None:
    with Checkpoint.open(str(folder)) as checkpoint:
        assert checkpoint.generation_config is None
        assert checkpoint.tokenizer_files == checkpoint.license_files == checkpoint.code_files == []


def test_tensors_and_rows_are_the_same_in_shards(folder: Path, sharded: Path) -> None:
    counted = np.arange(10, dtype=np.uint32).view(np.float32)
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.tensor("b").tobytes() == counted[:6].tobytes()
        assert checkpoint.tensor("b").shape == (2, 3)
        assert checkpoint.rows("a", 1, 3).tobytes() == counted[7:9].tobytes()
    with Checkpoint.open(sharded) as checkpoint:
        assert checkpoint.rows("b", 1, 2).tobytes() == counted[3:6].tobytes()
        assert checkpoint.tensor("a").tobytes() == counted[:4].tobytes()


def test_an_unknown_tensor_is_named(folder: Path) -> None:
    with Checkpoint.open(folder) as checkpoint:
        for read in (lambda: checkpoint.tensor("zz"), lambda: checkpoint.rows("zz", 0, 1)):
            with pytest.raises(BadInputError, match="'checkpoint' has no tensor 'zz'"):
                read()


def test_hashes_cover_what_decides_the_model(folder: Path, sharded: Path) -> None:
    (sharded / "tokenizer.json").write_text("{}")
    (sharded / "README.md").write_text("words")
    with Checkpoint.open(sharded) as checkpoint:
        hashes = checkpoint.file_hashes()
    assert sorted(hashes) == [
        *("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        *("model.safetensors.index.json", "tokenizer.json"),
    ]
    for name, found in hashes.items():
        content = (sharded / name).read_bytes()
        assert found == {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "gone.safetensors"}}')
    with Checkpoint.open(folder) as checkpoint:
        assert sorted(checkpoint.file_hashes()) == ["config.json", "model.safetensors"]


def test_a_cached_snapshot_of_links_opens(folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / "0123abcd"
    for part in (snapshot, repository / "refs", repository / "blobs"):
        part.mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abcd")
    for number, name in enumerate(("config.json", "model.safetensors")):
        (folder / name).rename(repository / "blobs" / str(number))
        (snapshot / name).symlink_to(Path("../../blobs") / str(number))
    with Checkpoint.open("org/name", hub_cache=tmp_path / "hub") as checkpoint:
        assert checkpoint.path == snapshot
        assert checkpoint.tensor("a").shape == (4,)
    (repository / "blobs" / "1").unlink()
    with pytest.raises(BadInputError, match=r"'model\.safetensors' is a link to a file that is gone"):
        Checkpoint.open("org/name", hub_cache=tmp_path / "hub")


@pytest.mark.parametrize("key", ["quantization_config", "compression_config", "quantization"])
def test_quantized_checkpoints_are_refused_by_name(folder: Path, key: str) -> None:
    for empty in (None, {}):
        (folder / "config.json").write_text(json.dumps({key: empty}))
        Checkpoint.open(folder).close()
    (folder / "config.json").write_text(json.dumps({key: {"quant_method": "gptq"}}))
    with pytest.raises(BadInputError, match=f"'config.json: {key}'.*export from the original"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json", "hf_quant_config.json"])
def test_files_of_quantizers_are_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).write_text("{}")
    with pytest.raises(BadInputError, match=f"'{name}'.*export from the original"):
        Checkpoint.open(folder)


def test_adapters_are_refused_by_name(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(BadInputError, match=r"adapter_config\.json: adapters are not supported"):
        Checkpoint.open(folder)


def test_a_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(BadInputError, match=r"has no config\.json"):
        Checkpoint.open(folder)
