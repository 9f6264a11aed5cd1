"""Calibrations that are damaged, or made up: refused in one sentence, never used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from shapes import write_shape

from inference_pio.artifact.hashing import hash_file
from inference_pio.calibration.options import CalibrationOptions, Switches
from inference_pio.calibration.pipeline import calibrate
from inference_pio.errors import BadInputError
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export

OFF = Switches(False, False, False, False, False)
PREFIX = "model.layers.1."
UP, DOWN, Q, NORM = (
    f"{PREFIX}{name}.weight" for name in ("mlp.up_proj", "mlp.down_proj", "self_attn.q_proj", "input_layernorm")
)
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shape("odd_sizes", tmp_path_factory.mktemp("attacks") / "checkpoint")


@pytest.fixture(scope="module")
def good(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("attacks") / "calibration"
    options = CalibrationOptions(text=Path(__file__), samples=2, length=16, threads=1, switches=OFF)
    calibrate(checkpoint, out, options).close()
    return out


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "calibration"))


def refuse(checkpoint: Path, folder: Path, words: str, precision: str = "w8a8", kv_cache: str = "fp32") -> None:
    out = folder.parent / "out"
    with pytest.raises(BadInputError, match=words) as caught:
        export(checkpoint, out, ExportOptions(precision=precision, calibration=folder, kv_cache=kv_cache, threads=1))
    message = str(caught.value)
    assert message.isprintable() and 10 < len(message) < 600
    assert {path.name for path in folder.parent.iterdir()} - {"cache", "home"} == {"calibration"}


def sign(folder: Path) -> None:
    """Let calibration.json hold the hash of the second layer's file as it is now: somebody made it on purpose."""
    facts = json.loads((folder / "calibration.json").read_text())
    facts["files"]["00001.safetensors"] = hash_file(folder / "layers" / "00001.safetensors").sha256
    (folder / "calibration.json").write_text(json.dumps(facts))


def test_the_good_one_is_good(checkpoint: Path, folder: Path):
    export(checkpoint, folder.parent / "out", ExportOptions(precision="w8a8", calibration=folder, threads=1))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[1]", "JSON object"),
        (b"{}", "another version"),
        (b'{"version": 1}', "another version"),
        (b'{"version": "2"}', "another version"),
        (b'{"version": 2}', "another version"),
        (b'{"version": 3}', "no usable recipe, source, layers, files"),
        (b'{"version": 3, "version": 3}', "twice"),
        (b'{"version": ' + b"[" * 100_000, "nested|not valid JSON"),
    ],
)
def test_facts_that_are_none(checkpoint: Path, folder: Path, content: bytes, words: str):
    (folder / "calibration.json").write_bytes(content)
    refuse(checkpoint, folder, words)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("recipe", 8),
        ("layers", "3"),
        ("layers", 0),
        ("layers", -1),
        ("layers", True),
        ("layers", 2.5),
        ("files", ["00000.safetensors"]),
        ("exceptions", None),
        ("exceptions", [1]),
        ("exceptions", "model"),
        ("source", []),
        ("rules", "w8a8"),
        ("linears", {}),
        ("linears", [1]),
        ("linears", [{"tensor": 1, "kept_in_float32": False}]),
        ("linears", [{"tensor": UP}]),
        ("linears", [{"tensor": UP, "kept_in_float32": "no"}]),
        ("text", None),
    ],
)
def test_facts_of_a_wrong_type(checkpoint: Path, folder: Path, name: str, value: Any):
    facts = json.loads((folder / "calibration.json").read_text())
    (folder / "calibration.json").write_text(json.dumps({**facts, name: value}))
    refuse(checkpoint, folder, f"no usable {name}: it is damaged")
    del facts[name]
    (folder / "calibration.json").write_text(json.dumps(facts))
    refuse(checkpoint, folder, f"no usable {name}: it is damaged")


def test_linear_layers_that_the_checkpoint_lacks(checkpoint: Path, folder: Path):
    facts = json.loads((folder / "calibration.json").read_text())
    facts["linears"].append({"tensor": "\x1b[2J", "kept_in_float32": False})
    (folder / "calibration.json").write_text(json.dumps(facts))
    refuse(checkpoint, folder, r"x1b\[2J.*lacks")


def test_a_folder_that_is_no_calibration(checkpoint: Path, folder: Path):
    (folder / "calibration.json").unlink()
    refuse(checkpoint, folder, "without calibration.json")


def test_a_missing_layer(checkpoint: Path, folder: Path):
    (folder / "layers" / "00001.safetensors").unlink()
    refuse(checkpoint, folder, "00001.safetensors.* is missing")
    facts = json.loads((folder / "calibration.json").read_text())
    (folder / "calibration.json").write_text(json.dumps({**facts, "layers": 1000}))
    refuse(checkpoint, folder, "00001.safetensors.* is missing")


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_truncated_layer(checkpoint: Path, folder: Path, kept: int):
    place = folder / "layers" / "00001.safetensors"
    place.write_bytes(place.read_bytes()[:kept])
    refuse(checkpoint, folder, "00001.safetensors")


@pytest.mark.parametrize("part", [0.2, 0.5, 0.99])
def test_a_flipped_bit_among_the_values_is_noticed(checkpoint: Path, folder: Path, part: float):
    place = folder / "layers" / "00001.safetensors"
    data = bytearray(place.read_bytes())
    data[int(part * len(data))] ^= 1
    place.write_bytes(data)
    refuse(checkpoint, folder, "00001.safetensors is not what was written")


