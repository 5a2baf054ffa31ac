"""Garbage, oversized, cut, forged and replayed messages against a serving rank: refused by name, weights untouched.

The decoder and the state machine are the real ones; what an attacker sends is bytes.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable
from functools import lru_cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardpoint.errors import SyncError
from hardpoint.sync import LIMITS, Manifest, TensorSpec
from hardpoint.sync.frame import HEADER_BYTES, Header, Kind, check_header
from hardpoint.sync.transaction import Message, Phase, wire
from support.transaction_cluster import Cluster, contents

_FUZZ = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
_WORLD, _LAYOUT = "tp2", "transposed, padded"


class Recorder:
    """Every message of an update as the bytes that went over the wire, with where it went."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []

    def __call__(self, source: int, to: int, message: Message) -> Iterable[tuple[float, Message]]:
        data = wire.encode(message)
        self.sent.append((to, data))
        return [(0.0, wire.decode(data))]


@lru_cache(maxsize=1)
def _recorded() -> tuple[tuple[int, bytes], ...]:
    """All messages of the genuine update to epoch 1."""
    cluster, recorder = Cluster(_WORLD, _LAYOUT), Recorder()
    cluster.net.fate = recorder
    cluster.update(1, version=1)
    cluster.check_new_everywhere(1)
    return tuple(recorder.sent)


def _after_one_update() -> Cluster:
    cluster = Cluster(_WORLD, _LAYOUT)
    cluster.update(1, version=1, session="genuine")
    cluster.check_new_everywhere(1)
    return cluster


def _attack(cluster: Cluster, rank: int, data: bytes) -> str:
    """Give one message to a rank as a transport would; what it said, if it refused it."""
    try:
        message = wire.decode(data)
        sent = cluster.ranks[rank].receive(message, cluster.net.now)
    except SyncError as refusal:
        return str(refusal)
    cluster.net.post(rank, sent)
    return ""


def _untouched(cluster: Cluster) -> None:
    """All ranks serve epoch 1, and the next genuine update is everywhere."""
    cluster.settle()
    for rank, participant in cluster.ranks.items():
        assert (participant.phase, participant.epoch) == (Phase.SERVING, 1), participant.reason
        assert cluster.hooks[rank].epochs == [1]
    cluster.check(1)
    cluster.update(2, version=2, session="genuine again")
    cluster.check_new_everywhere(2)


@_FUZZ
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=20), st.sampled_from([1, 2]))
def test_garbage(messages: list[bytes], rank: int) -> None:
    cluster = Cluster(_WORLD, _LAYOUT)
    before = contents(cluster.storages[rank])
    for data in messages:
        assert _attack(cluster, rank, data).startswith("Message refused: ")
    assert contents(cluster.storages[rank]) == before
    assert cluster.ranks[rank].phase is Phase.SERVING


