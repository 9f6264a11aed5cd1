"""kill -9 at any moment of an export leaves OUT absent, or the old artifact whole; the next export clears the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from artifact_cases import snapshot

# Runs in a process of its own: forks, lets the child export, kills it after a while or at a given step, and looks.
SCRIPT = """
import os, random, signal, sys, time
from pathlib import Path
from inference_pio.artifact import writer
from inference_pio.artifact.bundle import Artifact
from inference_pio.errors import BadInputError
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export

checkpoint, out, mode = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
force = mode.endswith("over")

def run(precision):
    export(checkpoint, out, ExportOptions(precision=precision, force=force, threads=2))

def fork(before=lambda: None):
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    before()
    run("int4")
    os._exit(0)

def whole(precisions):
    "The name of the recipe that stands at `out`, every file checked; None when nothing does."
    if not out.exists():
        return None
    artifact = Artifact.open(out)
    artifact.check_large_files(None)
    assert artifact.manifest.recipe.name in precisions
    return artifact.manifest.recipe.name

def restore():
    for path in (out, out.with_name(f".{out.name}.partial")):
        if path.exists():
            writer.shutil.rmtree(path)
    if force:
        run("int8")

def at_step(number):
    "Make the child kill itself in front of the `number`th end of a file, flush, rename or removal."
    steps = iter(range(10_000))
    def dying(function):
        def call(*arguments, **options):
            if next(steps) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return call
    writer.HashedFile.close = dying(writer.HashedFile.close)
    writer._exchange = dying(writer._exchange)
    writer.shutil.rmtree = dying(writer.shutil.rmtree)
    os.fsync = dying(os.fsync)
    os.unlink = dying(os.unlink)
    Path.rename = dying(Path.rename)

def check(child):
    _, status = os.waitpid(child, 0)
    dead = os.WIFSIGNALED(status)
    assert dead or status == 0, status
    found = whole({"int8", "int4"} if force else {"int4"})
    assert found is not None or (dead and not force)
    assert dead or found == "int4"
    if found is None or force:
        run("int4")
        assert whole({"int4"}) == "int4"
        assert sorted(path.name for path in out.parent.iterdir()) == [out.name]
    return dead

kills = 0
if mode.startswith("time"):
    random.seed(1)
    for _ in range(2):  # the first one also warms up
        restore()
        started = time.monotonic()
        check(fork())
        duration = time.monotonic() - started
    for index in range(20):
        restore()
        child = fork()
        time.sleep(duration * (index + random.random()) / 20)
        os.kill(child, signal.SIGKILL)
        kills += check(child)
else:
    number, dead = 0, True
    while dead:
        restore()
        dead = check(fork(lambda: at_step(number)))
        kills += dead
        number += 1
print(kills)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["time", "time over", "step", "step over"])
def test_killed_exports(small, tmp_path, mode):
    out = tmp_path / "place" / "out"
    out.parent.mkdir()
    before = snapshot(small)
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(small), str(out), mode], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= (1 if mode.startswith("time") else 15)
    assert snapshot(small) == before
