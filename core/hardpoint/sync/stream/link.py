"""`Link`: carries messages from the trainer to some of the receivers, in order; over `Communicator`s, one per audience.

A communicator has a deadline for every call, names who did not come, and is ended by whoever gives it up, so that
nobody waits for the dead. It authenticates nobody: `Stamp` says which session the bytes belong to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from hardpoint.communicator import Broadcast, CommunicatorFactory, Rendezvous
from hardpoint.errors import CommunicatorError, DeadlineExceeded, SyncError

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store

Audience = tuple[int, ...]
TRAINER = 0
_SHOWN = 8


class Link(Protocol):
    """One rank's end. Calls are made in the same order on both sides; on an accelerator they are queued in the caller's
    current stream, on the host they return when the bytes are there."""

    def send(self, payload: torch.Tensor, audience: Audience, deadline: float, /) -> None:
        """Trainer: `payload`, flat uint8, to all of `audience`. `deadline`: seconds until it must have arrived."""
        ...

    def receive(self, payload: torch.Tensor, audience: Audience, deadline: float, /) -> None:
        """Receiver in `audience`: fill `payload`, flat uint8, as long as what is sent."""
        ...

    def check(self) -> None:
        """Raise CommunicatorError if something that was queued has failed."""
        ...

    def close(self) -> None:
        """Release it; those on the other side learn that this rank is gone. Idempotent."""
        ...


class CommunicatorLink:
    """Over one communicator per audience; in each the trainer is rank 0, then the audience in ascending order."""

    def __init__(self, communicators: Mapping[Audience, Broadcast]) -> None:
        self._by_audience = dict(communicators)

    def send(self, payload: torch.Tensor, audience: Audience, deadline: float, /) -> None:
        """See `Link.send`."""
        with _named_by_the_update(audience):
            self._of(audience).broadcast(payload, src=0, deadline=deadline)

    def receive(self, payload: torch.Tensor, audience: Audience, deadline: float, /) -> None:
        """See `Link.receive`."""
        with _named_by_the_update(audience):
            self._of(audience).broadcast(payload, src=0, deadline=deadline)

    def check(self) -> None:
        """See `Link.check`."""
        for audience, communicator in self._by_audience.items():
            with _named_by_the_update(audience):
                _call(communicator, "check")

    def close(self) -> None:
        """See `Link.close`."""
        for communicator in self._by_audience.values():
            _call(communicator, "close")

    def _of(self, audience: Audience) -> Broadcast:
        found = self._by_audience.get(audience)
        if found is None:
            known = ", ".join(str(list(one)) for one in self._by_audience) or "none"
            raise SyncError(f"This link has no communicator for the ranks {list(audience)}; it has {known}.")
        return found


def open_link(
    factory: CommunicatorFactory,
    store: Store,
    rank: int,
    audiences: Iterable[Audience],
    *,
    name: str,
    device_index: int = 0,
    deadline: float = 60.0,
) -> CommunicatorLink:
    """Connect this rank to the trainer (rank 0) with all others of `audiences`.

    Every rank calls it with the same audiences (`audiences_of`) and name; a name serves once on a store.

    Raises:
        DeadlineExceeded: ranks did not come.
        CommunicatorError: the name is taken, or the ranks cannot connect.
    """
    found: dict[Audience, Broadcast] = {}
    try:
        for number, audience in enumerate(sorted(set(audiences))):
            members = (TRAINER, *audience)
            if rank in members:
                at = Rendezvous(
                    store, members.index(rank), len(members), f"{name}/{number}", deadline, device_index=device_index
                )
                found[audience] = factory(at)
    except BaseException:
        CommunicatorLink(found).close()
        raise
    return CommunicatorLink(found)


@contextlib.contextmanager
def _named_by_the_update(audience: Audience) -> Iterator[None]:
    """A communicator counts its own ranks; whoever reads its error knows those of the update."""
    try:
        yield
    except CommunicatorError as error:
        other = [f"rank {own} is rank {rank}" for own, rank in enumerate(audience, 1) if own != rank]
        if not other:
            raise
        more = f" and so on up to rank {audience[-1]}" if len(other) > _SHOWN else ""
        where = f"Ranks of this communicator, in the update: {', '.join(other[:_SHOWN])}{more}."
        sentence = f"{error} {where}"
        if not isinstance(error, DeadlineExceeded):
            raise type(error)(sentence) from error
        members = (TRAINER, *audience)
        missing = tuple(members[own] for own in error.missing if own < len(members))
        raise type(error)(
            sentence, op=error.op, sequence=error.sequence, missing=missing, deadline=error.deadline
        ) from error


def _call(communicator: Any, method: str) -> None:
    """`check` and `close` are the full communicator's; a bare `Broadcast` has neither."""
    found = getattr(communicator, method, None)
    if found is not None:
        found()
