"""`SyncPlan`: who sends which bytes to whom and where they land; made only if nothing is left out or written twice."""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from hardpoint.errors import SyncError
from hardpoint.sync.dtypes import ITEMSIZE
from hardpoint.sync.manifest import DEFAULT_BUCKET_BYTES
from hardpoint.sync.plan.destination import Destination
from hardpoint.sync.plan.matching import index_by_name, refusals
from hardpoint.sync.plan.model import Receiver
from hardpoint.sync.plan.offer import Offer
from hardpoint.sync.plan.packing import Bucket, Landing, Move, as_offered, pack
from hardpoint.sync.plan.refusal import PlanRefused
from hardpoint.sync.plan.strides import Ints, normal
from hardpoint.sync.plan.weave import weave

VERSION = 3  # of what a plan means; part of its digest


@dataclass(frozen=True)
class SyncPlan:
    """Made once, the same on every rank, replayed for each update.

    Attributes:
        offer: what the trainer sends.
        shards: distinct sets of destinations; receivers that hold equal bytes share one.
        shard_of: rank -> number of its shard.
        buckets: in sending order.
        bucket_bytes: the largest that a bucket may be.
        digest: SHA-256 over all of the above, compared by vote before anything is sent.
    """

    offer: Offer
    shards: tuple[tuple[Destination, ...], ...]
    shard_of: dict[int, int]
    buckets: tuple[Bucket, ...]
    bucket_bytes: int
    digest: str

    @cached_property
    def ranks_of(self) -> tuple[tuple[int, ...], ...]:
        """For each shard its ranks, ascending."""
        ranks: list[list[int]] = [[] for _ in self.shards]
        for rank, shard in sorted(self.shard_of.items()):
            ranks[shard].append(rank)
        return tuple(tuple(of) for of in ranks)

    def audience(self, bucket: Bucket) -> tuple[int, ...]:
        """Ranks that receive `bucket`."""
        return tuple(sorted(rank for shard in bucket.shards for rank in self.ranks_of[shard]))

    def buckets_for(self, rank: int) -> tuple[Bucket, ...]:
        """The buckets that `rank` receives, in the order they come.

        Raises:
            SyncError: the plan has no such receiver.
        """
        shard = self._shard(rank)
        return self._by_shard[shard]

    def destinations_for(self, rank: int) -> tuple[Destination, ...]:
        """What `rank` declared. Raises SyncError if the plan has no such receiver."""
        return self.shards[self._shard(rank)]

    def landings(self, bucket: Bucket, rank: int) -> Iterator[tuple[int, Move, Landing]]:
        """``(byte of the first box in the bucket, move, landing)`` for all that `rank` takes out of `bucket`."""
        shard = self._shard(rank)
        for at, move in bucket.pieces:
            for landing in move.landings:
                if landing.shard == shard:
                    yield at, move, landing

    def received_bytes(self, rank: int) -> int:
        """Payload bytes that `rank` receives."""
        return sum(piece.move.nbytes for bucket in self.buckets_for(rank) for piece in bucket.pieces)

    @cached_property
    def sent_bytes(self) -> int:
        """Payload bytes that leave the trainer, each counted once however many ranks take it."""
        return sum(piece.move.nbytes for bucket in self.buckets for piece in bucket.pieces)

    @cached_property
    def _by_shard(self) -> tuple[tuple[Bucket, ...], ...]:
        lists: list[list[Bucket]] = [[] for _ in self.shards]
        for bucket in self.buckets:
            for shard in bucket.shards:
                lists[shard].append(bucket)
        return tuple(tuple(of) for of in lists)

    def _shard(self, rank: int) -> int:
        if rank not in self.shard_of:
            raise SyncError(f"Rank {rank} is not a receiver of this plan; it has ranks {sorted(self.shard_of)}.")
        return self.shard_of[rank]


def make_plan(
    offer: Offer,
    receivers: Iterable[Receiver],
    *,
    ignored: Iterable[tuple[str, str]] = (),
    bucket_bytes: int = DEFAULT_BUCKET_BYTES,
) -> SyncPlan:
    """Plan how `offer` fills all `receivers`.

    Args:
        ignored: names that may be sent and have no place, with the reason (see `ModelSpec.ignored`).

    Raises:
        PlanRefused: a tensor is missing, extra, sent twice, or of another shape, dtype or format than a receiver
            declares; or a receiver's own declaration does not cover its storage exactly once.
        SyncError: no receivers, a rank given twice, or a bad bucket size.
    """
    shards, shard_of = _shards(receivers)
    index = index_by_name(offer)
    first = {shard: rank for rank, shard in sorted(shard_of.items(), reverse=True)}
    found = refusals(offer, index, [(first[n], shard) for n, shard in enumerate(shards)], ignored)
    if found:
        raise PlanRefused(found)
    buckets = as_offered(pack(weave(_moves(shards, index)), bucket_bytes))
    return SyncPlan(offer, shards, shard_of, buckets, bucket_bytes, _digest(offer, shards, shard_of, buckets))


