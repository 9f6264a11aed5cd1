"""Reading and writing the artifact's JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inference_pio.artifact.strict_json import parse_json_object
from inference_pio.errors import BadInputError

MAX_JSON_BYTES = 64 << 20


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a UTF-8 JSON file; raises BadInputError naming the file for anything else."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise BadInputError(f"{path} is no regular file: copy what it gives to one")
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise BadInputError(f"{path.name} has {size} bytes, more than any such file needs: it is damaged")
        return parse_json_object(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise BadInputError(f"{path} does not exist") from None
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}") from None


def json_bytes(value: object) -> bytes:
    """Deterministic, readable JSON with a final newline."""
    return (json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n").encode()
