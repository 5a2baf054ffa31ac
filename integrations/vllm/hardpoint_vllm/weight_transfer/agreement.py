"""All workers of one engine say yes to the same thing, or none goes on. Over vLLM's own host groups.

The transfer communicator cannot carry this vote: its store lives in the trainer, and the trainer may just have died.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from hardpoint.errors import SyncError

_DIGEST = 16
_REASON = 1000
_BYTES = 1 + _DIGEST + _REASON


@dataclass(frozen=True)
class Ballot:
    """One worker's word: `reason` is empty for yes; `digest` must be the same on all that say yes."""

    digest: bytes
    reason: str = ""

    @classmethod
    def on(cls, subject: str, reason: str = "") -> Ballot:
        """A ballot about `subject`, of which a hash is compared."""
        return cls(hashlib.blake2b(subject.encode(), digest_size=_DIGEST).digest(), reason)

    def to_tensor(self) -> torch.Tensor:
        """Fixed-size bytes: a flag, the digest, the reason."""
        text = self.reason.encode()[:_REASON].decode(errors="ignore").encode()
        data = bytes([bool(text)]) + self.digest + text.ljust(_REASON, b"\0")
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)

    @classmethod
    def from_tensor(cls, tensor: torch.Tensor) -> Ballot:
        """Inverse of `to_tensor`."""
        data = bytes(tensor.tolist())
        text = data[1 + _DIGEST :].rstrip(b"\0").decode(errors="replace")
        return cls(data[1 : 1 + _DIGEST], text if data[0] else "")


def count(ballots: Sequence[Ballot], what: str) -> Ballot:
    """The common word of `ballots`, in the order of their ranks within `what`."""
    for rank, ballot in enumerate(ballots):
        if ballot.reason:
            return Ballot(ballot.digest, f"{what} rank {rank}: {ballot.reason}" if len(ballots) > 1 else ballot.reason)
    for rank, ballot in enumerate(ballots):
        if ballot.digest != ballots[0].digest:
            return Ballot(ballot.digest, f"{what} ranks 0 and {rank} hold different updates")
    return ballots[0]


def agree(ballot: Ballot, deadline: float) -> None:
    """Return if every worker of this engine says yes to the same; each gets the same error otherwise.

    Raises:
        SyncError: the first objection with its rank, or workers that did not vote within `deadline` seconds.
    """
    for what, group in _groups():
        ballot = count(_exchange(ballot, what, group, deadline), what)
    if ballot.reason:
        raise SyncError(ballot.reason)


def _exchange(ballot: Ballot, what: str, group: Any, deadline: float) -> list[Ballot]:
    import torch.distributed as dist

    received = [torch.empty(_BYTES, dtype=torch.uint8) for _ in range(dist.get_world_size(group))]
    try:
        work = dist.all_gather(received, ballot.to_tensor(), group=group, async_op=True)
        assert work is not None
        work.wait(timedelta(seconds=deadline))
    except RuntimeError as error:
        raise SyncError(
            f"The {what} workers of this engine did not all vote within {deadline:g} s ({error}). Its groups are in an "
            "unknown state: restart the engine."
        ) from error
    return [Ballot.from_tensor(tensor) for tensor in received]


def _groups() -> list[tuple[str, Any]]:
    """Tensor-parallel then pipeline group: together all workers of one engine. The world group may span DP engines."""
    from vllm.distributed.parallel_state import get_pp_group, get_tp_group

    named = (("tensor-parallel", get_tp_group()), ("pipeline", get_pp_group()))
    return [(what, group.cpu_group) for what, group in named if group.world_size > 1]
