"""Messages as bytes: a checked header, a JSON body of known fields, and raw bytes for a bucket. Nothing is unpickled.

    "HPTX"  version u16  kind u8  0 u8  body bytes u32  payload bytes u64  crc32 of header and body u32   body   payload

A reader knows each field's type and bound; what is not exactly that is refused by a sentence, and nothing else happens.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hardpoint.errors import SyncError
from hardpoint.sync.digest import DIGEST_BYTES, byte_view
from hardpoint.sync.json_object import json_object
from hardpoint.sync.transaction.messages import (
    Alive,
    Ask,
    Ballots,
    Begin,
    Data,
    Decide,
    Message,
    Present,
    Probe,
    Step,
    Stream,
    Verify,
)
from hardpoint.sync.transaction.mode import Mode

MAGIC = b"HPTX"
VERSION = 1
_HEADER = struct.Struct("<4sHBxIQI")
_KINDS: tuple[type[Message], ...] = (Begin, Data, Alive, Verify, Decide, Ballots, Probe, Present, Ask, Stream)


@dataclass(frozen=True)
class WireLimits:
    """What a reader accepts: bytes of a body and of a bucket, entries of a list, characters of a text."""

    body: int = 16 << 20
    payload: int = 8 << 30
    entries: int = 1 << 17
    text: int = 1 << 15


LIMITS = WireLimits()


def encode(message: Message) -> bytes:
    """The message as bytes. Texts lose what cannot be printed: they end in other people's logs."""
    fields = _FIELDS[type(message)]
    body = {name: codec.write(getattr(message, name)) for name, codec in fields.items()}
    text = json.dumps(body, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
    payload = b""
    if isinstance(message, Data):
        payload = byte_view(message.payload.detach().cpu()).numpy().tobytes()
    kind = _KINDS.index(type(message))
    head = _HEADER.pack(MAGIC, VERSION, kind, len(text), len(payload), 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(text, zlib.crc32(head))) + text + payload


def decode(data: bytes, limits: WireLimits = LIMITS) -> Message:
    """Read what a peer sent.

    Raises:
        SyncError: anything but one whole, well-formed message within `limits`.
    """
    if len(data) < _HEADER.size:
        raise _refused(f"{len(data)} bytes are no header of {_HEADER.size}")
    magic, version, kind, size, payload_size, crc = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise _refused("it does not start as one of a weight transaction does")
    if version != VERSION:
        raise _refused(f"version {version}, this side speaks {VERSION}; install the same hardpoint on both sides")
    if kind >= len(_KINDS):
        raise _refused(f"kind {kind} is not known")
    if size > limits.body or payload_size > limits.payload:
        raise _refused(
            f"{size} bytes of body and {payload_size} of payload; accepted are {limits.body} and {limits.payload}"
        )
    if len(data) != _HEADER.size + size + payload_size:
        raise _refused(f"{len(data)} bytes came, its header says {_HEADER.size + size + payload_size}")
    text = data[_HEADER.size : _HEADER.size + size]
    if zlib.crc32(text, zlib.crc32(data[: _HEADER.size - 4])) != crc:
        raise _refused("it was damaged on the way (checksum differs)")
    made: Callable[..., Message] = _KINDS[kind]
    fields, kind_name = _FIELDS[_KINDS[kind]], _KINDS[kind].__name__
    body = _object(text)
    if set(body) != set(fields):
        raise _refused(f"{kind_name} has missing or unknown fields: {sorted(set(body) ^ set(fields))!r:.80}")
    values = {name: codec.read(body[name], f"{kind_name}.{name}", limits) for name, codec in fields.items()}
    if made is Data:
        values["payload"] = torch.frombuffer(bytearray(data[_HEADER.size + size :]) or bytearray(1), dtype=torch.uint8)[
            :payload_size
        ]
    elif payload_size:
        raise _refused(f"{kind_name} comes without a payload, found {payload_size} bytes")
    return made(**values)


@dataclass(frozen=True)
class _Codec:
    """How a field is written, and how it is read or refused."""

    write: Callable[[Any], Any]
    read: Callable[[Any, str, WireLimits], Any]


def _text(value: Any, where: str, limits: WireLimits) -> str:
    if not isinstance(value, str) or len(value) > limits.text or not value.isprintable():
        raise _refused(f"{where} must be printable text of at most {limits.text} characters, found {value!a:.80}")
    return value


def _integer(value: Any, where: str, limits: WireLimits) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 63:
        raise _refused(f"{where} must be an integer of 64 bits, found {value!a:.80}")
    return value


def _natural(value: Any, where: str, limits: WireLimits) -> int:
    if _integer(value, where, limits) < 0:
        raise _refused(f"{where} must not be negative, found {value}")
    return int(value)


def _number(value: Any, where: str, limits: WireLimits) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise _refused(f"{where} must be a finite number, found {value!a:.80}")
    return float(value)


def _flag(value: Any, where: str, limits: WireLimits) -> bool:
    if not isinstance(value, bool):
        raise _refused(f"{where} must be true or false, found {value!a:.80}")
    return value


def _vote(value: Any, where: str, limits: WireLimits) -> bool | None:
    return None if value is None else _flag(value, where, limits)


def _member(kind: type[Mode] | type[Step]) -> Callable[[Any, str, WireLimits], Any]:
    def read(value: Any, where: str, limits: WireLimits) -> Any:
        known = [one.value for one in kind]
        if not isinstance(value, str) or value not in known:
            raise _refused(f"{where} must be one of {', '.join(known)}, found {value!a:.80}")
        return kind(value)

    return read


def _digest(value: Any, where: str, limits: WireLimits) -> bytes:
    try:
        found = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        found = b""
    if len(found) != DIGEST_BYTES:
        raise _refused(f"{where} must be {DIGEST_BYTES} bytes in hexadecimal, found {value!a:.80}")
    return found


def _objection(value: Any, where: str, limits: WireLimits) -> tuple[int, str]:
    if not isinstance(value, list) or len(value) != 2:
        raise _refused(f"{where} must be a rank and a sentence, found {value!a:.80}")
    return _integer(value[0], where, limits), _text(value[1], where, limits)


def _many(one: Callable[[Any, str, WireLimits], Any]) -> Callable[[Any, str, WireLimits], Any]:
    def read(value: Any, where: str, limits: WireLimits) -> Any:
        if not isinstance(value, list) or len(value) > limits.entries:
            raise _refused(f"{where} must be a list of at most {limits.entries}, found {value!a:.80}")
        return tuple(one(entry, where, limits) for entry in value)

    return read


def _plain(value: Any) -> Any:
    return value


def _printable(text: str) -> str:
    flat = " ".join(text.split())[: LIMITS.text]
    return flat if flat.isprintable() else "".join(c if c.isprintable() else "?" for c in flat)


TEXT = _Codec(_printable, _text)
RANK = _Codec(_plain, _integer)
COUNT = _Codec(_plain, _natural)
STEP = _Codec(lambda step: step.value, _member(Step))
POSITIONS = _Codec(list, _many(_natural))
_FIELDS: dict[type[Message], dict[str, _Codec]] = {
    Begin: {
        "session": TEXT,
        "coordinator": RANK,
        "epoch": COUNT,
        "plan": TEXT,
        "mode": _Codec(lambda mode: mode.value, _member(Mode)),
        "deadline": _Codec(_plain, _number),
    },
    Data: {"session": TEXT, "epoch": COUNT, "bucket": COUNT},
    Alive: {"session": TEXT},
    Verify: {
        "session": TEXT,
        "coordinator": RANK,
        "digests": _Codec(lambda digests: [digest.hex() for digest in digests], _many(_digest)),
    },
    Decide: {
        "session": TEXT,
        "coordinator": RANK,
        "epoch": RANK,
        "commit": _Codec(_plain, _flag),
        "reason": TEXT,
    },
    Ballots: {
        "session": TEXT,
        "coordinator": RANK,
        "step": STEP,
        "whole": POSITIONS,
        "yes": POSITIONS,
        "no": _Codec(lambda no: [[rank, _printable(why)] for rank, why in no], _many(_objection)),
    },
    Probe: {"session": TEXT, "coordinator": RANK, "step": STEP},
    Present: {"session": TEXT, "step": STEP, "rank": RANK, "vote": _Codec(_plain, _vote), "reason": TEXT},
    Ask: {"session": TEXT, "rank": RANK},
    Stream: {"session": TEXT, "coordinator": RANK, "lane": TEXT},
}


def _object(text: bytes) -> dict[str, Any]:
    try:
        return json_object(text)
    except ValueError as error:
        raise _refused(f"its body is {error}") from None


def _refused(what: str) -> SyncError:
    return SyncError(f"Message refused: {what}.")
