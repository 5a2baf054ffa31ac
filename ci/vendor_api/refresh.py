"""Read the vendors' wheels and rewrite the tables. Nothing of them is imported, installed or unpacked."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from vendor_api import tables
from vendor_api.archive import Archive
from vendor_api.project import Project
from vendor_api.resolve import Resolver
from vendor_api.tables import Looks, Table
from vendor_api.usage import usage
from vendor_api.vendors import FOLDERS, UNREADABLE, Vendor, distributions, vendor_of

_PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_24", "manylinux_2_17", "manylinux2014", "linux")
_PYTHON = "3.11"


def wheel_of(distribution: str, version: str, folder: Path) -> Path:
    """The x86-64 wheel of a release in `folder`, fetched with pip if it is not there."""
    pattern = f"{distribution.replace('-', '_')}-{version}[-+]*.whl"  # a local part such as +cpu is the same release
    if not list(folder.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        pip += ["--only-binary=:all:", f"--python-version={_PYTHON}"]
        pip += [f"--platform={platform}_x86_64" for platform in _PLATFORMS]
        subprocess.run([*pip, f"{distribution}=={version}"], check=True)
    return next(folder.glob(pattern))


def refresh(folder: Path) -> None:
    """Write the tables of all supported releases."""
    vendors = distributions()
    wheels = {
        (name, version): wheel_of(name, version, folder)
        for name, vendor in vendors.items()
        for version in vendor.releases
    }
    resolvers = {key: Resolver(Archive(wheel, vendors[key[0]].tops)) for key, wheel in wheels.items()}
    newest = {name: resolvers[name, vendor.releases[-1]].find for name, vendor in vendors.items()}
    # A name in a namespace that others use too counts as the vendor's here: nobody asks for it from elsewhere.
    project = Project.of(tables.ROOT, FOLDERS)
    found = usage(project, Looks(newest, lambda name: vendor_of(name, "backends/xpu/")))
    wanted: dict[str, set[str]] = {name: set() for name in vendors}
    for target, file in [(use.target, use.file) for use in found.uses] + [(m, "") for m in tables.declared_members()]:
        vendor = vendor_of(target, file)
        if vendor is UNREADABLE:
            continue
        assert vendor is not None, f"{target} belongs to no vendor"
        wanted[vendor.distribution] |= set(_with_parents(target, vendor, file))
    for (name, version), wheel in wheels.items():
        _write(name, version, wheel, resolvers[name, version], wanted[name])


def _with_parents(target: str, vendor: Vendor, file: str) -> Iterable[str]:
    """A name and what it is reached through, which the reader asks about too."""
    while target and vendor.owns(target, file or vendor.folder):
        yield target
        target = target.rpartition(".")[0]


def _write(name: str, version: str, wheel: Path, resolver: Resolver, wanted: set[str]) -> None:
    found = {target: resolver.find(target) for target in sorted(wanted)}
    for made in [row.returns for row in found.values() if row.returns not in (None, "plain")]:
        found.setdefault(str(made), resolver.find(str(made)))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    tables.save(Table(name, version, wheel.name, digest, _requires(wheel), found))
    missing = [target for target, row in found.items() if row.kind == "missing"]
    print(f"{name} {version}: {len(found)} names read, {len(missing)} missing {missing}")


def _requires(wheel: Path) -> tuple[str, ...]:
    """What the wheel's metadata demands of torch and of its own companions."""
    text = Archive(wheel, ()).metadata()
    return tuple(re.findall(r"^Requires-Dist: ((?:torch|torch-npu|triton-ascend|vllm)\b[^\n;]*)$", text, re.MULTILINE))
