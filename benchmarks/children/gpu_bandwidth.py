"""Bytes per second that a device's memory gives to a copy, reads and writes counted; the best of several."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import torch
from process import report, spec

asked = spec()
device = torch.device(asked["device"])
size = asked["bytes"]
source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
best = 0.0
for _ in range(8):
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    target.copy_(source)
    if device.type == "cuda":
        torch.cuda.synchronize()
    best = max(best, 2 * size / (time.perf_counter() - started))
name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
report({"bytes_per_s": best, "device": name})
