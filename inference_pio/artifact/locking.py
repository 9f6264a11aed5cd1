"""A folder that one process at a time writes in; the system frees the lock when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FolderBusyError(Exception):
    """Another process holds the folder."""


class FolderLock:
    """The lock of a folder from its creation until `release`."""

    def __init__(self, folder: Path) -> None:
        """Create `folder` where it is missing and lock it; raises FolderBusyError and OSError."""
        folder.mkdir(exist_ok=True)
        self.descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self.holds(folder):
                raise BlockingIOError  # it was renamed or replaced before the lock was ours
        except OSError:
            os.close(self.descriptor)
            raise FolderBusyError(str(folder)) from None

    def holds(self, folder: Path) -> bool:
        """Whether `folder` is the one that was locked; raises OSError when it is not there."""
        return os.path.samestat(os.fstat(self.descriptor), folder.stat())

    def release(self) -> None:
        """Let others in."""
        os.close(self.descriptor)
