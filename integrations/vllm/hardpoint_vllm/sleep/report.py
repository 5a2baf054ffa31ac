"""`Report`: one sleep or wake of a whole engine, made of what its workers say. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hardpoint_vllm.sleep.seat import Answer

# Failures that no step of a worker names.
LOST = "workers_lost"  # not all answered
FAILED_BEFORE = "engine_failed"  # refused, since an earlier failure is final
REFUSED = "refused"  # a worker could not begin


@dataclass(frozen=True)
class Report:
    """Attributes:
    number: of the call, counted by the engine core; 0 before the first.
    kind: ``"sleep"``, ``"wake"`` or ``"committed"``.
    failed: the step that failed (name of a `hardpoint.lifecycle.Action` with underscores, ``"ask"`` for a call that
        cannot be carried out, or one of the words above); "" if the call did what was asked.
    memory: seconds of the slowest worker's copies, digests, unmapping and mapping.
    protocol: seconds of votes, synchronising and threads, on the worker that waited least for others.
    nbytes: bytes of all workers that were freed or restored.
    """

    number: int = 0
    kind: str = ""
    failed: str = ""
    memory: float = 0.0
    protocol: float = 0.0
    nbytes: int = 0


def report(number: int, kind: str, answers: Sequence[Answer]) -> Report:
    """Of the `answers` to call `number`, one per worker."""
    accounts = [answer.account for answer in answers if answer.account is not None]
    failed = next((account.failed for account in accounts if account.failed), "")
    if not failed and any(answer.sentence for answer in answers):
        failed = REFUSED
    return Report(
        number,
        kind,
        failed.replace(" ", "_"),
        memory=max((account.memory for account in accounts), default=0.0),
        protocol=min((account.protocol for account in accounts), default=0.0),
        nbytes=sum(account.nbytes for account in accounts),
    )
