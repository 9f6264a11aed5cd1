import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from inference_pio.checkpoint import safetensors as reading
from inference_pio.checkpoint.safetensors import TensorInfo, TensorReader, read_header
from inference_pio.errors import BadInputError

DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}


WORDS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "int64": "I64", "uint8": "U8"}


def save(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, TensorInfo]:
    header, end = {}, 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": WORDS[array.dtype.name], "shape": array.shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    data = b"".join(array.tobytes() for array in arrays.values())
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return read_header(path)


@pytest.fixture
def reader() -> Iterator[TensorReader]:
    with TensorReader() as opened:
        yield opened


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_half_precision_value_is_converted_exactly(tmp_path: Path, reader: TensorReader, dtype: str) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(DTYPES[dtype])
    found = reader.read(save(tmp_path / "m.safetensors", {"t": every})["t"])
    expected = every.astype(np.float32)
    nan = np.isnan(expected)
    assert found.dtype == np.float32
    assert np.array_equal(np.isnan(found), nan)
    assert same_bits(found[~nan], expected[~nan])


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(), (1,), (13,), (0,), (5, 0), (0, 5), (7, 3), (3, 1, 5, 2)])
def test_rows_are_slices_along_axis_0(tmp_path: Path, reader: TensorReader, dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    array = np.asarray(rng.standard_normal(shape), DTYPES[dtype])
    # One byte before it, so that the tensor does not lie at a multiple of its element size.
    infos = save(tmp_path / "m.safetensors", {"a": np.zeros(1, np.uint8), "t": array})
    expected = array.astype(np.float32)
    assert same_bits(reader.read(infos["t"]), expected)
    rows = np.atleast_1d(expected)
    for start in range(len(rows) + 1):
        for stop in range(start, len(rows) + 1):
            assert same_bits(reader.read_rows(infos["t"], start, stop), rows[start:stop])


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_tensors_larger_than_the_buffer(
    tmp_path: Path, reader: TensorReader, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr(reading, "_PIECE_BYTES", 64)
    array = np.random.default_rng(2).standard_normal((50, 11)).astype(DTYPES[dtype])
    info = save(tmp_path / "m.safetensors", {"t": array})["t"]
    assert same_bits(reader.read(info), array.astype(np.float32))
    assert same_bits(reader.read_rows(info, 3, 49), array[3:49].astype(np.float32))


def test_results_do_not_share_memory_with_later_reads(tmp_path: Path, reader: TensorReader) -> None:
    array = np.arange(12, dtype=np.float32).reshape(4, 3).astype(ml_dtypes.bfloat16)
    info = save(tmp_path / "m.safetensors", {"t": array})["t"]
    first = reader.read_rows(info, 0, 2)
    reader.read_rows(info, 2, 4)
    assert first.flags.writeable
    assert same_bits(first, array[:2].astype(np.float32))


def test_threads_share_a_reader(tmp_path: Path, reader: TensorReader) -> None:
    rng = np.random.default_rng(3)
    arrays = {f"t{i}": rng.standard_normal((200, 40)).astype(ml_dtypes.bfloat16) for i in range(4)}
    infos = save(tmp_path / "m.safetensors", arrays)

    def right(job: int) -> bool:
        name, start = f"t{job % 4}", job % 199
        part = reader.read_rows(infos[name], start, start + 1 + job % (200 - start))
        return same_bits(part, arrays[name][start : start + len(part)].astype(np.float32))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(right, range(2000)))


def test_other_dtypes_are_refused_by_name(tmp_path: Path, reader: TensorReader) -> None:
    info = save(tmp_path / "m.safetensors", {"ids": np.arange(3)})["ids"]
    with pytest.raises(BadInputError, match=r"'ids' in 'm\.safetensors' is I64"):
        reader.read(info)
    with pytest.raises(BadInputError, match="'ids'"):
        reader.read_rows(info, 0, 1)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 5), (3, 2), (5, 5)])
def test_rows_outside_the_tensor_are_refused(tmp_path: Path, reader: TensorReader, start: int, stop: int) -> None:
    info = save(tmp_path / "m.safetensors", {"t": np.zeros((4, 2), np.float32)})["t"]
    with pytest.raises(BadInputError, match="'t', which has 4"):
        reader.read_rows(info, start, stop)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_a_file_that_shrinks_is_reported(tmp_path: Path, reader: TensorReader, dtype: str) -> None:
    path = tmp_path / "m.safetensors"
    info = save(path, {"t": np.ones((100, 10), DTYPES[dtype])})["t"]
    reader.read_rows(info, 99, 100)
    with open(path, "r+b") as file:
        file.truncate(info.offset + info.nbytes - 1)
    reader.read_rows(info, 0, 99)
    with pytest.raises(BadInputError, match=r"'m\.safetensors' ends at byte"):
        reader.read_rows(info, 99, 100)


def test_a_closed_reader_opens_nothing(tmp_path: Path) -> None:
    info = save(tmp_path / "m.safetensors", {"t": np.ones(3, np.float32)})["t"]
    reader = TensorReader()
    reader.read(info)
    reader.close()
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read(info)


_READ_IN_CHUNKS = """
import sys
from pathlib import Path
from inference_pio.checkpoint.safetensors import TensorReader, read_header

def peak_kib():
    # Of this process image alone; ru_maxrss may still carry what the parent used before the exec.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

info = read_header(Path(sys.argv[1]))["t"]
with TensorReader() as reader:
    reader.read_rows(info, 0, 1)
    before = peak_kib()
    for start in range(0, info.shape[0], 1000):
        assert not reader.read_rows(info, start, min(start + 1000, info.shape[0])).any()
print((peak_kib() - before) / 1024)
"""


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_reading_by_rows_needs_little_memory(tmp_path: Path, dtype: str) -> None:
    path, rows, width = tmp_path / "big.safetensors", 75_000, {"BF16": 2048, "F32": 1024}[dtype]
    header = f'{{"t":{{"dtype":"{dtype}","shape":[{rows},{width}],"data_offsets":[0,307200000]}}}}'.encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with open(path, "r+b") as file:
        file.truncate(8 + len(header) + 307_200_000)
    command = [sys.executable, "-c", _READ_IN_CHUNKS, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 50
