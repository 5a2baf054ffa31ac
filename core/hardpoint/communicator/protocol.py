"""`Communicator`: collectives with a deadline, a sequence number and the names of the ranks that did not arrive.

Laws: a collective runs under the tensor's own device and on the caller's current stream; every call has a deadline; a
missed one names op, sequence number and absent ranks; dtypes that the native library lacks travel as bytes; a
communicator that saw a failed collective refuses every later one (its state on the wire is unknown).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store

CommunicatorFactory = Callable[["Rendezvous"], "Communicator"]


@dataclass(frozen=True)
class Rendezvous:
    """How the ranks of one communicator meet.

    Attributes:
        store: a torch.distributed store shared by all ranks (TCPStore, FileStore, PrefixStore ...).
        rank, world_size: this process's place.
        name: unique among the communicators on this store.
        deadline: seconds that a call may take unless it says otherwise.
        device_index: device that this rank's tensors live on.
    """

    store: Store
    rank: int
    world_size: int
    name: str = "default"
    deadline: float = 60.0
    device_index: int = 0


@dataclass(frozen=True)
class Verdict:
    """Outcome of a vote, the same on every rank that returned from it.

    Attributes:
        unanimous: every rank arrived, said yes, and brought the same digest.
        subject: what was voted on.
        objections: rank -> its sentence, for ranks that said no or brought another digest.
        missing: ranks that did not vote within the deadline.
    """

    unanimous: bool
    subject: str
    objections: dict[int, str]
    missing: tuple[int, ...]


@runtime_checkable
class Broadcast(Protocol):
    """The part of `Communicator` that weight sync needs."""

    def broadcast(self, tensor: torch.Tensor, /, *, src: int, deadline: float | None = None) -> None:
        """Overwrite `tensor` on every rank with the one of rank `src`. Contiguous, same shape and dtype everywhere."""
        ...


@runtime_checkable
class AllToAll(Protocol):
    """What a communicator may offer beyond `Communicator`, where the native library has it."""

    def all_to_all(
        self,
        output: torch.Tensor,
        tensor: torch.Tensor,
        /,
        send_counts: Sequence[int],
        receive_counts: Sequence[int],
        *,
        deadline: float | None = None,
    ) -> None:
        """Rows of `tensor` ``[sum(send_counts), ...]`` to the ranks in order, theirs into `output`, in rank order.

        ``receive_counts[r]`` is what rank r states in its ``send_counts`` for this rank; a count may be 0.
        """
        ...


@runtime_checkable
class Communicator(Broadcast, Protocol):
    """Collectives of one group of ranks. All tensors are contiguous and on this rank's device."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    @property
    def sequence(self) -> int:
        """Number of collectives issued so far; the next one gets this number."""
        ...

    def all_gather(self, output: torch.Tensor, tensor: torch.Tensor, /, *, deadline: float | None = None) -> None:
        """`tensor` ``[n, ...]`` of every rank into `output` ``[world_size * n, ...]``, in rank order."""
        ...

    def all_gather_ragged(
        self, output: torch.Tensor, tensor: torch.Tensor, /, counts: Sequence[int], *, deadline: float | None = None
    ) -> None:
        """`tensor` ``[counts[rank], ...]`` of every rank into `output` ``[sum(counts), ...]``; a count may be 0."""
        ...

    def reduce_scatter(
        self, output: torch.Tensor, tensor: torch.Tensor, /, *, op: str = "sum", deadline: float | None = None
    ) -> None:
        """Reduce `tensor` ``[world_size * n, ...]``; rank r keeps rows ``[r*n, (r+1)*n)`` in `output`."""
        ...

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
        """Reduce `tensor` ``[sum(counts), ...]``; rank r keeps its ``counts[r]`` rows in `output`."""
        ...

    def all_reduce(self, tensor: torch.Tensor, /, *, op: str = "sum", deadline: float | None = None) -> None:
        """Reduce `tensor` over all ranks, in place."""
        ...

    def barrier(self, *, deadline: float | None = None) -> None:
        """Return when every rank has called it."""
        ...

    def vote(
        self, ok: bool, subject: str, *, reason: str = "", digest: str = "", deadline: float | None = None
    ) -> Verdict:
        """All ranks say yes or no about `subject`, and compare `digest`. Never raises for a no or an absent rank."""
        ...

    def close(self) -> None:
        """Release the group; later calls raise CommunicatorError. Idempotent."""
        ...
