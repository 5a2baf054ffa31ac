"""The channel to a worker: messages arrive whole, and nothing that a backend writes into it can stall the kit."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from hardpoint.conformance.channel import Channel, Garbled, new_secret

SECRET = new_secret()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Channel]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, Channel(right, SECRET)


def test_messages_arrive_in_order_and_large_ones_whole(ends: tuple[socket.socket, Channel]) -> None:
    left, channel = ends
    sender = Channel(left, SECRET)
    assert channel.poll() is None
    sender.send("a")
    sender.send(b"x" * 50_000)  # less than a socket holds, so that it does not wait for the reader
    assert channel.receive() == "a"
    assert channel.receive() == b"x" * 50_000


def test_half_a_message_is_not_one_yet(ends: tuple[socket.socket, Channel]) -> None:
    left, channel = ends
    left.sendall(SECRET[:5])
    assert channel.poll() is None
    left.sendall(SECRET[5:] + struct.pack("!I", 100))
    assert channel.poll() is None


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"\xff", "something that is no message"),
        (b"hello, world, this is a backend", "something that is no message"),
        (SECRET + struct.pack("!I", 2**31), "2147483648 bytes"),
        (SECRET + struct.pack("!I", 3) + b"abc", "cannot be read"),
    ],
    ids=["a byte", "words", "too large", "no message"],  # the secret differs in each process: names must not
)
def test_what_is_no_message_is_told_at_once(ends: tuple[socket.socket, Channel], data: bytes, sentence: str) -> None:
    left, channel = ends
    left.sendall(data)
    with pytest.raises(Garbled, match=sentence):
        for _ in range(3):
            channel.poll()


def test_the_end_of_the_other_side_is_told(ends: tuple[socket.socket, Channel]) -> None:
    left, channel = ends
    left.close()
    with pytest.raises(EOFError, match="closed"):
        channel.poll()
