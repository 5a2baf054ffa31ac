"""Framed messages over a socket to a process that may write anything into it.

`multiprocessing.connection` trusts the length that it reads: a backend that writes into every file descriptor would
make the kit wait for two gigabytes. A frame here is a secret of the run, a length, and a pickle.
"""

from __future__ import annotations

import pickle
import secrets
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!I")
_LIMIT = 64 << 20
SECRET_BYTES = 16


class Garbled(EOFError):
    """The stream carried something that is no message; nothing after it can be believed."""


def new_secret() -> bytes:
    return secrets.token_bytes(SECRET_BYTES)


class Channel:
    """Both ends. `receive` waits; `poll` does not. The kit's end never blocks on what the other end left unfinished."""

    def __init__(self, connection: socket.socket, secret: bytes) -> None:
        self._socket = connection
        self._secret = secret
        self._buffer = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Any) -> None:
        """Send one message. OSError if the other end is gone."""
        body = pickle.dumps(message)
        self._socket.sendall(self._secret + _LENGTH.pack(len(body)) + body)

    def receive(self) -> Any:
        """Wait for the next message. EOFError if the other end is gone."""
        while (message := self._take()) is None:
            self._read(0)
        return message

    def poll(self) -> Any | None:
        """The next message if it is there in full, else None. EOFError if the other end is gone."""
        if (message := self._take()) is not None:
            return message
        try:
            self._read(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        return self._take()

    def close(self) -> None:
        self._socket.close()

    def _read(self, flags: int) -> None:
        try:
            data = self._socket.recv(1 << 16, flags)
        except BlockingIOError:
            raise
        except OSError as error:
            raise EOFError(str(error)) from error
        if not data:
            raise EOFError("the other end closed the channel")
        self._buffer += data

    def _take(self) -> Any | None:
        head = SECRET_BYTES + _LENGTH.size
        if self._secret[: len(self._buffer)] != self._buffer[:SECRET_BYTES]:
            raise Garbled(f"the channel carried something that is no message: {bytes(self._buffer[:32])!r}")
        if len(self._buffer) < head:
            return None
        (length,) = _LENGTH.unpack(self._buffer[SECRET_BYTES:head])
        if length > _LIMIT:
            raise Garbled(f"the channel carried a message of {length} bytes, more than {_LIMIT}")
        if len(self._buffer) < head + length:
            return None
        body = bytes(self._buffer[head : head + length])
        del self._buffer[: head + length]
        try:
            return pickle.loads(body)
        except Exception as error:
            raise Garbled(f"the channel carried a message that cannot be read: {error}") from error
