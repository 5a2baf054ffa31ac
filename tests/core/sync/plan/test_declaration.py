"""Declarations and offers as bytes: each survives the way, and nothing else is taken for one."""

from __future__ import annotations

import json

import pytest

from hardpoint.errors import SyncError
from hardpoint.sync.plan import Offer, make_plan
from hardpoint.sync.plan.declaration import (
    Declaration,
    DeclarationLimits,
    decode_declaration,
    decode_offer,
    encode_declaration,
    encode_offer,
)
from hardpoint.sync.plan.model import Receiver
from support.transaction_cluster import LAYOUTS, WORLDS, model, tensors


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_plan_from_declarations_is_the_plan(layout: str) -> None:
    for _, ranks in WORLDS.values():
        receivers = model(layout).receivers(ranks)
        told = {
            rank: encode_declaration(Declaration(of.destinations)) for rank, of in zip(ranks, receivers, strict=True)
        }
        heard = {data: decode_declaration(data).destinations for data in told.values()}
        again = [Receiver(rank, heard[told[rank]]) for rank in ranks]
        offer = Offer.of(tensors(0))
        assert decode_offer(encode_offer(offer)) == offer
        wanted = make_plan(offer, receivers)
        assert make_plan(decode_offer(encode_offer(offer)), again).digest == wanted.digest


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda body: body.update(version=2), "version 2"),
        (lambda body: body.update(more=1), "expected an object"),
        (lambda body: body.update(destinations={}), "expected a list"),
        (lambda body: body.update(ignored=[1]), "printable"),
        (lambda body: body["destinations"][0].pop(), "expected 7 fields"),
        (lambda body: body["destinations"][0].__setitem__(0, "a\nb"), "printable"),
        (lambda body: body["destinations"][0].__setitem__(1, "object"), "dtype 'object'"),
        (lambda body: body["destinations"][0].__setitem__(2, [-1]), "not negative"),
        (lambda body: body["destinations"][0].__setitem__(2, [True]), "not negative"),
        (lambda body: body["destinations"][0].__setitem__(2, [1] * 17), "at most 16"),
        (lambda body: body["destinations"][0][5][0].__setitem__(3, 1 << 63), "not negative"),
        (lambda body: body["destinations"][0][5][0].__setitem__(0, ["x" * 600]), "printable"),
    ],
)
def test_what_is_not_a_declaration_is_refused(spoil: object, said: str) -> None:
    (receiver,) = model("vllm").receivers({1: WORLDS["one rank"][1][1]})
    body = json.loads(encode_declaration(Declaration(receiver.destinations)))
    spoil(body)  # type: ignore[operator]
    with pytest.raises(SyncError, match=said):
        decode_declaration(json.dumps(body).encode())


def test_bytes_and_entries_are_bounded() -> None:
    (receiver,) = model("vllm").receivers({1: WORLDS["one rank"][1][1]})
    data = encode_declaration(Declaration(receiver.destinations))
    with pytest.raises(SyncError, match="at most 10"):
        decode_declaration(data, DeclarationLimits(nbytes=10))
    with pytest.raises(SyncError, match="at most 2 entries"):
        decode_declaration(data, DeclarationLimits(entries=2))
    with pytest.raises(SyncError, match="not JSON"):
        decode_declaration(b"[" * 100_000)
    with pytest.raises(SyncError, match="not JSON"):
        decode_offer(b"\xff")
