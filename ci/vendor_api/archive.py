"""The files of one distribution, from its wheel or from where it is installed. Nothing is imported or unpacked."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path


@dataclass
class Archive:
    """Files below `root`, a wheel or a folder such as site-packages.

    Attributes:
        root: the wheel, or the folder.
        tops: top-level packages that belong to the distribution; in a folder nothing else is looked at.
    """

    root: Path
    tops: tuple[str, ...]
    _texts: dict[str, str | None] = field(default_factory=dict)

    @cached_property
    def _wheel(self) -> zipfile.ZipFile | None:
        return zipfile.ZipFile(self.root) if self.root.is_file() else None

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self._wheel.namelist()) if self._wheel else frozenset()

    def text(self, path: str) -> str | None:
        """A file's text, None if it is not there."""
        if path not in self._texts:
            data = self.data(path)
            self._texts[path] = None if data is None else data.decode(errors="replace")
        return self._texts[path]

    def data(self, path: str) -> bytes | None:
        """A file's bytes, None if it is not there."""
        if path.split("/")[0] not in self.tops:
            return None
        if self._wheel:
            return self._wheel.read(path) if path in self._names else None
        file = self.root / path
        return file.read_bytes() if file.is_file() else None

    def libraries(self) -> list[str]:
        """Paths of the shared libraries."""
        if self._wheel:
            names = self._names
        else:
            names = frozenset(str(p.relative_to(self.root)) for top in self.tops for p in (self.root / top).rglob("*"))
        return sorted(name for name in names if name.endswith(".so") and name.split("/")[0] in self.tops)

    def metadata(self) -> str:
        """The wheel's metadata; empty for a folder."""
        found = [name for name in self._names if name.endswith(".dist-info/METADATA")]
        return self._wheel.read(found[0]).decode() if self._wheel and found else ""

    def module_file(self, module: str) -> str | None:
        """The file of a module: its source, else its stub."""
        stem = module.replace(".", "/")
        names = (f"{stem}.py", f"{stem}/__init__.py", f"{stem}.pyi", f"{stem}/__init__.pyi")
        return next((name for name in names if self._has(name)), None)

    def _has(self, path: str) -> bool:
        if path.split("/")[0] not in self.tops:
            return False
        return path in self._names if self._wheel else (self.root / path).is_file()
