"""A tokenizer.json that would abort the process is refused before the tokenizers library sees it."""

from __future__ import annotations

import json
import re

from inference_pio.errors import BadInputError

_HAS_PREFIX = re.compile(rb'"continuing_subword_prefix"\s*:\s*"[^"]')


def refuse_bad_merges(content: bytes) -> None:
    """Raise BadInputError for merges whose second part lacks the prefix it should have: the library aborts on them."""
    if not _HAS_PREFIX.search(content):
        return
    try:
        model = json.loads(content).get("model")
    except (ValueError, RecursionError, AttributeError):
        return  # the library says what is wrong with it
    prefix = model.get("continuing_subword_prefix") if isinstance(model, dict) else None
    merges = model.get("merges") if isinstance(model, dict) else None
    if not prefix or not isinstance(prefix, str) or not isinstance(merges, list):
        return
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        second = parts[-1] if isinstance(parts, list) and parts else None
        if not isinstance(second, str) or not second.startswith(prefix):
            raise BadInputError("tokenizer.json has merges without its continuing_subword_prefix: fetch it again")
