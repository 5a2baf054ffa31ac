"""Which bytes travel together: moves into flat buckets, one audience per bucket, in the receivers' order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from hardpoint.errors import SyncError
from hardpoint.sync.buckets import ALIGNMENT
from hardpoint.sync.plan.strides import Ints, volume


class Landing(NamedTuple):
    """Where a move arrives on the receivers of one shard.

    Attributes:
        parameter: number among the shard's destinations.
        offset, strides: of the first box in the parameter's storage.
        step: from there to the box of each further tensor.
    """

    shard: int
    parameter: int
    offset: int
    strides: Ints
    step: int


class Move(NamedTuple):
    """Equal boxes of one or more of a trainer's tensors, sent once, to all receivers that hold them.

    Attributes:
        sources: numbers of the tensors in the offer.
        itemsize: bytes of one element.
        sizes: of the box, in the order of the receivers' storage: packed row-major.
        offset, strides: in each contiguous source tensor.
        landings: one or more for each shard of the audience (tied weights land twice).
    """

    sources: Ints
    itemsize: int
    sizes: Ints
    offset: int
    strides: Ints
    landings: tuple[Landing, ...]

    @property
    def nbytes(self) -> int:
        """Payload of all boxes."""
        return len(self.sources) * self.box_bytes

    @property
    def box_bytes(self) -> int:
        return volume(self.sizes) * self.itemsize

    @property
    def pitch(self) -> int:
        """Bytes in a bucket from one box to the next."""
        return _aligned(self.box_bytes)


class Piece(NamedTuple):
    """A move, or some of its boxes, or a part of a box that is larger than a bucket, from byte `at` of a bucket on."""

    at: int
    move: Move


@dataclass(frozen=True)
class Bucket:
    """One message. `nbytes` counts the gaps of the alignment; `shards` are those that receive it."""

    index: int
    shards: Ints
    nbytes: int
    pieces: tuple[Piece, ...]


def pack(moves: Iterable[Move], bucket_bytes: int) -> tuple[Bucket, ...]:
    """Lay `moves` into buckets of at most `bucket_bytes`, in order, one open bucket for each audience.

    A move that does not fit is split along its outermost dimension. Buckets are numbered in the order they are full,
    so that receivers of different shards are fed in turn.
    """
    if bucket_bytes < ALIGNMENT or bucket_bytes % ALIGNMENT:
        raise SyncError(f"A bucket must hold a positive multiple of {ALIGNMENT} bytes, found {bucket_bytes}.")
    done: list[Bucket] = []
    open_: dict[Ints, _Open] = {}
    audiences: dict[Ints, Ints] = {}
    for move in moves:
        landings = move.landings
        raw = (landings[0].shard,) if len(landings) == 1 else tuple([landing.shard for landing in landings])
        audience = audiences.get(raw)
        if audience is None:
            audience = audiences.setdefault(raw, tuple(sorted(set(raw))))
        _place(move, open_.setdefault(audience, _Open()), audience, bucket_bytes, done)
    for audience, bucket in open_.items():
        bucket.close(audience, done)
    return tuple(done)


def as_offered(buckets: Iterable[Bucket]) -> tuple[Bucket, ...]:
    """`buckets` in the order in which they are full if tensors come in the offer's order, numbered anew.

    So a trainer that makes one tensor at a time sends each as soon as it can, and holds few.
    """
    full = sorted(buckets, key=lambda bucket: max(max(piece.move.sources) for piece in bucket.pieces))
    return tuple(replace(bucket, index=index) for index, bucket in enumerate(full))


class _Open:
    __slots__ = ("pieces", "used")

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.used = 0

    def add(self, start: int, move: Move) -> None:
        self.pieces.append(Piece(start, move))
        self.used = start + (len(move.sources) - 1) * move.pitch + move.box_bytes

    def close(self, audience: Ints, done: list[Bucket]) -> None:
        if self.pieces:
            done.append(Bucket(len(done), audience, self.used, tuple(self.pieces)))
        self.pieces, self.used = [], 0


def _place(move: Move, bucket: _Open, audience: Ints, bucket_bytes: int, done: list[Bucket]) -> None:
    waiting = [move]
    while waiting:
        move = waiting.pop()
        count, pitch, nbytes = len(move.sources), move.pitch, move.box_bytes
        start = _aligned(bucket.used)
        room = bucket_bytes - start
        fit = min(count, (room - nbytes) // pitch + 1) if room >= nbytes else 0
        if fit == count:
            bucket.add(start, move)
        elif fit:
            waiting += [_boxes(move, fit, count), _boxes(move, 0, fit)]
        elif count > 1 and nbytes <= bucket_bytes:
            bucket.close(audience, done)
            waiting.append(move)
        elif count > 1:
            waiting += [_boxes(move, 1, count), _boxes(move, 0, 1)]
        elif rows := max(0, room) // (nbytes // move.sizes[0]):
            waiting += [_rows(move, rows, move.sizes[0] - rows), _rows(move, 0, rows)]
        elif bucket.pieces:
            bucket.close(audience, done)
            waiting.append(move)
        else:  # one row alone is larger than a bucket
            if move.sizes[0] > 1:
                waiting.append(_rows(move, 1, move.sizes[0] - 1))
            waiting.append(_inner(move))


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _boxes(move: Move, first: int, last: int) -> Move:
    return move._replace(
        sources=move.sources[first:last],
        landings=tuple(landing._replace(offset=landing.offset + first * landing.step) for landing in move.landings),
    )


def _rows(move: Move, first: int, count: int) -> Move:
    return move._replace(
        sizes=(count, *move.sizes[1:]),
        offset=move.offset + first * move.strides[0],
        landings=tuple(
            landing._replace(offset=landing.offset + first * landing.strides[0]) for landing in move.landings
        ),
    )


def _inner(move: Move) -> Move:
    return move._replace(
        sizes=move.sizes[1:],
        strides=move.strides[1:],
        landings=tuple(landing._replace(strides=landing.strides[1:]) for landing in move.landings),
    )
