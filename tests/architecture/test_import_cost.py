"""The runtime loads none of the export's libraries: not when imported, not when it opens, generates or chats."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

FORBIDDEN = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "onnxruntime_genai", "ml_dtypes", "safetensors"}
REPORT = "import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"


def loaded(script: str, *arguments: str) -> set[str]:
    """Top-level modules in a fresh process after `script`."""
    command = [sys.executable, "-c", f"{script}\n{REPORT}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_runtime():
    modules = loaded("import inference_pio.runtime")
    assert "inference_pio" in modules
    assert not modules & (FORBIDDEN | {"onnxruntime", "tokenizers", "jinja2", "click", "tqdm"})


def test_importing_the_package_loads_nothing():
    assert not loaded("import inference_pio") & (FORBIDDEN | {"numpy"})


@pytest.mark.parametrize("package", ["verify", "cli.main", "calibration.recipes", "checkpoint.checkpoint", "artifact"])
def test_importing_other_parts(package):
    assert not loaded(f"import inference_pio.{package}") & {"torch", "transformers", "onnxruntime"}


WORK = """
import sys
from inference_pio.runtime import Engine, SamplingParams
with Engine.open(sys.argv[1]) as engine:
    params = SamplingParams(max_new_tokens=4, temperature=0.8, top_k=9, logprobs=1)
    engine.generate("def read(", params)
    list(engine.stream_chat([{"role": "user", "content": "hello"}], params))
    engine.logits([1, 2, 3])
"""


def test_opening_generating_and_chatting(tiny_artifact):
    modules = loaded(WORK, str(tiny_artifact("int8")))
    assert {"onnxruntime", "tokenizers", "jinja2"} <= modules
    assert not modules & FORBIDDEN


def test_the_command_line_shows_help_without_them():
    script = "from inference_pio.cli.main import run\nfor verb in ([], ['generate'], ['chat'], ['bench'], ['inspect']):"
    modules = loaded(f"{script}\n    assert run([*verb, '--help']) == 0")
    assert not modules & (FORBIDDEN | {"onnxruntime"})
