"""The one way in which an integration replaces a function of its host: once, marked, and undoable."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_MARK = "__hardpoint_original__"


def wrap(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> bool:
    """Replace ``owner.name`` by ``make(original)``; False if that was done before (plugins may run twice).

    Raises:
        AttributeError: `owner` has no such name; the host moved, and the row in `overrides` is out of date.
    """
    original = getattr(owner, name)
    if hasattr(original, _MARK):
        return False
    replacement = functools.wraps(original)(make(original))
    setattr(replacement, _MARK, original)
    setattr(owner, name, replacement)
    return True


def is_wrapped(owner: Any, name: str) -> bool:
    """Whether ``owner.name`` is ours."""
    return hasattr(getattr(owner, name, None), _MARK)


def unwrap(owner: Any, name: str) -> None:
    """Put the original back, if `wrap` replaced it."""
    original = getattr(getattr(owner, name), _MARK, None)
    if original is not None:
        setattr(owner, name, original)
