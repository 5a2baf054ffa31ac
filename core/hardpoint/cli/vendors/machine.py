"""`Machine`: the few questions that are asked of a machine, answered from its files; tests give it a folder instead."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

_LIBRARY_FOLDERS = (
    "lib",
    "lib64",
    "usr/lib",
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/local/lib",
    "usr/local/lib64",
)
_CHECKED = (".so", "__init__.py")  # of a distribution's files: those without which nothing loads


def installed(name: str) -> Distribution | None:
    """The distribution `name`, None if it is not installed."""
    try:
        return importlib.metadata.distribution(name)
    except (PackageNotFoundError, ValueError):
        return None


@dataclass(frozen=True)
class Machine:
    """What can be asked.

    Attributes:
        root: the root of the file system.
        environment: variables.
        distribution: name -> the installed distribution, None if there is none.
        path: where packages are looked for.
        libraries: where pip and conda put shared libraries.
    """

    root: Path = Path("/")
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    distribution: Callable[[str], Distribution | None] = installed
    path: Sequence[str] = field(default_factory=lambda: tuple(sys.path))
    libraries: Sequence[str] = (f"{sys.prefix}/lib",)

    def version(self, name: str) -> str | None:
        """Installed version of a distribution, None if it is not there or its metadata is torn."""
        found = self.distribution(name)
        try:
            return found.version if found is not None else None
        except KeyError:
            return None

    def requirements(self, name: str) -> list[str]:
        found = self.distribution(name)
        return (found.requires or []) if found is not None else []

    def torch_built_for(self, kind: str) -> str | None:
        """What ``torch.version.<kind>`` says, read from the file; None if torch is built without it."""
        found = self.distribution("torch")
        if found is None:
            return None
        try:
            text = Path(str(found.locate_file("torch/version.py"))).read_text()
        except OSError:
            return None
        match = re.search(rf"^{kind}\b[^=\n]*=\s*['\"](.+)['\"]", text, re.MULTILINE)
        return match[1] if match else None

    def broken_files(self, name: str) -> list[str]:
        """What is wrong with the files of a distribution: missing or of another size than its record says."""
        found = self.distribution(name)
        if found is None:
            folder = self._orphan(name)
            return [f"{folder} is there, but no metadata of {name}"] if folder else []
        if not found.files:
            return [f"the record of {name}'s files is missing or empty"]
        wrong = []
        for file in found.files:
            if not file.name.endswith(_CHECKED):
                continue
            try:
                size = Path(str(found.locate_file(file))).stat().st_size
            except OSError:
                wrong.append(f"{file} is missing")
                continue
            if file.size is not None and file.size != size:
                wrong.append(f"{file} has {size} bytes, its record says {file.size}")
        return wrong

    def _orphan(self, name: str) -> Path | None:
        """A package folder whose distribution is not installed."""
        package = name.replace("-", "_")
        folders = (Path(entry) / package for entry in self.path if entry)
        return next((folder for folder in folders if (folder / "__init__.py").is_file()), None)

    def nodes(self, pattern: str, pci_vendor: str) -> list[Path]:
        """Device nodes below ``/dev``; render nodes only if their device is of `pci_vendor`."""
        found = sorted((self.root / "dev").glob(pattern))
        if not pattern.startswith("dri/"):
            return found
        drm = self.root / "sys/class/drm"
        return [node for node in found if _text(drm / node.name / "device/vendor") == pci_vendor]

    def pci_devices(self, vendor: str, classes: tuple[str, ...]) -> list[str]:
        """PCI addresses of devices of `vendor` whose class starts with one of `classes`."""
        return [
            device.name
            for device in sorted((self.root / "sys/bus/pci/devices").glob("*"))
            if _text(device / "vendor") == vendor and _text(device / "class").startswith(classes)
        ]

    def has_library(self, pattern: str, folders: tuple[str, ...]) -> bool:
        """Whether a library is in a usual folder, in one of `folders`, or on ``LD_LIBRARY_PATH``."""
        listed = [*self.environment.get("LD_LIBRARY_PATH", "").split(":"), *self.libraries]
        extra = [Path(entry) for entry in listed if entry]
        places = [self.root / folder for folder in (*_LIBRARY_FOLDERS, *folders)] + extra
        return any(next(place.glob(pattern), None) is not None for place in places if place.is_dir())

    def may_open(self, node: Path) -> bool:
        return os.access(node, os.R_OK | os.W_OK)

    def holders(self, node: Path) -> list[str]:
        """Other processes that have `node` open, as far as this user may see, as ``pid (command)``."""
        found = []
        for process in (self.root / "proc").glob("[0-9]*"):
            if process.name == str(os.getpid()):
                continue
            try:
                links = [os.readlink(link) for link in (process / "fd").iterdir()]  # noqa: PTH115 - need not exist
            except OSError:
                continue
            if str(node) in links:
                found.append(f"{process.name} ({_text(process / 'comm') or '?'})")
        return sorted(found)


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
