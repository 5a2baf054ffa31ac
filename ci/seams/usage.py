"""Which names of a host our own source reaches, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path


def imported(folder: Path, host: str) -> dict[str, str]:
    """Targets (``module:Name`` or ``module``) imported from `host` anywhere below `folder` -> first file and line."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            targets: list[str] = []
            if (
                isinstance(node, ast.ImportFrom)
                and node.module
                and node.module.split(".")[0] == host
                and not node.level
            ):
                targets = [f"{node.module}:{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names if alias.name.split(".")[0] == host]
            for target in targets:
                found.setdefault(target, f"{path.relative_to(folder.parent)}:{node.lineno}")
    return found
