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
        self._size, self._place = contents.nbytes, directory or tempfile.gettempdir()
        try:
            self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115 - lives as long as this object
        except OSError as error:
            raise self._no_room(what, error) from error
        self.write(contents, what)

    @property
    def nbytes(self) -> int:
        """Size of what is kept."""
        return self._size

    def write(self, contents: memoryview, what: str) -> None:
        """Put `contents`, of the size of before, in the place of what is kept. LifecycleError as in the beginning."""
        written = 0
        try:
            while written < self._size:
                written += os.pwrite(self._file.fileno(), contents[written:], written)
        except OSError as error:
            raise self._no_room(what, error) from error

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

    def _no_room(self, what: str, error: OSError) -> LifecycleError:
        return LifecycleError(
            f"{what}: {self._size} bytes cannot be kept in {self._place}: {error}; give HostMemoryMap a directory with "
            "room, nothing was unmapped"
        )
