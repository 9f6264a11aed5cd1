import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from inference_pio.checkpoint.safetensors_header import read_header
from inference_pio.errors import BadInputError


def write(path: Path, header: object, data: bytes) -> Path:
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def test_what_the_library_writes_is_found_at_its_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "b.f32": rng.standard_normal((3, 5), np.float32),
        "a.f16": rng.standard_normal(7).astype(np.float16),
        "scalar": np.array(2.5, np.float32),
        "bf16": np.arange(5).astype(ml_dtypes.bfloat16),
        "none": np.zeros((4, 0, 3), np.float16),
        "i64": np.arange(6).reshape(2, 3),
        "bool": np.array([True, False, True]),
    }
    path = tmp_path / "model.safetensors"
    save_file(arrays, path, metadata={"format": "pt"})
    found = read_header(path)
    content = path.read_bytes()
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        info = found[name]
        assert (info.name, info.shape, info.file) == (name, array.shape, path)
        assert content[info.offset : info.offset + info.nbytes] == array.tobytes()
    assert {name: info.dtype for name, info in found.items()} == {
        **{"b.f32": "F32", "a.f16": "F16", "scalar": "F32"},
        **{"none": "F16", "i64": "I64", "bool": "BOOL", "bf16": "BF16"},
    }


def test_tensors_come_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    header = {
        "late": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]},
        "empty": {"dtype": "F32", "shape": [0], "data_offsets": [2, 2]},
        "early": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]},
    }
    assert list(read_header(write(tmp_path / "m", header, bytes(4)))) == ["early", "empty", "late"]


@pytest.mark.parametrize(("dtype", "nbytes"), [("F4", 4), ("F6_E2M3", 6), ("F8_E8M0", 8), ("C64", 64)])
def test_unusual_dtypes_of_the_format_are_known(tmp_path: Path, dtype: str, nbytes: int) -> None:
    header = {"t": {"dtype": dtype, "shape": [2, 4], "data_offsets": [0, nbytes]}}
    assert read_header(write(tmp_path / "m", header, bytes(nbytes)))["t"].nbytes == nbytes


def test_a_padded_header_and_a_file_without_tensors_are_fine(tmp_path: Path) -> None:
    raw = b'{"__metadata__": {"a": "b"}}' + b" " * 20
    path = tmp_path / "m"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw)
    assert read_header(path) == {}


def test_half_a_byte_cannot_be_occupied(tmp_path: Path) -> None:
    header = {"t": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}
    with pytest.raises(BadInputError, match=r"'t' in 'm' occupies 2 bytes, but shape \[3\] of F4 needs 1\.5"):
        read_header(write(tmp_path / "m", header, bytes(2)))