@_FUZZ
@given(st.data())
def test_cut_and_damaged_copies_of_genuine_messages(data: st.DataObject) -> None:
    cluster = Cluster(_WORLD, _LAYOUT)
    for _ in range(5):
        to, genuine = data.draw(st.sampled_from([one for one in _recorded() if one[0] in cluster.ranks]))
        damaged = bytearray(genuine)
        if data.draw(st.booleans()):
            damaged = damaged[: data.draw(st.integers(0, len(genuine) - 1))]
        else:
            bit = data.draw(st.integers(0, 8 * min(len(damaged), 2000) - 1))
            if len(genuine) > wire._HEADER.size and bit // 8 >= wire._HEADER.size + _body_bytes(genuine):
                continue  # in a bucket: digests find it, see test_faults
            damaged[bit // 8] ^= 1 << bit % 8
        assert _attack(cluster, to, bytes(damaged)).startswith("Message refused: ")
    cluster.check()
    assert {participant.epoch for participant in cluster.ranks.values()} == {0}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_replays_of_a_whole_update_in_any_order_change_nothing(data: st.DataObject) -> None:
    cluster = Cluster(_WORLD, _LAYOUT)
    recorder = Recorder()
    cluster.net.fate = recorder
    cluster.update(1, version=1)
    cluster.check_new_everywhere(1)
    cluster.net.fate = None
    replayed = [one for one in recorder.sent if one[0] in cluster.ranks]
    order = data.draw(st.permutations(range(len(replayed))))
    for n in order[: data.draw(st.integers(1, len(replayed)))]:
        _attack(cluster, *replayed[n])
    _untouched(cluster)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_forged_messages_with_right_checksums_change_nothing(data: st.DataObject) -> None:
    """Fields of genuine messages, mixed: an attacker who has seen old ones and does not know the next session."""
    cluster = _after_one_update()
    for _ in range(data.draw(st.integers(1, 8))):
        to, genuine = data.draw(st.sampled_from([one for one in _recorded() if one[0] in cluster.ranks]))
        body = json.loads(genuine[wire._HEADER.size : wire._HEADER.size + _body_bytes(genuine)])
        payload = genuine[wire._HEADER.size + _body_bytes(genuine) :]
        if "session" in body:
            body["session"] = data.draw(st.sampled_from(["forged", "", body["session"]]))
        if "epoch" in body and not data.draw(st.booleans()):
            body["epoch"] = data.draw(st.sampled_from([0, 1, 1 << 40]))
        if "plan" in body:
            body["plan"] = data.draw(st.sampled_from(["", "0" * 64]))
        if "commit" in body:
            body["commit"] = data.draw(st.booleans())
        _attack(cluster, to, _framed(genuine[6], json.dumps(body).encode(), payload))
    # A forged Begin of a high epoch is refused for its plan, so that it cannot make genuine epochs look old.
    _untouched(cluster)


@pytest.mark.parametrize(
    ("body", "payload"), [(1 << 31, 0), (2, 1 << 60), (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF), (wire.LIMITS.body + 1, 0)]
)
def test_announced_sizes_are_refused_before_anything_is_allocated(body: int, payload: int) -> None:
    head = struct.pack("<4sHBxIQ", wire.MAGIC, wire.VERSION, 0, body, payload)
    with pytest.raises(SyncError, match="bytes of body and"):
        wire.decode(head + struct.pack("<I", zlib.crc32(head)) + b"{}")


# Today's sessions: a 64-byte header in front of each message, and a manifest.


@_FUZZ
@given(st.binary(max_size=200))
def test_garbage_is_no_header_and_no_manifest(data: bytes) -> None:
    with pytest.raises(SyncError, match="Message refused"):
        Header.from_bytes(data)
    with pytest.raises(SyncError, match="Manifest refused"):
        Manifest.from_bytes(data)


headers = st.builds(
    Header,
    st.sampled_from(list(Kind)),
    st.integers(0, (1 << 32) - 1),
    st.binary(min_size=16, max_size=16),
    st.integers(0, (1 << 63) - 1),
    st.integers(0, (1 << 63) - 1),
)


@_FUZZ
@given(headers, headers, st.integers(0, 8 * HEADER_BYTES - 1))
def test_headers_of_other_sessions_epochs_and_places_are_refused(expected: Header, found: Header, bit: int) -> None:
    data = bytearray(found.to_bytes())
    assert Header.from_bytes(bytes(data)) == found
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SyncError, match="Message refused"):
        Header.from_bytes(bytes(data))
    same_update = (found.session, found.epoch) == (expected.session, expected.epoch)
    if found != expected and not (found.kind is Kind.ABORT and same_update):
        with pytest.raises(SyncError, match="Message refused"):
            check_header(found, expected)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@_FUZZ
@given(st.data())
def test_a_manifest_with_any_field_changed_is_refused_or_is_a_manifest(data: st.DataObject) -> None:
    good = Manifest(3, (TensorSpec("a.weight", (4, 2), "bfloat16"), TensorSpec("b", (), "int8")), 4096)
    body = json.loads(good.to_bytes())
    place = data.draw(
        st.sampled_from(["epoch", "bucket_bytes", "version", "format", "tensors", "name", "shape", "dtype"])
    )
    value = data.draw(json_values)
    if place in ("name", "shape", "dtype"):
        body["tensors"][0][("name", "shape", "dtype").index(place)] = value
    else:
        body[place] = value
    try:
        found = Manifest.from_bytes(json.dumps(body).encode())
    except SyncError as refusal:
        assert str(refusal).startswith("Manifest refused") and str(refusal).isprintable() and len(str(refusal)) < 600
    else:
        assert Manifest.from_bytes(found.to_bytes()) == found
        assert found.total_bytes <= LIMITS.total_bytes


def _body_bytes(message: bytes) -> int:
    size: int = wire._HEADER.unpack_from(message)[3]
    return size


def _framed(kind: int, body: bytes, payload: bytes) -> bytes:
    head = struct.pack("<4sHBxIQ", wire.MAGIC, wire.VERSION, kind, len(body), len(payload))
    return head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body + payload
