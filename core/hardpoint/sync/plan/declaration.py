"""What a receiver declares, as bytes: bounded JSON that a reader checks field by field; nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hardpoint.errors import SyncError
from hardpoint.sync.dtypes import ITEMSIZE
from hardpoint.sync.json_object import json_object
from hardpoint.sync.manifest import Manifest, TensorSpec
from hardpoint.sync.plan.cover import Box
from hardpoint.sync.plan.destination import Destination, Part
from hardpoint.sync.plan.offer import Offer
from hardpoint.sync.plan.strides import Ints

VERSION = 1


@dataclass(frozen=True)
class DeclarationLimits:
    """What a reader accepts: encoded bytes, entries of any list, characters of a name."""

    nbytes: int = 64 << 20
    entries: int = 1 << 19
    name: int = 512


LIMITS = DeclarationLimits()


@dataclass(frozen=True)
class Declaration:
    """What a receiver says of itself.

    Attributes:
        destinations: its parameters, and what fills them.
        ignored: names that its checkpoint has and it takes nothing from (experts of other ranks, a tied lm_head): they
            may be sent all the same.
    """

    destinations: tuple[Destination, ...]
    ignored: tuple[str, ...] = ()


def encode_declaration(declared: Declaration) -> bytes:
    """Canonical JSON: equal declarations are equal bytes."""
    body = [
        [
            of.parameter,
            of.dtype,
            of.shape,
            of.grid,
            of.strides,
            [[p.tensors, p.shape, p.form, p.offset, p.strides, p.lows, p.sizes] for p in of.parts],
            of.zeros,
        ]
        for of in declared.destinations
    ]
    return json.dumps(
        {"version": VERSION, "destinations": body, "ignored": declared.ignored}, separators=(",", ":"), sort_keys=True
    ).encode()


def declaration_digest(data: bytes) -> str:
    """Name under which `encode_declaration`'s bytes are kept."""
    return hashlib.sha256(data).hexdigest()


def decode_declaration(data: bytes, limits: DeclarationLimits = LIMITS) -> Declaration:
    """Read what a peer declared. SyncError for anything but a well-formed declaration within `limits`."""
    read = _Reader(limits)
    body = _object(data, {"version", "destinations", "ignored"}, limits)
    destinations = tuple(
        Destination(
            read.name(parameter),
            read.dtype(dtype),
            read.ints(shape),
            read.ints(grid),
            read.ints(strides),
            tuple(read.part(part) for part in read.entries(parts)),
            tuple(read.box(box) for box in read.entries(zeros)),
        )
        for parameter, dtype, shape, grid, strides, parts, zeros in (
            read.row(entry, 7) for entry in read.entries(body["destinations"])
        )
    )
    return Declaration(destinations, tuple(read.name(name) for name in read.entries(body["ignored"])))


def encode_offer(offer: Offer) -> bytes:
    """An offer as the manifest that it is, and the declared formats."""
    tensors = [[spec.name, spec.shape, spec.dtype] for spec in offer.tensors]
    body = {"version": VERSION, "tensors": tensors, "formats": offer.formats}
    return json.dumps(body, separators=(",", ":"), sort_keys=True).encode()


def decode_offer(data: bytes, limits: DeclarationLimits = LIMITS) -> Offer:
    """Read what a trainer offers. SyncError for anything but a well-formed offer within `limits`."""
    read = _Reader(limits)
    body = _object(data, {"version", "tensors", "formats"}, limits)
    tensors = tuple(
        TensorSpec(read.name(name), read.ints(shape), read.dtype(dtype))
        for name, shape, dtype in (read.row(entry, 3) for entry in read.entries(body["tensors"]))
    )
    unique = {spec.name: spec for spec in tensors}
    Manifest(0, tuple(unique.values()))  # its bounds are the bounds here
    formats = tuple(
        (read.name(tensor), read.name(form))
        for tensor, form in (read.row(entry, 2) for entry in read.entries(body["formats"]))
    )
    return Offer(tensors, formats)


def _object(data: bytes, fields: set[str], limits: DeclarationLimits) -> dict[str, Any]:
    if len(data) > limits.nbytes:
        raise _refused(f"{len(data)} bytes, at most {limits.nbytes} are accepted")
    try:
        body = json_object(data)
    except ValueError as error:
        raise _refused(str(error)) from None
    if set(body) != fields:
        raise _refused(f"expected an object with {', '.join(sorted(fields))}, found {body!a:.80}")
    if body["version"] != VERSION:
        raise _refused(
            f"version {body['version']!a:.20}, this side reads {VERSION}; install the same hardpoint on both"
        )
    return body


class _Reader:
    def __init__(self, limits: DeclarationLimits) -> None:
        self._limits = limits

    def entries(self, value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > self._limits.entries:
            raise _refused(f"expected a list of at most {self._limits.entries} entries, found {value!a:.80}")
        return value

    def row(self, value: Any, length: int) -> list[Any]:
        if not isinstance(value, list) or len(value) != length:
            raise _refused(f"expected {length} fields, found {value!a:.80}")
        return value

    def name(self, value: Any) -> str:
        if not isinstance(value, str) or len(value) > self._limits.name or not value.isprintable():
            raise _refused(f"expected a printable name, found {value!a:.80}")
        return value

    def dtype(self, value: Any) -> str:
        if not isinstance(value, str) or value not in ITEMSIZE:
            raise _refused(f"dtype {value!a:.40} is not known")
        return value

    def number(self, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
            raise _refused(f"expected a number that is not negative, found {value!a:.40}")
        return value

    def ints(self, value: Any) -> Ints:
        if not isinstance(value, list) or len(value) > 16:
            raise _refused(f"expected at most 16 numbers, found {value!a:.80}")
        return tuple(self.number(one) for one in value)

    def box(self, value: Any) -> Box:
        lows, sizes = self.row(value, 2)
        return self.ints(lows), self.ints(sizes)

    def part(self, value: Any) -> Part:
        tensors, shape, form, offset, strides, lows, sizes = self.row(value, 7)
        names: Callable[[Any], str] = self.name
        return Part(
            tuple(names(one) for one in self.entries(tensors)),
            self.ints(shape),
            self.name(form),
            self.number(offset),
            self.ints(strides),
            self.ints(lows),
            self.ints(sizes),
        )


def _refused(what: str) -> SyncError:
    return SyncError(f"Declaration refused: {what}.")