def _shards(receivers: Iterable[Receiver]) -> tuple[tuple[tuple[Destination, ...], ...], dict[int, int]]:
    numbers: dict[int, int] = {}
    shards: list[tuple[Destination, ...]] = []
    shard_of: dict[int, int] = {}
    for receiver in receivers:
        if receiver.rank in shard_of:
            raise SyncError(f"Rank {receiver.rank} is given twice among the receivers.")
        number = numbers.setdefault(id(receiver.destinations), len(shards))
        if number == len(shards):
            shards.append(receiver.destinations)
        shard_of[receiver.rank] = number
    if not shard_of:
        raise SyncError("A plan needs at least one receiver, found none.")
    return tuple(shards), shard_of


_Box = tuple[Ints, int, Ints, int, Ints]  # sources, itemsize, sizes, offset and strides: a move without its landings


def _moves(shards: tuple[tuple[Destination, ...], ...], index: dict[str, int]) -> list[Move]:
    """What is sent, in the order of the receivers' parameters: equal boxes of a tensor once, for all who take them."""
    landings: dict[_Box, list[Landing]] = {}
    place: dict[_Box, int] = {}
    alone = _shared_in_part(shards)
    known: dict[int, list[tuple[_Box, int, Ints, int]]] = {}  # of a destination, whichever shards hold it
    for shard, destinations in enumerate(shards):
        for parameter, destination in enumerate(destinations):
            boxes = known.get(id(destination))
            if boxes is None:
                boxes = known.setdefault(id(destination), list(_boxes(destination, index, alone)))
            for box, offset, strides, step in boxes:
                place.setdefault(box, parameter)
                landings.setdefault(box, []).append(Landing(shard, parameter, offset, strides, step))
    ordered = sorted(landings, key=place.__getitem__)  # stable: within a parameter, shard after shard
    return [Move(*box, tuple(landings[box])) for box in ordered]


def _boxes(destination: Destination, index: dict[str, int], alone: set[str]) -> Iterator[tuple[_Box, int, Ints, int]]:
    """Each box of a destination with its offset, strides and step there; tensors of `alone` one by one."""
    itemsize = ITEMSIZE[destination.dtype]
    for part in destination.parts:
        packed, source, target = normal(part.sizes, part.strides, destination.strides)
        at = sum([low * stride for low, stride in zip(part.lows, destination.strides, strict=True)])
        step = part.sizes[0] * destination.strides[0]
        sources = tuple([index[name] for name in part.tensors])
        if not alone or alone.isdisjoint(part.tensors):
            yield (sources, itemsize, packed, part.offset, source), at, target, step
            continue
        for number, one in enumerate(sources):
            yield ((one,), itemsize, packed, part.offset, source), at + number * step, target, step


def _shared_in_part(shards: tuple[tuple[Destination, ...], ...]) -> set[str]:
    """Tensors that some receivers take in one company and some in another (experts spread over 4 ranks here and over 2
    there): they are moved one by one, so that what both take is sent once."""
    company: dict[str, tuple[str, ...]] = {}
    found: set[str] = set()
    seen: set[int] = set()
    for destinations in shards:
        for destination in destinations:
            for part in destination.parts:
                if len(part.tensors) == 1 or id(part.tensors) in seen:
                    continue
                seen.add(id(part.tensors))
                for name in part.tensors:
                    other = company.setdefault(name, part.tensors)
                    if other is not part.tensors and other != part.tensors:
                        found.update(part.tensors)
                        found.update(other)
    return found


def _digest(
    offer: Offer, shards: tuple[tuple[Destination, ...], ...], shard_of: dict[int, int], buckets: tuple[Bucket, ...]
) -> str:
    """Over what the plan does, not over what it was made from: two versions that plan differently differ here."""
    numbers = array("q", [VERSION, len(shards), len(buckets)])
    for rank, shard in sorted(shard_of.items()):
        numbers.extend((rank, shard))
    flat: list[int] = []
    add, extend = flat.append, flat.extend
    for bucket in buckets:
        extend((-1, bucket.nbytes, len(bucket.shards), *bucket.shards))
        for at, (sources, itemsize, sizes, offset, strides, landings) in bucket.pieces:
            extend((at, itemsize, offset, len(sources), len(sizes)))
            extend(sources)
            extend(sizes)
            extend(strides)
            add(len(landings))
            for landing in landings:
                extend((landing.shard, landing.parameter, landing.offset, landing.step))
                extend(landing.strides)
    numbers.extend(flat)
    if sys.byteorder == "big":
        numbers.byteswap()
    described: dict[int, str] = {}
    names: list[str] = []
    for destinations in shards:
        names.append("")
        for of in destinations:
            text = described.get(id(of))
            if text is None:
                text = f"{of.parameter} {of.dtype} {of.shape} {of.grid} {of.strides} {of.zeros}"
                described[id(of)] = text
            names.append(text)
    state = hashlib.sha256(offer.digest.encode())
    state.update("\n".join(names).encode())
    state.update(numbers.tobytes())
    return state.hexdigest()
