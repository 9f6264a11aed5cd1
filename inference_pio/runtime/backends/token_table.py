"""The token table of an artifact whose graphs begin behind the embedding: rows looked up in a mapped file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inference_pio.artifact.manifest import Manifest, TableFacts
from inference_pio.errors import BadInputError

DTYPES = {"float32": np.float32, "float16": np.float16, "int8": np.int8}


class TokenTable:
    """Rows float32 [C] by token id; only the rows that were looked up are ever in memory."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Raises BadInputError when the manifest's table does not fit the model or its file."""
        facts = manifest.table
        if facts is None:
            raise BadInputError(f"the manifest in {folder} names no token table: export the artifact again")
        size = _table_bytes(facts)
        ends = [facts.offset + size, 0 if facts.scales_offset is None else facts.scales_offset + 4 * facts.rows]
        fits = (facts.rows, facts.columns) == (manifest.model.vocab_size, manifest.model.hidden_size)
        known = manifest.files.get(facts.file)
        if not fits or known is None or max(ends) > known.size or (facts.dtype == "int8") != (ends[1] > 0):
            raise BadInputError(f"the token table in {folder} does not fit its manifest: copy or export it again")
        file = folder / facts.file
        shape = (facts.rows, facts.columns)
        self._rows_VC = np.memmap(file, DTYPES[facts.dtype], "r", facts.offset, shape)
        self._scales_V = None
        if facts.scales_offset is not None:
            self._scales_V = np.memmap(file, np.float32, "r", facts.scales_offset, (facts.rows,))

    def rows(self, tokens: np.ndarray) -> np.ndarray:
        """Rows of token ids [S]: float32 [S, C]."""
        found = self._rows_VC[tokens].astype(np.float32)
        if self._scales_V is not None:
            found *= self._scales_V[tokens, None]
        return found


def _table_bytes(facts: TableFacts) -> int:
    return facts.rows * facts.columns * np.dtype(DTYPES[facts.dtype]).itemsize
