"""The bundled tiny checkpoints with what their training recorded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tiny_measure import load

from inference_pio.tiny import tiny_checkpoint

FAMILIES = ("glm4_moe_lite", "qwen3", "qwen3_moe", "qwen3_vl")


@dataclass
class Bundled:
    """A bundled checkpoint and what its training recorded."""

    name: str

    @property
    def folder(self) -> Path:
        return tiny_checkpoint(self.name)

    @property
    def training(self) -> dict[str, Any]:
        return json.loads((self.folder / "training.json").read_text(encoding="utf-8"))

    @property
    def config(self) -> dict[str, Any]:
        return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))

    @cached_property
    def model(self) -> torch.nn.Module:
        """In float32, loaded once; leave it as it is."""
        return load(self.folder)
