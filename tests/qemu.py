"""Runs Python on an emulated CPU with AVX2 and without VNNI, as laptops before 2019 have it.

`apt-get install qemu-user` brings the emulator; 7.2 is its first version that knows AVX2.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys

import pytest

EMULATOR = "qemu-x86_64"
CPU = "Haswell,-pcid,-x2apic,-tsc-deadline,-hle,-invpcid,-rtm"
"""Without the features that user emulation lacks: it would warn of each."""


def missing() -> str | None:
    """Why no AVX2 CPU can be emulated here; None where it can be."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "only Linux on x86-64 has an interpreter that the emulator can run"
    if shutil.which(EMULATOR) is None:
        return f"{EMULATOR} is not installed: apt-get install qemu-user"
    text = subprocess.run([EMULATOR, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"version (\d+)\.(\d+)", text)
    if version is None or (int(version[1]), int(version[2])) < (7, 2):
        return f"{EMULATOR} is older than 7.2, which first emulates AVX2"
    return None


needs_haswell = pytest.mark.skipif(missing() is not None, reason=missing() or "")


def run_haswell(arguments: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run this Python with `arguments` on the emulated CPU; about 10 (scalar) to 100 (matrices) times slower.

    Output is captured as text. Processes that the program starts run outside the emulation, and /proc/cpuinfo shows
    the real CPU there. Raises subprocess.TimeoutExpired after `timeout` seconds; the caller checks `returncode`.
    """
    command = [EMULATOR, "-cpu", CPU, sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)
