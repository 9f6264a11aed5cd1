"""An emulated GPU for the CUDA kernels, and what they should compute."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from inference_pio.runtime.kernels import sources

EMULATOR = Path(__file__).parent / "runtime" / "kernels" / "emulator.cpp"


def build_emulator(folder: Path) -> Path:
    """The library that runs the kernels on the host, in place of the driver's; skips the test without a compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed, which builds the emulated GPU")
    library = folder / "libemulator.so"
    options = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-Wno-unknown-pragmas"]
    subprocess.run([compiler, *options, "-I", sources.FOLDER, "-o", library, EMULATOR], check=True)
    return library


def random_codes(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """int8 over its whole range."""
    return rng.integers(-128, 128, shape).astype(np.int8)


def rounded_queries(q_BHD: np.ndarray, key_steps_KD: np.ndarray, scale: float) -> np.ndarray:
    """float64 queries as the kernel rounds them: float32 times steps and scale, then 16 bits for each head."""
    log2_e = np.float32(1.4426950408889634)
    steps_HD = np.repeat(key_steps_KD, q_BHD.shape[1] // len(key_steps_KD), axis=0)
    scaled = q_BHD * steps_HD * (np.float32(scale) * log2_e)
    unit = np.abs(scaled).max(axis=-1, keepdims=True) * np.float32(1 / (127 * 256 + 127))
    codes = np.rint(scaled * (np.float32(1) / unit))
    return codes.astype(np.float64) * unit / (steps_HD * float(scale) * float(log2_e))


def attention(
    q_BHD: np.ndarray, keys_BKTD: np.ndarray, values_BKTD: np.ndarray, lengths: list[int], scale: float
) -> np.ndarray:
    """float64 [B, H, D] of plain attention over each row's first tokens."""
    y_BHD = np.zeros(q_BHD.shape)
    share = q_BHD.shape[1] // keys_BKTD.shape[1]
    for row, length in enumerate(lengths):
        for head, q_D in enumerate(q_BHD[row].astype(np.float64)):
            scores = keys_BKTD[row, head // share, :length].astype(np.float64) @ q_D * scale
            weights = np.exp(scores - scores.max())
            y_BHD[row, head] = weights @ values_BKTD[row, head // share, :length] / weights.sum()
    return y_BHD
