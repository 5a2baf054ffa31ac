"""A name in somebody else's module, replaced for the time of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from hardpoint.errors import HardpointError


@contextmanager
def replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """``module.name`` is `value` within the block, and what it was afterwards, also after an exception.

    Raises:
        HardpointError: `module` has no such name: it is of a version that this was not written for.
    """
    if not hasattr(module, name):
        version = getattr(__import__(module.__name__.partition(".")[0]), "__version__", "of unknown version")
        raise HardpointError(
            f"Expected {name} in {module.__name__} ({version}), found none. This version is not one that hardpoint was "
            "written for; `docs/trainers.md` lists those."
        )
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
