"""`PlanRefused`: everything that is wrong with an update, tensor by tensor, before a byte of it moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hardpoint.errors import SyncError

Kind = Literal["missing", "extra", "duplicate", "shape", "dtype", "layout", "adapter", "coverage"]
_SHOWN = 8


@dataclass(frozen=True)
class Refusal:
    """One thing that is wrong: its kind, the tensor (or parameter) at fault, the first rank that it is about (-1 for
    none in particular), and a sentence."""

    kind: Kind
    tensor: str
    rank: int
    sentence: str

    def __str__(self) -> str:
        return self.sentence


class PlanRefused(SyncError):
    """No plan exists for this update; `refusals` holds all reasons, the message the first few."""

    def __init__(self, refusals: tuple[Refusal, ...]) -> None:
        more = f" And {len(refusals) - _SHOWN} more." if len(refusals) > _SHOWN else ""
        count = f"{len(refusals)} things are wrong" if len(refusals) > 1 else "one thing is wrong"
        super().__init__(
            f"The update is refused before a byte moves, {count}: {' '.join(str(r) for r in refusals[:_SHOWN])}{more}"
        )
        self.refusals = refusals
