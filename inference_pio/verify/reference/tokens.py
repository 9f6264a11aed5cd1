"""The checkpoint's tokenizer in transformers, and who computes the reference."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer

from inference_pio.errors import BadInputError


def tokenize(folder: Path, text: str) -> list[int]:
    """Token ids of `text` by the checkpoint's own tokenizer in transformers, special tokens included."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(f"transformers cannot load the tokenizer in {folder}: {first_line(error)}") from error
    return [int(token) for token in tokenizer(text, verbose=False)["input_ids"]]


def versions() -> dict[str, str]:
    """Versions of what computes the reference."""
    return {"torch": str(torch.__version__), "transformers": str(transformers.__version__)}


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
