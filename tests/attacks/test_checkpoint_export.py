"""Checkpoints with missing or unreadable files, with code, and where there is no room, given to `inference-pio export`.

Each ends with exit code 2 and one line `error: ...` that names the culprit, without a traceback, and leaves nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inference_pio.cli.main import run

sys.path.insert(0, str(Path(__file__).parents[1]))
from artifact_cases import snapshot
from checkpoint_cases import Q, change_config, change_tensors


def test_the_sound_one_exports(sound, tmp_path, capsys):
    assert run(["export", str(sound), "-o", str(tmp_path / "out")]) == 0
    assert "wrote" in capsys.readouterr().out


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 5000, -1, -1000])
def test_truncated_weights(checkpoint, refused, kept):
    data = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(data[:kept])
    assert "'model.safetensors'" in refused(checkpoint)


def test_a_header_that_lies_about_its_length(checkpoint, refused):
    data = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + data[8:])
    assert f"claims a header of {2**62} bytes" in refused(checkpoint)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "model.safetensors/../x.safetensors"])
def test_an_index_that_points_outside(checkpoint, refused, shard):
    (checkpoint / "model.safetensors").rename(checkpoint.parent / "secret.safetensors")
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {Q: shard}}))
    assert "not the plain name" in refused(checkpoint)


def test_an_index_without_its_shard(checkpoint, refused):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}')
    assert "shards that are missing: 'b.safetensors'" in refused(checkpoint)


def test_pickles_only(checkpoint, refused):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    assert "'pytorch_model.bin'" in refused(checkpoint)


def test_no_folder_no_hub_id_no_checkpoint(tmp_path, refused, tiny_artifact):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    assert "no config.json" in refused(tmp_path / "empty")
    assert "is a file" in refused(tmp_path / "file")
    assert "there is no folder" in refused(tmp_path / "absent" / "too")
    assert "hf download no/where" in refused("no/where")
    assert "exported artifact" in refused(tiny_artifact("int8"))


def test_code_in_a_checkpoint_is_never_run(checkpoint, tmp_path):
    mark = tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w').close()"
    for name in ("modeling_qwen3.py", "configuration_qwen3.py", "__init__.py", "sitecustomize.py", "numpy.py"):
        (checkpoint / name).write_text(code)
    change_config(checkpoint, auto_map={"AutoModelForCausalLM": "modeling_qwen3.Model"})
    arguments = ["-m", "inference_pio.cli", "export", str(checkpoint), "-o", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not mark.exists()
    assert not [name for name in snapshot(tmp_path / "out") if name.endswith(".py")]


def test_output_that_exists_is_refused_and_kept(sound, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["export", str(sound), "-o", str(out)]) == 0
    before = snapshot(out)
    assert run(["export", str(sound), "-o", str(out), "--precision", "int4"]) == 2
    assert "--force" in capsys.readouterr().err
    assert snapshot(out) == before


def test_the_old_artifact_survives_a_failure(sound, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["export", str(sound), "-o", str(out)]) == 0
    before = snapshot(out)
    change_tensors(checkpoint, lambda tensors: tensors[Q].fill(np.nan))
    assert run(["export", str(checkpoint), "-o", str(out), "--force"]) == 2
    assert snapshot(out) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_too_little_memory(sound, refused):
    assert "raise it to at least" in refused(sound, "--max-memory", "1MB", code=4)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from inference_pio.cli.main import run
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.parametrize("limit", [10, 1000, 60_000])
def test_a_full_disk(sound, tmp_path, limit):
    """Files that may not grow beyond a limit stand for a disk that is full."""
    out = tmp_path / "place" / "out"
    out.parent.mkdir()
    command = [sys.executable, "-c", LIMITED, str(limit), "export", str(sound), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: writing the artifact failed: File too large")
    assert "Traceback" not in done.stderr
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "LICENSE"])
def test_files_that_may_not_be_read(checkpoint, refused, name, unprivileged):
    (checkpoint / name).touch()
    (checkpoint / name).chmod(0)
    unprivileged()
    assert "Permission denied" in refused(checkpoint)


@pytest.fixture
def unprivileged(tmp_path: Path):
    """Give up the rights of root, if we have them, until the end of the test."""
    folders = [tmp_path, *list(tmp_path.parents)[:3]]
    modes = [(folder, folder.stat().st_mode) for folder in folders if os.access(folder, os.W_OK)]

    def drop() -> None:
        if os.geteuid() == 0:
            for folder, mode in modes:
                folder.chmod(mode | 0o055)
            tmp_path.chmod(0o777)
            (tmp_path / "place").mkdir()
            (tmp_path / "place").chmod(0o777)
            os.seteuid(65534)

    yield drop
    if os.geteuid() == 65534:
        os.seteuid(0)
        for folder, mode in modes:
            folder.chmod(mode & 0o7777)