def test_files_without_a_hash_are_not_used(checkpoint: Path, folder: Path):
    facts = json.loads((folder / "calibration.json").read_text())
    del facts["files"]["00002.safetensors"]
    (folder / "calibration.json").write_text(json.dumps(facts))
    refuse(checkpoint, folder, "00002.safetensors is not what was written")


@pytest.mark.parametrize("bit", [0x01, 0x10, 0x80])
def test_no_flipped_bit_of_a_header_goes_unnoticed(checkpoint: Path, folder: Path, bit: int):
    """Every byte that says what the arrays are is checked, even where somebody made the hash fit."""
    from inference_pio.calibration.result import Calibration
    from inference_pio.checkpoint.checkpoint import Checkpoint

    place = folder / "layers" / "00001.safetensors"
    data = place.read_bytes()
    size = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + size].decode()
    cache = text.index('"cache.1')  # a lost step of the cache is noticed when an int8 cache is asked for
    places = [i for i in range(0, len(text.rstrip()), 7) if not cache <= i < cache + 400]
    with Checkpoint.open(checkpoint) as source:
        for at in places:
            place.write_bytes(data[: 8 + at] + bytes([data[8 + at] ^ bit]) + data[9 + at :])
            sign(folder)
            with Calibration(folder) as damaged, pytest.raises(BadInputError):
                damaged.check_source(source, 3)
        place.write_bytes(data)
        sign(folder)
        with Calibration(folder) as whole:
            whole.check_source(source, 3)


def exact(columns: Any, weights: Any) -> Callable[[Arrays], object]:
    return lambda arrays: arrays.update({f"{DOWN}.exact_columns": columns, f"{DOWN}.exact_weights": weights})


ONES = np.ones((40, 1), np.float32)

EDITS: dict[str, tuple[Callable[[Arrays], object], str]] = {
    "codes gone": (lambda a: a.pop(f"{UP}.codes"), UP),
    "scales gone": (lambda a: a.pop(f"{UP}.scales"), UP),
    "codes of another shape": (lambda a: a.update({f"{UP}.codes": a[f"{UP}.codes"][:, :-1]}), UP),
    "codes with fewer rows": (lambda a: a.update({f"{UP}.codes": a[f"{UP}.codes"][:-1]}), UP),
    "codes of another type": (lambda a: a.update({f"{UP}.codes": a[f"{UP}.codes"].astype(np.int16)}), UP),
    "codes for blocks": (lambda a: a.update({f"{UP}.codes": a[f"{UP}.codes"].view(np.uint8)}), UP),
    "scales with fewer rows": (lambda a: a.update({f"{UP}.scales": a[f"{UP}.scales"][1:]}), UP),
    "scales of another type": (lambda a: a.update({f"{UP}.scales": a[f"{UP}.scales"].astype(np.int32)}), UP),
    "scales NaN": (lambda a: a[f"{UP}.scales"].fill(np.nan), "NaN or infinite"),
    "exact columns outside": (exact(np.array([56]), ONES), "outside"),
    "exact columns negative": (exact(np.array([-1]), ONES), "outside"),
    "exact columns of another type": (exact(np.array([1.0], np.float32), ONES), DOWN),
    "exact columns a table": (exact(np.array([[1]]), ONES[:, :, None]), DOWN),
    "exact weights of another shape": (exact(np.array([1, 2]), ONES), DOWN),
    "exact weights NaN": (exact(np.array([1]), ONES * np.float32(np.nan)), "NaN or infinite"),
    "exact weights alone": (lambda a: a.update({f"{DOWN}.exact_weights": ONES}), DOWN),
    "a norm of another shape": (
        lambda a: a.update({NORM: np.ones(39, np.float32)}),
        f"calibration of tensor .{NORM}. is damaged",
    ),
    "a norm of another type": (
        lambda a: a.update({NORM: np.ones(40, np.int32)}),
        f"calibration of tensor .{NORM}. is damaged",
    ),
    "a norm NaN": (lambda a: a.update({NORM: np.full(40, np.nan, np.float32)}), NORM),
}


@pytest.mark.parametrize("name", EDITS)
def test_arrays_that_cannot_be(checkpoint: Path, folder: Path, name: str):
    edit, words = EDITS[name]
    place = folder / "layers" / "00001.safetensors"
    arrays = load_file(place)
    edit(arrays)
    save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, place)
    sign(folder)
    refuse(checkpoint, folder, words)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda a: a.pop("cache.1.key"), "no cache scales for layer 1"),
        (lambda a: a["cache.1.value"].fill(np.nan), "NaN|not finite"),
        (lambda a: a["cache.1.key"].fill(-1), "negative"),
        (lambda a: a.update({"cache.1.key": a["cache.1.key"][:, :8]}), "2 x 8 key"),
        (lambda a: a.update({"cache.1.key": np.array(3, np.float32)}), "cache.1.key"),
        (lambda a: a.update({"cache.1.key": a["cache.1.key"].astype(np.int16)}), "cache.1.key"),
    ],
)
def test_cache_steps_that_cannot_be(checkpoint: Path, folder: Path, edit: Callable[[Arrays], object], words: str):
    place = folder / "layers" / "00001.safetensors"
    arrays = load_file(place)
    edit(arrays)
    save_file({key: value.copy() for key, value in arrays.items()}, place)
    sign(folder)
    refuse(checkpoint, folder, words, kv_cache="int8")
