"""Whether the packages of a vendor fit the installed torch and each other, from their metadata."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from hardpoint.cli.vendors.facts import TORCH_OF_COMPANION, VendorFacts
from hardpoint.cli.vendors.machine import Machine


@dataclass(frozen=True)
class Trouble:
    """Something wrong with a package beside the SDK: a sentence, and what to do."""

    what: str
    do: str


def companions_in_trouble(vendor: VendorFacts, machine: Machine) -> list[Trouble]:
    """Packages that go with a vendor's SDK and are half installed or made for another torch or SDK."""
    found = []
    for name in vendor.companions:
        broken = machine.broken_files(name)
        if broken:
            found.append(Trouble(f"{name} is half installed: {broken[0]}.", f"Reinstall or uninstall {name}."))
            continue
        version, wrong = machine.version(name), unmet(machine, name)
        if not wrong:
            continue
        if name in TORCH_OF_COMPANION:
            what = (
                f"{name} {version} is installed beside torch {machine.version('torch')}; its last releases end the "
                "process when they are imported beside any torch but 2.8, and declare no requirement that would have "
                "told."
            )
            found.append(
                Trouble(what, f"pip uninstall {name}: torch itself has torch.xpu, and hardpoint does not need it.")
            )
        else:
            do = f"Install what it requires, or the {name} made for what is here."
            found.append(Trouble(f"{name} {version} requires {'; '.join(wrong)}.", do))
    return found


def unmet(machine: Machine, name: str) -> list[str]:
    """What the installed distribution `name` requires and does not find, as ``torch==2.14.0, found torch 2.13.0``."""
    version = machine.version(name)
    if version is None:
        return []
    declared = [found for line in machine.requirements(name) if (found := _requirement(line)) is not None]
    extra = TORCH_OF_COMPANION.get(name)
    if extra and not any(wanted.name == "torch" for wanted in declared):
        declared.append(Requirement(f"torch{extra}"))
    missing = []
    for wanted in declared:
        if wanted.name.replace("_", "-") not in ("torch", "torch-npu", "triton-ascend"):
            continue
        version_here = machine.version(wanted.name)
        if version_here is None:
            missing.append(f"{wanted.name}{wanted.specifier}, which is not installed")
        elif not fits(version_here, wanted.specifier):
            missing.append(f"{wanted.name}{wanted.specifier}, found {wanted.name} {version_here}")
    return missing


def fits(version: str, specifier: SpecifierSet) -> bool:
    """Whether `version` is in the range, with its local part (``+cpu``) or without it."""
    try:
        found = Version(version)
    except InvalidVersion:
        return False
    return specifier.contains(str(found), prereleases=True) or specifier.contains(found.public, prereleases=True)


def another_release(machine: Machine, sdk: str) -> str | None:
    """The torch for which an SDK that declares none is built, by its own number; None if it is the installed one."""
    theirs, ours = machine.version(sdk), machine.version("torch")
    if theirs is None or ours is None:
        return None
    names = [found.name for line in machine.requirements(sdk) if (found := _requirement(line)) is not None]
    try:
        wanted = Version(theirs).release[:2]
        if "torch" in names or wanted == Version(ours).release[:2]:
            return None
    except InvalidVersion:
        return None
    return ".".join(map(str, wanted))


def _requirement(line: str) -> Requirement | None:
    try:
        found = Requirement(line)
    except InvalidRequirement:
        return None
    return None if found.marker is not None and not found.marker.evaluate({"extra": ""}) else found
