"""NVIDIA GPUs that are plugged in whether or not a driver serves them, and the driver that is loaded. Linux only."""

from __future__ import annotations

import re
from pathlib import Path

DEVICES = Path("/sys/bus/pci/devices")
DRIVER = Path("/proc/driver/nvidia/version")
NVIDIA, DISPLAY_CLASS = 0x10DE, 0x03
PASCAL = range(0x1B00, 0x1D80)
"""Device ids of GP102 to GP108, all of compute capability 6.1 (https://pci-ids.ucw.cz); GV100 comes after them."""


def nvidia_devices() -> list[int]:
    """Device ids of the NVIDIA display and compute controllers on the bus."""
    found = []
    for folder in sorted(DEVICES.glob("*")):
        vendor, kind, device = (_number(folder / name) for name in ("vendor", "class", "device"))
        if vendor == NVIDIA and kind is not None and kind >> 16 == DISPLAY_CLASS and device is not None:
            found.append(device)
    return found


def loaded_driver() -> str | None:
    """The version of the NVIDIA kernel module, None where none is loaded."""
    try:
        match = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", DRIVER.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return match[1] if match else None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii").strip(), 16)
    except (OSError, ValueError):
        return None
