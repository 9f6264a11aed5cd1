"""Tiny trained checkpoints in the published tensor layout, for tests and the demo only."""

from __future__ import annotations

from pathlib import Path

from inference_pio.errors import BadInputError

_FOLDER = Path(__file__).parent


def tiny_checkpoint(model_type: str = "qwen3") -> Path:
    """Folder of the bundled checkpoint of this ``model_type``; BadInputError for one that is not bundled."""
    known = sorted(path.parent.name for path in _FOLDER.glob("*/config.json"))
    if model_type not in known:
        raise BadInputError(f"no tiny checkpoint for {model_type!r}: use one of {', '.join(known) or '(none)'}")
    return _FOLDER / model_type
