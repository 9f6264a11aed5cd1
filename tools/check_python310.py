"""Generate from an artifact in blocks under another Python, in a fresh environment: `check_python310.py PYTHON OUT`.

Installs the runtime's dependencies, Inference-PIO and ONNX Runtime, and nothing else, into a temporary environment.
Fails unless text is generated and no module of the exporter was loaded.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
GENERATE = """
import sys
from inference_pio.runtime import Engine, EngineConfig, SamplingParams

with Engine.open(sys.argv[1], EngineConfig(backend="chain")) as engine:
    result = engine.generate("import os", SamplingParams(max_new_tokens=8, temperature=0))
heavy = {"torch", "transformers", "onnx", "onnx_ir", "onnxscript"} & set(sys.modules)
assert result.token_ids and not heavy, heavy
print(sys.version.split()[0], list(result.token_ids))
"""


def main() -> None:
    """Build the environment, run the script, remove the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="the interpreter, for example python3.10")
    parser.add_argument("artifact", type=Path, help="an artifact of target tensorrt")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([asked.python, "-m", "venv", folder], check=True)
        python = str(Path(folder) / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", str(REPOSITORY), "onnxruntime"], check=True)
        subprocess.run([python, "-c", GENERATE, str(asked.artifact.absolute())], check=True, cwd=folder)


if __name__ == "__main__":
    main()
