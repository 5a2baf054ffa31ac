"""Where a bucket is cut into messages: a large run that is one range of storage at its receivers travels alone.

Such a run needs no bucket buffer where it lands, and none where it comes from if it is one range there too: the wire
reads and writes the weights themselves. All else travels together, through a buffer. Pure, the same on every rank.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hardpoint.sync.plan import Bucket, Landing, Move, Piece
from hardpoint.sync.plan.strides import contiguous

DIRECT_BYTES = 64 << 20  # below this a message of its own costs more than the copy that it saves


class Cut(NamedTuple):
    """Bytes ``[start, stop)`` of a bucket, sent as one message; `pieces` keep their places in the bucket."""

    bucket: int
    start: int
    stop: int
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


def cuts_of(bucket: Bucket, least: int = DIRECT_BYTES) -> tuple[Cut, ...]:
    """Messages of `bucket`, in order; gaps between two are not sent, gaps inside one are."""
    done: list[Cut] = []
    waiting: list[Piece] = []
    for run in _runs(bucket, least):
        if run.solid and _end(run.pieces) - run.pieces[0].at >= least:
            _flush(bucket, waiting, done)
            done.append(Cut(bucket.index, run.pieces[0].at, _end(run.pieces), tuple(run.pieces)))
        else:
            waiting += run.pieces
    _flush(bucket, waiting, done)
    return tuple(done)


class _Run(NamedTuple):
    pieces: list[Piece]
    solid: bool  # one range of storage at every receiver


def _runs(bucket: Bucket, least: int) -> Iterable[_Run]:
    current: _Run | None = None
    for piece, solid in _parts(bucket, least):
        if current is not None and solid and current.solid and _continues(current.pieces[-1], piece):
            current.pieces.append(piece)
            continue
        if current is not None:
            yield current
        current = _Run([piece], solid)
    if current is not None:
        yield current


def _parts(bucket: Bucket, least: int) -> Iterable[tuple[Piece, bool]]:
    """Pieces, or their boxes where each is a run and all together are not."""
    for piece in bucket.pieces:
        at, move = piece
        count, nbytes = len(move.sources), move.box_bytes
        dense = all(landing.strides == contiguous(move.sizes) for landing in move.landings)
        even = count == 1 or (
            move.pitch == nbytes and all(landing.step * move.itemsize == nbytes for landing in move.landings)
        )
        if dense and not even and nbytes >= least:
            for box in range(count):
                yield Piece(at + box * move.pitch, boxes_of(move, box, box + 1)), True
        else:
            yield piece, dense and even


def _continues(before: Piece, after: Piece) -> bool:
    """Whether `after` goes on where `before` ends, in the bucket and at every landing."""
    length = _end([before]) - before.at
    ours, theirs = before.move.landings, after.move.landings
    if before.at + length != after.at or before.move.itemsize != after.move.itemsize or len(ours) != len(theirs):
        return False
    step = length // before.move.itemsize
    return all(_next_to(one, other, step) for one, other in zip(ours, theirs, strict=True))


def _next_to(one: Landing, other: Landing, step: int) -> bool:
    return (one.shard, one.parameter, one.offset + step) == (other.shard, other.parameter, other.offset)


def _flush(bucket: Bucket, waiting: list[Piece], done: list[Cut]) -> None:
    if waiting:
        done.append(Cut(bucket.index, waiting[0].at, _end(waiting), tuple(waiting)))
        waiting.clear()


def _end(pieces: list[Piece]) -> int:
    at, move = pieces[-1]
    return at + (len(move.sources) - 1) * move.pitch + move.box_bytes


def boxes_of(move: Move, first: int, last: int) -> Move:
    """`move` with boxes ``[first, last)`` alone."""
    return move._replace(
        sources=move.sources[first:last],
        landings=tuple(landing._replace(offset=landing.offset + first * landing.step) for landing in move.landings),
    )
