"""The 64-byte header in front of every message of a session: who sent it, which update, which message, how long.

NCCL and gloo ports authenticate nobody and know no message types, so each message says what it is; a receiver takes
only the one it expects from the session that it agreed to.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

from hardpoint.errors import SyncError

HEADER_BYTES = 64
MAGIC = b"HPSYNC\r\n"  # the line end shows text-mode mangling
PROTOCOL = 1
_LAYOUT = struct.Struct(
    "<8sHHI16sQQ12xI"
)  # magic, protocol, kind, index, session, epoch, payload bytes, crc of the rest


class Kind(IntEnum):
    """What a message holds."""

    MANIFEST = 1
    BUCKET = 2
    DIGESTS = 3
    ABORT = 4


@dataclass(frozen=True)
class Header:
    """`session`: 16 random bytes of the sender; `index` counts messages of a kind; `payload_bytes` follow it."""

    kind: Kind
    index: int
    session: bytes
    epoch: int
    payload_bytes: int

    def to_bytes(self) -> bytes:
        body = _LAYOUT.pack(MAGIC, PROTOCOL, self.kind, self.index, self.session, self.epoch, self.payload_bytes, 0)[
            :-4
        ]
        return body + struct.pack("<I", zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes) -> Header:
        """Read a header. SyncError with what is wrong for anything else."""
        if len(data) != HEADER_BYTES:
            raise SyncError(f"Message refused: its header has {len(data)} bytes, expected {HEADER_BYTES}.")
        magic, protocol, kind, index, session, epoch, payload_bytes, crc = _LAYOUT.unpack(data)
        if magic != MAGIC:
            raise SyncError("Message refused: it does not start as a message of hardpoint's weight sync does.")
        if protocol != PROTOCOL:
            raise SyncError(
                f"Message refused: protocol {protocol}, this side speaks {PROTOCOL}. "
                "Install the same hardpoint version on the trainer and on the engine."
            )
        if crc != zlib.crc32(data[:-4]):
            raise SyncError("Message refused: its header was damaged on the way (checksum differs).")
        if kind not in Kind._value2member_map_:
            raise SyncError(f"Message refused: kind {kind} is not known.")
        return cls(Kind(kind), index, session, epoch, payload_bytes)


def check_header(found: Header, expected: Header) -> None:
    """SyncError unless `found` is the message expected next; an abort of the same session passes for any message."""
    if found.session != expected.session:
        raise SyncError("Message refused: it belongs to another session than the one that was agreed to.")
    if found.epoch != expected.epoch:
        raise SyncError(f"Message refused: it is of epoch {found.epoch}, this update is epoch {expected.epoch}.")
    if found.kind is Kind.ABORT:
        return
    if (found.kind, found.index, found.payload_bytes) != (expected.kind, expected.index, expected.payload_bytes):
        raise SyncError(
            f"Message refused: expected {expected.kind.name} {expected.index} of {expected.payload_bytes} bytes, "
            f"found {found.kind.name} {found.index} of {found.payload_bytes} bytes."
        )
