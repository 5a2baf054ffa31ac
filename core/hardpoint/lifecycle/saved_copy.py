"""`SavedCopy`: contents of host memory, kept in an unnamed file, since a copy in memory would free nothing."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hardpoint.errors import LifecycleError


class SavedCopy:
    """One block of bytes in a temporary file, which is gone when this object is."""

    def __init__(self, contents: memoryview, directory: Path | None, what: str) -> None:
        """Write `contents`; LifecycleError naming `what` and the directory if it cannot be written whole."""
        self._size = contents.nbytes
        try:
            self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115 - lives as long as this object
            written = 0
            while written < self._size:
                written += os.pwrite(self._file.fileno(), contents[written:], written)
        except OSError as error:
            place = directory or tempfile.gettempdir()
            raise LifecycleError(
                f"{what}: {self._size} bytes cannot be kept in {place}: {error}; give HostMemoryMap a directory with "
                "room, nothing was unmapped"
            ) from error

    def read_into(self, target: memoryview, what: str) -> None:
        """Copy back. LifecycleError if the sizes differ or the file is short."""
        if target.nbytes != self._size:
            raise LifecycleError(f"{what}: {self._size} bytes were saved, and it has {target.nbytes} now")
        done = 0
        while done < self._size:
            count = os.preadv(self._file.fileno(), [target[done:]], done)
            if count == 0:
                raise LifecycleError(f"{what}: its saved copy ends after {done} of {self._size} bytes")
            done += count
