"""Messages as bytes: each survives the way, and nothing else than a message is taken for one."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.errors import SyncError
from hardpoint.sync.transaction import Message, Mode, Step, wire
from hardpoint.sync.transaction.messages import (
    Alive,
    Ask,
    Ballots,
    Begin,
    Data,
    Decide,
    Present,
    Probe,
    Stream,
    Verify,
)
from support.transaction_cluster import WORLDS, Cluster

text = st.text(st.characters(exclude_categories=("C", "Z")), max_size=12)
ranks, counts = st.integers(-5, 1 << 40), st.integers(0, 1 << 40)
steps = st.sampled_from(list(Step))
MESSAGES: dict[type[Message], st.SearchStrategy[Message]] = {
    Begin: st.builds(Begin, text, ranks, counts, text, st.sampled_from(list(Mode)), st.floats(0.1, 1e6)),
    Alive: st.builds(Alive, text),
    Verify: st.builds(Verify, text, ranks, st.lists(st.binary(min_size=16, max_size=16), max_size=3).map(tuple)),
    Decide: st.builds(Decide, text, ranks, ranks, st.booleans(), text),
    Ballots: st.builds(
        Ballots,
        text,
        ranks,
        steps,
        st.lists(counts, max_size=3).map(tuple),
        st.lists(counts, max_size=3).map(tuple),
        st.lists(st.tuples(ranks, text), max_size=3).map(tuple),
    ),
    Probe: st.builds(Probe, text, ranks, steps),
    Present: st.builds(Present, text, steps, ranks, st.sampled_from([None, True, False]), text),
    Ask: st.builds(Ask, text, ranks),
    Stream: st.builds(Stream, text, ranks, text),
}
messages = st.one_of(*MESSAGES.values())


def framed(kind: int, body: bytes, payload: bytes = b"", *, version: int = wire.VERSION) -> bytes:
    head = struct.pack("<4sHBxIQ", wire.MAGIC, version, kind, len(body), len(payload))
    return head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body + payload


@settings(max_examples=300)
@given(messages)
def test_there_and_back(message: Message) -> None:
    assert wire.decode(wire.encode(message)) == message


@given(text, counts, counts, st.binary(max_size=200))
def test_a_bucket_there_and_back(session: str, epoch: int, bucket: int, payload: bytes) -> None:
    raw = torch.tensor(list(payload), dtype=torch.uint8)
    found = wire.decode(wire.encode(Data(session, epoch, bucket, raw)))
    assert isinstance(found, Data) and (found.session, found.epoch, found.bucket) == (session, epoch, bucket)
    assert torch.equal(found.payload, raw)


def test_every_message_has_a_form_and_every_field_a_check() -> None:
    for kind, checks in wire._FIELDS.items():
        named = {field.name for field in fields(kind)}
        assert set(checks) == named - {"payload"}
    assert set(wire._FIELDS) == set(MESSAGES) | {Data}


@settings(max_examples=300)
@given(st.binary(max_size=120))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(SyncError, match="Message refused"):
        wire.decode(data)


@settings(max_examples=300)
@given(messages, st.data())
def test_one_changed_bit_or_a_cut_is_refused(message: Message, data: st.DataObject) -> None:
    good = bytearray(wire.encode(message))
    if data.draw(st.booleans()):
        bit = data.draw(st.integers(0, 8 * len(good) - 1))
        good[bit // 8] ^= 1 << bit % 8
    else:
        good = good[: data.draw(st.integers(0, len(good) - 1))]
    with pytest.raises(SyncError, match="Message refused"):
        wire.decode(bytes(good))


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=400)
@given(messages, st.data())
def test_a_field_of_another_type_is_refused_or_is_a_message(message: Message, data: st.DataObject) -> None:
    """With a right checksum, as a forger would send it: each field is checked, and nothing but SyncError comes out."""
    kind = wire._KINDS.index(type(message))
    body = json.loads(wire.encode(message)[24:])
    name = data.draw(st.sampled_from(sorted(body)))
    body[name] = data.draw(json_values)
    try:
        found = wire.decode(framed(kind, json.dumps(body).encode()))
    except SyncError as error:
        assert str(error).startswith("Message refused") and str(error).isprintable() and len(str(error)) < 400
    else:
        assert wire.decode(wire.encode(found)) == found


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (framed(8, b'{"session":"s","rank":1}', version=9), "version 9, this side speaks 1"),
        (framed(200, b"{}"), "kind 200"),
        (framed(8, b'{"session":"s"}'), "missing or unknown fields: ['rank']"),
        (framed(8, b'{"session":"s","rank":1,"more":2}'), "missing or unknown fields: ['more']"),
        (framed(8, b'{"session":"s","session":"t","rank":1}'), "not JSON"),
        (framed(8, b"[" * 100000), "not JSON"),
        (framed(8, b'{"session":"s","rank":1}', b"xx"), "without a payload"),
        (framed(8, b'{"session":"\\u001b[31m","rank":1}'), "printable text"),
        (framed(8, b'{"session":"s","rank":true}'), "integer of 64 bits"),
        (framed(8, b'{"session":"s","rank":' + b"9" * 30 + b"}"), "integer of 64 bits"),
        (struct.pack("<4sHBxIQI", wire.MAGIC, 1, 8, 1 << 31, 0, 0), "accepted are"),
        (struct.pack("<4sHBxIQI", wire.MAGIC, 1, 1, 2, 1 << 50, 0), "accepted are"),
    ],
)
def test_what_is_said(data: bytes, said: str) -> None:
    with pytest.raises(SyncError) as caught:
        wire.decode(data)
    assert said in str(caught.value)


@pytest.mark.parametrize("world", WORLDS)
def test_an_update_whose_messages_all_go_as_bytes(world: str) -> None:
    """Aborts, with their sentences, and commits."""
    cluster = Cluster(world, "transposed, padded")

    def as_bytes(source: int, to: int, message: Message) -> Iterable[tuple[float, Message]]:
        return [(0.0, wire.decode(wire.encode(message)))]

    cluster.net.fate = as_bytes
    last = max(cluster.ranks)

    def refuse(operation: str, number: int) -> None:
        if operation == "inspect":
            raise SyncError("a NaN in\nl.q.weight")

    cluster.faults[last].at = refuse
    cluster.update(1, 1)
    assert cluster.trainer.outcome is not None
    assert f"rank {last}: a NaN in l.q.weight" in cluster.trainer.outcome.reason
    cluster.faults[last].at = lambda operation, number: None
    cluster.update(2, 2, mode=Mode.UNDO)
    cluster.check_new_everywhere(2)
