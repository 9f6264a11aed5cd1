"""Bytes that are made now and written later, such as the scales of a weight whose integers come first in the file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from inference_pio.artifact.writer import disk_error

IN_MEMORY = 8 << 20
"""More than so many bytes lie in an unnamed file, so that the experts of a layer, however many, take no memory."""
CHUNK_BYTES = 1 << 20


class SideBytes:
    """Grows by `write`, is read once by `chunks`; what does not fit into memory lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, dir=str(folder))  # noqa: SIM115 (closed by chunks)
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append; raises ResourceLimitError when the disk is full."""
        try:
            self._file.write(data)
        except OSError as error:
            raise disk_error(error) from error
        self.size += len(data)

    def chunks(self) -> Iterator[bytes]:
        """Everything from the start, a piece at a time; nothing is left afterwards."""
        with self._file as file:
            file.seek(0)
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
