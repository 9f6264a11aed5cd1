"""The CUDA sources and their machine code, which is kept in the user's cache by GPU, compiler and sources."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

from inference_pio.artifact.files import write_atomically
from inference_pio.artifact.jsonfile import json_bytes
from inference_pio.errors import BadInputError
from inference_pio.runtime.kernels.nvrtc import OPTIONS, Compiled, Nvrtc

LOG = logging.getLogger("inference_pio")
FOLDER = Path(__file__).parent / "cuda"
PROGRAMS = ("quantize", "gemv", "attention")
HEADER = "common.cuh"
KEPT = 4
"""Compiled forms that are kept, the newest ones."""


def read(name: str) -> str:
    """The text of a source file."""
    return (FOLDER / name).read_text(encoding="utf-8")


def compile_program(nvrtc: Nvrtc, program: str, target: str) -> Compiled:
    """One of PROGRAMS for a target as `Nvrtc.target` names it."""
    return nvrtc.compile(read(f"{program}.cu"), f"{program}.cu", {HEADER: read(HEADER)}, target)


def images(capability: int, cache_dir: Path) -> dict[str, bytes]:
    """Machine code of every program for a compute capability (61 for 6.1), compiled where the cache has none.

    Raises BadInputError without NVRTC, for a GPU that is too old, and where the cache cannot be written.
    """
    nvrtc = Nvrtc()
    target = nvrtc.target(capability)
    texts = {name: read(name) for name in (HEADER, *(f"{program}.cu" for program in PROGRAMS))}
    key = hashlib.sha256(json_bytes({**texts, "nvrtc": nvrtc.version, "options": " ".join(OPTIONS)})).hexdigest()[:16]
    root = cache_dir / "kernels"
    folder = root / f"{target}-{key}"
    found = {}
    for program in PROGRAMS:
        path = folder / program
        if not path.is_file():
            LOG.info("compiling %s.cu for %s, once for this machine", program, target)
            _keep(path, compile_program(nvrtc, program, target).image)
        found[program] = path.read_bytes()
    _drop_old(root, folder)
    return found


def _keep(path: Path, image: bytes) -> None:
    try:
        path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"{path.parent} cannot be written ({error.strerror}): choose another cache") from None
    write_atomically(path, lambda file: file.write(image))


def _drop_old(root: Path, newest: Path) -> None:
    made = sorted(root.iterdir(), key=lambda folder: (folder == newest, folder.stat().st_mtime), reverse=True)
    for old in made[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
