"""`Directory`: what trainer and receivers tell each other before an update, on the store: who declares which
parameters, what is offered, and which plan follows from it. Both sides make the plan themselves and compare digests.

Equal declarations (data-parallel replicas) are stored once, so that it grows with shards, not with ranks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hardpoint.communicator.store import connection_of_its_own
from hardpoint.errors import SyncError
from hardpoint.sync.plan import Offer, Receiver, SyncPlan, make_plan
from hardpoint.sync.plan.declaration import (
    Declaration,
    declaration_digest,
    decode_declaration,
    decode_offer,
    encode_declaration,
    encode_offer,
)

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_LINE = 1 << 16


@dataclass(frozen=True)
class Entry:
    """One receiver: the digest of its declaration, the version that it serves (-1: none that counts), its place."""

    rank: int
    declared: str
    epoch: int
    at: str


@dataclass(frozen=True)
class Proposal:
    """What an update's plan is made of, by its digest."""

    offer: Offer
    bucket_bytes: int


class Directory:
    """One process's view of the group `name` on `store`."""

    def __init__(self, store: Store, name: str) -> None:
        from torch._C._distributed_c10d import PrefixStore

        self._store: Any = PrefixStore(f"hardpoint/{name}/directory", connection_of_its_own(store))
        self._name = name
        self._declared: dict[str, Declaration] = {}

    def declare(self, rank: int, declared: Declaration, epoch: int, at: str) -> Entry:
        """Receiver: say what this rank holds. Replaces what it said before."""
        data = encode_declaration(declared)
        entry = Entry(rank, declaration_digest(data), epoch, at)
        self._declared[entry.declared] = declared
        if not self._store.check([f"declared/{entry.declared}"]):
            self._store.set(f"declared/{entry.declared}", data)
        self._store.set(f"rank/{rank}", json.dumps([entry.declared, entry.epoch, entry.at]))
        return entry

    def entries(self, ranks: Iterable[int], deadline: float) -> dict[int, Entry]:
        """What `ranks` have said.

        Raises:
            SyncError: some have not within `deadline` seconds; it names them.
        """
        wanted = list(ranks)
        keys = [f"rank/{rank}" for rank in wanted]
        try:
            self._store.wait(keys, timedelta(seconds=max(0.001, deadline)))
            found = self._store.multi_get(keys)
        except RuntimeError as error:
            missing = self._absent(wanted)
            if not missing:
                raise SyncError(f"The rendezvous of {self._name!r} cannot be reached: {_first(error)}.") from error
            raise SyncError(
                f"Rank(s) {', '.join(map(str, missing))} of {len(wanted)} receivers did not declare their parameters "
                f"within {deadline:g} s."
            ) from error
        return {rank: _entry(rank, data) for rank, data in zip(wanted, found, strict=True)}

    def plan(self, entries: Iterable[Entry], offer: Offer, bucket_bytes: int) -> SyncPlan:
        """The plan by which `offer` fills all receivers; those with equal declarations are planned once.

        Raises:
            PlanRefused: see `make_plan`.
        """
        found = [(entry, self.declaration(entry.declared)) for entry in entries]
        receivers = [Receiver(entry.rank, of.destinations, entry.at) for entry, of in found]
        ignored = {name for _, of in found for name in of.ignored}
        allowed = [(name, "no receiver takes anything from it") for name in sorted(ignored)]
        return make_plan(offer, receivers, ignored=allowed, bucket_bytes=bucket_bytes)

    def propose(self, plan: str, offer: Offer, bucket_bytes: int) -> None:
        """Trainer: leave what the plan with digest `plan` is made of, for those who have to make it as well."""
        self._store.set(f"offer/{offer.digest}", encode_offer(offer))
        self._store.set(f"plan/{plan}", json.dumps([offer.digest, bucket_bytes]))

    def proposal(self, plan: str) -> Proposal | None:
        """What the plan with this digest is made of; None if nobody has said it."""
        if not plan.isalnum() or len(plan) > 128 or not self._store.check([f"plan/{plan}"]):
            return None
        fields = _json(self._store.get(f"plan/{plan}"))
        if not isinstance(fields, list) or len(fields) != 2 or not isinstance(fields[1], int):
            raise SyncError(f"What the plan {plan[:12]} is made of is not well-formed: {fields!a:.80}.")
        digest = str(fields[0])
        if not self._store.check([f"offer/{digest}"]):
            return None
        offer = decode_offer(bytes(self._store.get(f"offer/{digest}")))
        if offer.digest != digest:
            raise SyncError(f"The offer of plan {plan[:12]} was damaged on the way (digest differs).")
        return Proposal(offer, fields[1])

    def declaration(self, digest: str) -> Declaration:
        """What a receiver declared, by the digest in its entry."""
        known = self._declared.get(digest)
        if known is None:
            data = bytes(self._store.get(f"declared/{digest}"))
            if declaration_digest(data) != digest:
                raise SyncError("A receiver's declaration was damaged on the way (digest differs).")
            known = self._declared.setdefault(digest, decode_declaration(data))
        return known

    def _absent(self, ranks: Sequence[int]) -> list[int]:
        try:
            return [rank for rank in ranks if not self._store.check([f"rank/{rank}"])]
        except RuntimeError:
            return []


def _entry(rank: int, data: bytes) -> Entry:
    fields = _json(data)
    kinds = (str, int, str)
    if not isinstance(fields, list) or [type(one) for one in fields] != list(kinds):
        raise SyncError(f"The entry of rank {rank} is not well-formed: {fields!a:.80}.")
    return Entry(rank, *fields)


def _json(data: bytes) -> Any:
    try:
        return json.loads(bytes(data)[:_LINE])
    except (ValueError, RecursionError):
        return None


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
