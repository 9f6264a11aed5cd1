"""Export a checkpoint to OpenVINO with optimum-intel and NNCF; runs in the peers' environment.

    python benchmarks/peers/convert_openvino.py CHECKPOINT OUT --weights int8

int8 is optimum's default (one scale and zero point per channel); int4 has symmetric groups of 128 in every layer, token
table and head int8, as ours has them. Plain rounding in both.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

WEIGHTS = {
    "int8": ["--weight-format", "int8"],
    "int4": ["--weight-format", "int4", "--sym", "--group-size", "128", "--ratio", "1.0"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", choices=list(WEIGHTS), required=True)
    options = parser.parse_args()
    unfinished = options.out.with_name(f"{options.out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [Path(sys.executable).with_name("optimum-cli"), "export", "openvino", "--model", options.checkpoint]
    command += ["--task", "text-generation-with-past", *WEIGHTS[options.weights], unfinished]
    done = subprocess.run([str(part) for part in command], env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False)
    if done.returncode != 0:
        raise SystemExit(f"optimum-cli gave {done.returncode}")
    unfinished.rename(options.out)


if __name__ == "__main__":
    main()
