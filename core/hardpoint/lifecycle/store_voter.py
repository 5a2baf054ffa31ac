"""`StoreVoter`: the votes of sleep and wake over a store, for an integration whose workers share no communicator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardpoint.communicator.protocol import Verdict
from hardpoint.communicator.vote import Ballot, cast_vote
from hardpoint.errors import LifecycleError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


class StoreVoter:
    """Ranks 0 to ``world_size - 1`` of one engine, on a torch.distributed store that a process outside of them serves.

    Every operation has keys of its own, so a rank that missed one cannot count the others' votes wrong later.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self._store, self.rank, self._world_size = store, rank, world_size
        self._operation, self._votes = 0, 0

    def begin(self, operation: int) -> None:
        """The votes that follow belong to `operation`, a number that is the same on every rank and never used again."""
        self._operation, self._votes = operation, 0

    def vote(
        self, ok: bool, subject: str, *, reason: str = "", digest: str = "", deadline: float | None = None
    ) -> Verdict:
        """See `hardpoint.communicator.vote`. LifecycleError if the store cannot be reached: the outcome is unknown."""
        import torch.distributed as dist

        store = dist.PrefixStore(f"lifecycle/{self._operation}", self._store)  # type: ignore[attr-defined]
        number, self._votes = self._votes, self._votes + 1
        ballot = Ballot(ok, subject, reason, digest)
        try:
            return cast_vote(
                store, self.rank, self._world_size, number, ballot, 60.0 if deadline is None else deadline, frozenset
            )
        except RuntimeError as error:
            raise LifecycleError(
                f"rank {self.rank}: the store of the votes cannot be reached ({str(error).splitlines()[0]}); the "
                "process that serves it has ended or is cut off."
            ) from error
