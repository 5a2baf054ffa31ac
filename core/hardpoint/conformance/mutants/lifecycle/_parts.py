"""What several files here need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hardpoint.lifecycle import Action, Lifecycle


def blind_digest(tags: Sequence[str]) -> dict[str, str]:
    return {f"{tag}/all": "same" for tag in tags}


def swapped_actions(todo: tuple[Action, ...], first: Action, second: Action) -> tuple[Action, ...]:
    if first not in todo or second not in todo:
        return todo
    other = {first: second, second: first}
    return tuple(other.get(action, action) for action in todo)


def true_health(self: Lifecycle) -> Any:
    return Lifecycle.health(self)
