"""Whether an engine may answer: all of its ranks, at one version, or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hardpoint.sync.transaction.participant import Participant


@dataclass(frozen=True)
class EngineState:
    """`epoch`: the version that the engine answers with, None if it must not answer; then `reason` says why."""

    epoch: int | None
    reason: str = ""


def engine_state(ranks: Iterable[Participant]) -> EngineState:
    """State of the engine that consists of `ranks`, all of them: one that does not answer is no reason to leave it out,
    but a reason not to serve."""
    members = list(ranks)
    closed = [rank for rank in members if not rank.may_serve]
    if closed:
        said = "; ".join(f"rank {rank.rank} is {rank.phase.value}" + (f": {rank.reason}" if rank.reason else "")
                         for rank in closed)  # fmt: skip
        return EngineState(None, said)
    epochs = {rank.epoch for rank in members}
    if len(epochs) != 1:
        return EngineState(None, f"ranks hold different versions: {sorted((r.rank, r.epoch) for r in members)}")
    return EngineState(epochs.pop())
