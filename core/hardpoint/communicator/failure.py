"""The error of a collective that failed, from what is known of the other ranks. Pure."""

from __future__ import annotations

from hardpoint.communicator.diagnosis import Diagnosis
from hardpoint.errors import CollectiveMismatch, CommunicatorError, DeadlineExceeded, RankLost


def error_of(
    *,
    name: str,
    library: str,
    rank: int,
    number: int,
    call: str,
    seconds: float,
    found: Diagnosis,
    native: BaseException | None,
) -> CommunicatorError:
    """What this rank raises.

    Args:
        name: of the communicator.
        call: op and form of call `number`.
        seconds: its deadline.
        native: what the library raised, None if it raised nothing.
    """
    op = call.partition(" ")[0]
    head = f"call number {number} of communicator {name!r}, {call}, on rank {rank}"
    said = f" {library} says: {first_line(native)}" if native is not None else ""
    if found.store_lost is not None and not found.missing:
        return CommunicatorError(
            f"{head} failed, and the store cannot be reached ({found.store_lost}): the process that serves it has "
            f"ended or is cut off, so the absent ranks cannot be named.{said}"
        )
    if found.other:
        theirs = "; ".join(found.sentences[peer] for peer in found.other)
        return CollectiveMismatch(
            f"{head} failed: ranks disagree about it; {theirs}. Every rank has to make the same calls in the same "
            f"order with the same shapes and dtypes.{said}"
        )
    what = "; ".join(found.sentences.values()) or "every rank arrived, but the data did not"
    kind = RankLost if found.lost else DeadlineExceeded
    text = "cannot end" if found.lost else f"did not end within {seconds:g} s"
    if not found.lost and not found.missing and native is not None and "imed out" not in str(native):
        return CommunicatorError(f"{head} failed although every rank arrived.{said}")
    return kind(f"{head} {text}: {what}.{said}", op=op, sequence=number, missing=found.missing, deadline=seconds)


def first_line(error: BaseException) -> str:
    """First line of its message, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
