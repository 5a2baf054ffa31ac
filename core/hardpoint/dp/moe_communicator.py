"""`moe_communicator`: the group over which expert-parallel ranks dispatch and combine tokens, by the backend's rule.

Where `DpRule.barrier_before_moe` says so, the ranks meet before every gather and scatter: on some libraries a rank that
enters one of these late leaves the others hanging (FR4, item 5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hardpoint.communicator.protocol import Communicator, Rendezvous, Verdict

if TYPE_CHECKING:
    import torch

    from hardpoint.backend import Backend

PREFIX = "moe/"


def moe_communicator(backend: Backend, rendezvous: Rendezvous) -> Communicator:
    """A communicator for dispatch and combine. Its name begins with ``moe/``, also in errors and in flight records."""
    group = backend.communicator(replace(rendezvous, name=PREFIX + rendezvous.name.removeprefix(PREFIX)))
    if not backend.dp_rule.barrier(expert_parallel=True):
        return group
    return MeetFirst(group, backend.graphs.capturing)


@dataclass(frozen=True)
class MeetFirst:
    """`group`, whose ranks meet by its `barrier` before each gather and scatter.

    Attributes:
        capturing: answers whether the caller's stream is being captured: the host must not wait there, and a replay
            would not meet anyway.
    """

    group: Communicator
    capturing: Callable[[], bool]

    @property
    def rank(self) -> int:
        return self.group.rank

    @property
    def world_size(self) -> int:
        return self.group.world_size

    @property
    def sequence(self) -> int:
        """Calls so far, meetings included."""
        return self.group.sequence

    def broadcast(self, tensor: torch.Tensor, /, *, src: int, deadline: float | None = None) -> None:
        self.group.broadcast(tensor, src=src, deadline=deadline)

    def all_gather(self, output: torch.Tensor, tensor: torch.Tensor, /, *, deadline: float | None = None) -> None:
        self._meet(deadline)
        self.group.all_gather(output, tensor, deadline=deadline)

    def all_gather_ragged(
        self, output: torch.Tensor, tensor: torch.Tensor, /, counts: Sequence[int], *, deadline: float | None = None
    ) -> None:
        self._meet(deadline)
        self.group.all_gather_ragged(output, tensor, counts, deadline=deadline)

    def reduce_scatter(
        self, output: torch.Tensor, tensor: torch.Tensor, /, *, op: str = "sum", deadline: float | None = None
    ) -> None:
        self._meet(deadline)
        self.group.reduce_scatter(output, tensor, op=op, deadline=deadline)

    def reduce_scatter_ragged(
        self,
        output: torch.Tensor,
        tensor: torch.Tensor,
        /,
        counts: Sequence[int],
        *,
        op: str = "sum",
        deadline: float | None = None,
    ) -> None:
        self._meet(deadline)
        self.group.reduce_scatter_ragged(output, tensor, counts, op=op, deadline=deadline)

    def all_reduce(self, tensor: torch.Tensor, /, *, op: str = "sum", deadline: float | None = None) -> None:
        self.group.all_reduce(tensor, op=op, deadline=deadline)

    def barrier(self, *, deadline: float | None = None) -> None:
        self.group.barrier(deadline=deadline)

    def vote(
        self, ok: bool, subject: str, *, reason: str = "", digest: str = "", deadline: float | None = None
    ) -> Verdict:
        return self.group.vote(ok, subject, reason=reason, digest=digest, deadline=deadline)

    def close(self) -> None:
        self.group.close()

    def _meet(self, deadline: float | None) -> None:
        if not self.capturing():
            self.group.barrier(deadline=deadline)
