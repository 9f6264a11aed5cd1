"""The CUDA sources and their machine code, which is kept in the user's cache by GPU, compiler and sources."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import BinaryIO

from inference_pio.artifact.files import write_atomically
from inference_pio.runtime.derived_files import digest, drop_old, make_private
from inference_pio.runtime.kernels.nvrtc import OPTIONS, Compiled, Nvrtc

LOG = logging.getLogger("inference_pio")
FOLDER = Path(__file__).parent / "cuda"
PROGRAMS = ("quantize", "gemv", "attention")
HEADER = "common.cuh"
KEPT = 4
"""Compiled forms that are kept, the most recently used ones."""


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
    root = cache_dir / "kernels"
    folder = root / f"{target}-{digest({**texts, 'nvrtc': nvrtc.version, 'options': ' '.join(OPTIONS)})}"
    make_private(root, folder)
    found = {}
    for program in PROGRAMS:
        path = folder / program
        if not path.is_file():
            LOG.info("compiling %s.cu for %s, once for this machine", program, target)
            image = compile_program(nvrtc, program, target).image
            write_atomically(path, partial(_write, image))
        found[program] = path.read_bytes()
    (folder / PROGRAMS[0]).touch()  # for `drop_old`
    drop_old(root, PROGRAMS[0], KEPT)
    return found


def _write(image: bytes, file: BinaryIO) -> None:
    file.write(image)
