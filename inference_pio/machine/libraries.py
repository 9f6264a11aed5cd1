"""NVIDIA's libraries that pip installed, which the dynamic loader does not find by itself."""

from __future__ import annotations

import sys
from pathlib import Path


def packaged(pattern: str) -> list[Path]:
    """Files of NVIDIA's packages whose name fits `pattern`, in the order in which Python looks for packages."""
    return [file for entry in sys.path for file in sorted(Path(entry).glob(f"nvidia/*/lib/{pattern}"))]
