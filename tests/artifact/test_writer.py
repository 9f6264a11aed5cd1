"""The writer: nothing half-written is ever seen, nothing foreign is ever replaced, nothing is left behind."""

import errno
import fcntl
import os
import sys
from pathlib import Path

import pytest

from inference_pio.artifact import writer as module
from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.writer import ArtifactWriter, HashedFile, disk_error, refuse_existing
from inference_pio.errors import BadInputError, ResourceLimitError

sys.path.insert(0, str(Path(__file__).parents[1]))
from artifact_cases import FILES, hash_of, manifest_of, snapshot, write_artifact

NEW = {**FILES, "model.onnx": b"a new graph"}


def write(out: Path, files: dict[str, bytes] = NEW, force: bool = False, commit: bool = True) -> None:
    with ArtifactWriter(out, force) as writer:
        for name, data in files.items():
            writer.add(name, data)
        if commit:
            writer.commit(manifest_of(files).to_bytes())


def alone(out: Path) -> bool:
    return [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_committed_artifact_opens_and_has_no_sibling(tmp_path):
    out = tmp_path / "out"
    write(out)
    assert Artifact.open(out).file("model.onnx").read_bytes() == b"a new graph"
    assert alone(out)


def test_parents_are_made(tmp_path):
    write(tmp_path / "a" / "b" / "out")
    Artifact.open(tmp_path / "a" / "b" / "out")


def test_leaving_without_a_commit_removes_everything(tmp_path):
    write(tmp_path / "out", commit=False)
    with pytest.raises(RuntimeError), ArtifactWriter(tmp_path / "out", False) as writer:
        writer.add("x", b"x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_hashes_and_sizes_are_those_of_the_files(tmp_path):
    with ArtifactWriter(tmp_path / "out", False) as writer:
        file = writer.create("large")
        file.write(b"abc")
        assert file.align(8) == 8
        assert file.align(8) == 8
        file.write(memoryview(b"defg"))
        file.write(b"")
        writer.finish("large", file)
        writer.add("report", b"1", record=False)
        assert writer.files == {"large": hash_of(b"abc\0\0\0\0\0defg")}
        assert (writer.folder / "large").read_bytes() == b"abc\0\0\0\0\0defg"


def test_one_name_is_written_once(tmp_path):
    with ArtifactWriter(tmp_path / "out", False) as writer:
        writer.add("x", b"x")
        with pytest.raises(BadInputError, match="File exists"):
            writer.add("x", b"y")


def test_what_exists_is_refused_without_force(tmp_path):
    out = write_artifact(tmp_path / "out")
    before = snapshot(out)
    with pytest.raises(BadInputError, match="exists, and is replaced only with --force"):
        write(out)
    assert snapshot(out) == before
    assert alone(out)


def test_force_replaces_an_artifact(tmp_path):
    out = write_artifact(tmp_path / "out", {**FILES, "old": b"old"})
    write(out, force=True)
    Artifact.open(out)
    assert not (out / "old").exists()
    assert alone(out)


def test_the_old_one_stays_whole_until_the_new_one_is(tmp_path, monkeypatch):
    out = write_artifact(tmp_path / "out")
    before = snapshot(out)
    exchange = module._exchange

    def watched(new: Path, old: Path) -> None:
        assert snapshot(out) == before
        Artifact.open(new)
        exchange(new, old)
        assert snapshot(new) == before
        Artifact.open(out)

    monkeypatch.setattr(module, "_exchange", watched)
    with ArtifactWriter(out, True) as writer:
        for name, data in NEW.items():
            writer.add(name, data)
            assert snapshot(out) == before
        writer.commit(manifest_of(NEW).to_bytes())
    assert Artifact.open(out).file("model.onnx").read_bytes() == b"a new graph"
    assert alone(out)


def test_an_empty_folder_may_be_replaced_with_force(tmp_path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", force=True)
    Artifact.open(tmp_path / "out")


FOLDERS = {
    "folder": ("mine.txt", b"mine"),
    "checkpoint": ("model.safetensors", b"mine"),
    "web page": ("manifest.json", b'{"manifest_version": 3, "name": "mine"}'),
    "broken manifest": ("manifest.json", b"{"),
}
KINDS = ["file", "folder", "link", "dead link", "link to an artifact", "checkpoint", "web page", "broken manifest"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_artifact_is_never_replaced(tmp_path, kind, force):
    out = tmp_path / "out"
    if kind == "file":
        out.write_bytes(b"mine")
    elif kind in FOLDERS:
        out.mkdir()
        name, content = FOLDERS[kind]
        (out / name).write_bytes(content)
    else:
        target = tmp_path / "target"
        write_artifact(target) if kind == "link to an artifact" else target.mkdir()
        out.symlink_to("nowhere" if kind == "dead link" else target)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(BadInputError, match="only artifacts" if force else "only with --force"):
        write(out, force=force)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["x" * 300, "x" * 250])
def test_names_that_the_file_system_refuses(tmp_path, name):
    with pytest.raises(BadInputError, match="File name too long"):
        write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(BadInputError, match=r"Not a directory|File exists"):
        write(tmp_path / "file" / "out")


@pytest.mark.parametrize("name", [".", "../inside"])
def test_the_current_folder_has_a_name_too(tmp_path, monkeypatch, name):
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    write(Path(name), force=True)
    Artifact.open(tmp_path / "inside")
    assert alone(tmp_path / "inside")


def test_a_second_writer_is_refused_and_harms_nothing(tmp_path):
    out = tmp_path / "out"
    with ArtifactWriter(out, False) as first:
        first.add("x", b"x")
        for force in (False, True):
            with pytest.raises(BadInputError, match="another export is writing"):
                write(out, force=force)
        assert (first.folder / "x").read_bytes() == b"x"
        for name, data in NEW.items():
            first.add(name, data)
        first.commit(manifest_of({**NEW, "x": b"x"}).to_bytes())
    Artifact.open(out)


def test_a_folder_that_is_replaced_before_the_lock_is_refused(tmp_path, monkeypatch):
    out = tmp_path / "out"

    def replaced(descriptor: int, operation: int) -> None:
        (tmp_path / ".out.partial").rename(tmp_path / "elsewhere")
        (tmp_path / ".out.partial").mkdir()

    monkeypatch.setattr(fcntl, "flock", replaced)
    with pytest.raises(BadInputError, match="another export"):
        write(out)


def test_what_appears_meanwhile_is_not_replaced(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(BadInputError, match="exists"), ArtifactWriter(out, False) as writer:
        writer.add("x", b"x")
        write_artifact(out)
        writer.commit(manifest_of({"x": b"x"}).to_bytes())
    Artifact.open(out)
    assert alone(out)


def test_what_a_killed_process_left_is_cleared(tmp_path):
    stale, outside = tmp_path / ".out.partial", tmp_path / "outside"
    (stale / "sub").mkdir(parents=True)
    (stale / "sub" / "x").write_bytes(b"x")
    (stale / "model.onnx").write_bytes(b"half")
    outside.mkdir()
    (outside / "mine").write_bytes(b"mine")
    (stale / "link").symlink_to(outside)
    (stale / "dead").symlink_to("nowhere")
    write(tmp_path / "out")
    Artifact.open(tmp_path / "out")
    assert (outside / "mine").read_bytes() == b"mine"
    assert not stale.exists()


@pytest.mark.parametrize("target", ["folder", "file"])
def test_a_link_in_place_of_the_sibling_is_not_followed(tmp_path, target):
    mine = tmp_path / "mine"
    mine.mkdir() if target == "folder" else mine.write_bytes(b"mine")
    if target == "folder":
        (mine / "x").write_bytes(b"mine")
    (tmp_path / ".out.partial").symlink_to(mine)
    before = snapshot(tmp_path)
    with pytest.raises(BadInputError, match="cannot write beside"):
        write(tmp_path / "out")
    assert snapshot(tmp_path) == before


def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.ctypes, "CDLL", lambda *args, **kwargs: object())


def test_systems_that_cannot_swap_folders(tmp_path, monkeypatch):
    without_exchange(monkeypatch)
    out = write_artifact(tmp_path / "out")
    write(out, force=True)
    assert Artifact.open(out).file("model.onnx").read_bytes() == b"a new graph"
    assert alone(out)


@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_half_done_swap_is_undone_or_finished(tmp_path, monkeypatch, killed_after):
    """The three renames of a swap, interrupted in between: the next export finds a whole artifact."""
    without_exchange(monkeypatch)
    out = write_artifact(tmp_path / "out")
    renames, rename = [], Path.rename

    def dying(path: Path, target: Path) -> Path:
        if len(renames) == killed_after:
            raise KeyboardInterrupt
        renames.append(target)
        return rename(path, target)

    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        patch.setattr(ArtifactWriter, "__exit__", lambda writer, *_: writer._lock.release())
        write(out, force=True)
    assert out.exists() == (killed_after == 2)
    with pytest.raises(BadInputError, match="only with --force"):
        write(out)
    Artifact.open(out)
    write(out, force=True)
    assert alone(out)


def test_a_folder_that_only_looks_like_a_half_done_swap_is_kept(tmp_path):
    (tmp_path / ".out.old").mkdir()
    (tmp_path / ".out.old" / "mine").write_bytes(b"mine")
    write(tmp_path / "out")
    assert (tmp_path / ".out.old" / "mine").read_bytes() == b"mine"


def test_provisional_lets_the_folder_open_for_a_while(tmp_path):
    with ArtifactWriter(tmp_path / "out", False) as writer:
        for name, data in NEW.items():
            writer.add(name, data)
        with writer.provisional(manifest_of(NEW).to_bytes()):
            Artifact.open(writer.folder)
        assert not (writer.folder / "manifest.json").exists()
        with pytest.raises(ValueError), writer.provisional(manifest_of(NEW).to_bytes()):
            raise ValueError
        writer.commit(manifest_of(NEW).to_bytes())
    Artifact.open(tmp_path / "out")


def test_a_full_disk_is_a_resource_limit(tmp_path):
    file = HashedFile(tmp_path / "x")
    file._file.close()
    file._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(ResourceLimitError, match="No space left on device; free some space"):
        file.write(b"x")


def test_a_full_disk_is_noticed_when_it_is_flushed(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    file = HashedFile(tmp_path / "x")
    file.write(b"x")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceLimitError, match="quota"):
        file.close()


def test_a_write_that_takes_part_of_the_data_goes_on(tmp_path):
    class Reluctant:
        def __init__(self) -> None:
            self.taken = b""

        def write(self, view: memoryview) -> int:
            self.taken += bytes(view[:3])
            return min(3, len(view))

    file = HashedFile(tmp_path / "x")
    file._file.close()
    file._file = reluctant = Reluctant()
    file.write(b"0123456789")
    assert reluctant.taken == b"0123456789"


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, ResourceLimitError), (errno.EFBIG, ResourceLimitError), (errno.EROFS, BadInputError)],
)
def test_which_failures_are_limits(number, kind):
    assert type(disk_error(OSError(number, "words"))) is kind


def test_refusals_name_the_way_out(tmp_path):
    refuse_existing(tmp_path / "absent", False)
    with pytest.raises(BadInputError, match="choose another -o"):
        refuse_existing(tmp_path, False)
