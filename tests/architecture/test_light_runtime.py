"""What a process that only runs artifacts loads."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FORBIDDEN = "torch transformers onnx onnx_ir onnxscript"

GENERATE = f"""
import sys
from inference_pio.runtime import Engine, SamplingParams
before = set("{FORBIDDEN} onnxruntime tokenizers jinja2".split()) & set(sys.modules)
assert not before, before
with Engine.open(sys.argv[1]) as engine:
    result = engine.generate("import os", SamplingParams(max_new_tokens=5, temperature=0))
    assert result.token_ids
    engine.chat([{{"role": "user", "content": "hi"}}], SamplingParams(max_new_tokens=2))
after = set("{FORBIDDEN}".split()) & set(sys.modules)
assert not after, after
print(list(result.token_ids))
"""


def test_no_heavy_module_is_loaded(tiny_artifact):
    done = subprocess.run(
        [sys.executable, "-c", GENERATE, str(tiny_artifact("int8"))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", ["import inference_pio.cli.machine as m; m._providers()", GENERATE])
def test_onnxruntime_sends_no_telemetry(tiny_artifact, tmp_path, code):
    """It keeps an identifier and a queue of events in the user's cache, but for builds and tests by its own word."""
    off = ("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI", "GITHUB_ACTIONS")
    environment = {name: value for name, value in os.environ.items() if name not in off}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code, str(tiny_artifact("int8"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "Microsoft").exists()


@pytest.mark.slow
def test_clean_environment(tiny_artifact, tmp_path):
    """Only the runtime's dependencies, installed from the repository, generate the same tokens."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    constraints = REPOSITORY / "constraints.txt"
    install = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
    subprocess.run([*install, str(REPOSITORY)], check=True)
    artifact = str(tiny_artifact("int8"))
    without = subprocess.run(
        [str(tmp_path / "env" / "bin" / "inference-pio"), "generate", artifact, "-p", "import os"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert without.returncode == 2 and "inference-pio[cpu]" in without.stderr
    subprocess.run([*install, f"{REPOSITORY}[cpu]"], check=True)
    listed = subprocess.run([str(python), "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert not {line.split()[0].lower() for line in listed.splitlines()} & {*FORBIDDEN.split(), "onnx-ir"}
    script = tmp_path / "generate.py"
    script.write_text(GENERATE)
    clean = subprocess.run(
        [str(python), str(script), artifact], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert clean.returncode == 0, clean.stderr
    here = subprocess.run([sys.executable, "-c", GENERATE, artifact], capture_output=True, text=True, check=True)
    assert clean.stdout == here.stdout
