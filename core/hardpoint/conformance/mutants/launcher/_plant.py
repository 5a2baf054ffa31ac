"""How a fault is planted in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import Mutant


def plant(name: str, law: str, statement: str, launcher: Callable[[Backend], Any]) -> Mutant:
    return Mutant(
        f"launcher.{name}",
        f"launcher.{law}",
        "launcher",
        statement,
        lambda backend: replace(backend, launcher=launcher(backend)),
    )
