"""The folder of a calibration while it is made: what survives an interruption, and what the end leaves behind."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from inference_pio.calibration import workspace
from inference_pio.calibration.workspace import Workspace, refuse_existing
from inference_pio.errors import BadInputError, ResourceLimitError

KEY = {"recipe": "w8a8", "n": 1}
HIDDEN = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def write_hidden(work: Workspace, layer: int, by: float = 1) -> None:
    writer = work.write_hidden(layer)
    for sample in HIDDEN:
        writer.add(sample * np.float32(by))
    writer.close()


def do_layers(work: Workspace, first: int, last: int) -> None:
    if first == 0:
        write_hidden(work, 0)
    for layer in range(first, last):
        write_hidden(work, layer + 1, layer + 2)
        work.save_layer(layer, ({"a": np.full(3, layer, np.float32)}, {"layer": layer}))


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("finished", [0, 1, 2, 3, 5])
def test_finished_layers_are_still_there_after_an_interruption(tmp_path: Path, finished: int):
    with pytest.raises(KeyboardInterrupt), Workspace(tmp_path / "out", KEY) as work:
        do_layers(work, 0, finished)
        work.write_hidden(finished + 1).add(HIDDEN[0])
        raise KeyboardInterrupt
    with Workspace(tmp_path / "out", KEY) as work:
        assert work.finished_layers() == finished
        found = work.hidden(finished, 4)[:].reshape(2, 3, 4)
        assert np.array_equal(found, HIDDEN * np.float32(finished + 1 if finished else 1))
        assert [work.layer_facts(i) for i in range(finished)] == [{"layer": i} for i in range(finished)]
    assert not (tmp_path / "out").exists()


def test_only_the_hidden_states_for_the_next_layer_are_kept(tmp_path: Path):
    with Workspace(tmp_path / "out", KEY) as work:
        do_layers(work, 0, 3)
    assert [name for name in names(work.folder) if name.startswith("hidden")] == ["hidden.3.bin"]


def test_without_the_hidden_states_the_work_begins_anew(tmp_path: Path):
    with Workspace(tmp_path / "out", KEY) as work:
        do_layers(work, 0, 2)
        (work.folder / "hidden.2.bin").unlink()
        assert work.finished_layers() == 0


def test_a_layer_is_finished_with_its_facts_and_not_before(tmp_path: Path):
    with Workspace(tmp_path / "out", KEY) as work:
        do_layers(work, 0, 1)
        write_hidden(work, 2)
        assert work.finished_layers() == 1


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "facts"])
def test_a_damaged_layer_begins_anew(tmp_path: Path, layer: int, damage: str):
    with Workspace(tmp_path / "out", KEY) as work:
        do_layers(work, 0, 2)
    place = work.folder / "layers" / f"0000{layer}.safetensors"
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    if damage == "facts":
        (work.folder / f"layer.{layer}.json").write_text('{"facts": {}}')
    elif damage == "gone":
        place.unlink()
    else:
        place.write_bytes(data if damage == "flipped" else data[:-1])
    with Workspace(tmp_path / "out", KEY) as work:
        assert work.finished_layers() == 0
        assert names(work.folder) == ["key.json"]


@pytest.mark.parametrize("key", [{**KEY, "n": 2}, {}, {**KEY, "more": 1}])
def test_another_key_begins_anew(tmp_path: Path, key: dict[str, Any]):
    with Workspace(tmp_path / "out", KEY) as work:
        do_layers(work, 0, 2)
    with Workspace(tmp_path / "out", key) as work:
        assert work.finished_layers() == 0
        assert names(work.folder) == ["key.json"]


def test_the_end_puts_the_folder_in_place_with_nothing_beside(tmp_path: Path):
    with Workspace(tmp_path / "out", KEY) as work:
        do_layers(work, 0, 2)
        work.finish({"version": 1})
    assert names(tmp_path) == [
        "out/calibration.json",
        "out/layers/00000.safetensors",
        "out/layers/00001.safetensors",
    ]
    assert load_file(tmp_path / "out" / "layers" / "00001.safetensors")["a"].tolist() == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_old_folder_stands_until_the_new_one_is_complete(tmp_path: Path):
    for version in (1, 2):
        with Workspace(tmp_path / "out", KEY) as work:
            do_layers(work, 0, 1)
            if version == 2:
                assert b"1" in (tmp_path / "out" / "calibration.json").read_bytes()
            work.finish({"version": version})
    assert b"2" in (tmp_path / "out" / "calibration.json").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_place_may_be_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert Workspace(Path(), KEY).folder == tmp_path / ".here.partial"


def test_only_calibrations_and_empty_folders_are_replaced(tmp_path: Path):
    refuse_existing(tmp_path / "absent", False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("nowhere")
    refuse_existing(tmp_path / "empty", True)
    for name in ("empty", "full", "file", "link"):
        with pytest.raises(BadInputError, match="--force"):
            refuse_existing(tmp_path / name, False)
        if name != "empty":
            with pytest.raises(BadInputError, match="replaces only calibrations"):
                refuse_existing(tmp_path / name, True)
    (tmp_path / "full" / "calibration.json").write_text("{}")
    refuse_existing(tmp_path / "full", True)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(BadInputError, match="cannot be written"), Workspace(tmp_path / "file" / "out", KEY):
        pass


class FullDisk:
    """A file whose `moment` (write or flush) finds the disk full."""

    def __init__(self, moment: str) -> None:
        self.moment = moment

    def write(self, data: bytes) -> None:
        self._do("write")

    def flush(self) -> None:
        self._do("flush")

    def _do(self, what: str) -> None:
        if what == self.moment:
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("moment", ["write", "flush"])
def test_a_full_disk_while_hidden_states_are_written(tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch):
    with Workspace(tmp_path / "out", KEY) as work:
        writer = work.write_hidden(1)
        writer._file.close()
        monkeypatch.setattr(writer, "_file", FullDisk(moment))
        with pytest.raises(ResourceLimitError, match=r"no space left.*same command"):
            writer.add(HIDDEN[0])
            writer.close()


@pytest.mark.parametrize("error", [SafetensorError("IoError: No space left"), OSError(errno.ENOSPC, "No space left")])
def test_a_full_disk_while_a_layer_is_written(tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch):
    def full(tensors: dict[str, np.ndarray], path: Path) -> None:
        raise error

    with Workspace(tmp_path / "out", KEY) as work:
        do_layers(work, 0, 1)
        monkeypatch.setattr(workspace, "save_file", full)
        with pytest.raises(ResourceLimitError, match="same command to go on"):
            do_layers(work, 1, 2)
        assert work.finished_layers() == 1


def test_two_at_once_are_refused(tmp_path):
    with (
        Workspace(tmp_path / "out", KEY),
        pytest.raises(BadInputError, match="another calibration is writing"),
        Workspace(tmp_path / "out", KEY),
    ):
        pass
    with Workspace(tmp_path / "out", KEY) as work:  # the first one has let go
        assert work.folder.is_dir()
