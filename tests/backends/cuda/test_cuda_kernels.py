"""What the cuda backend offers for GDN ops, without a GPU: the capability is what a test says it is."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from hardpoint.launcher import KernelOffer, Refusal
from hardpoint_cuda import kernels

OPS = ("gdn_decode", "gdn_decode_norm", "gdn_prefill_prepare", "gdn_chunk_rule", "gdn_prefill")
pytest.importorskip("triton", reason="needs Triton, which is installed on Linux only")


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))


@pytest.mark.usefixtures("hopper")
def test_every_op_has_an_offer_that_can_be_made() -> None:
    for op in OPS:
        found = kernels.offers(op)
        assert found is not None
        offer = found[0]
        assert isinstance(offer, KernelOffer) and (offer.op, offer.provider) == (op, "hardpoint")
        assert isinstance(offer.function, type), "a class whose objects run the op"
    assert kernels.offers("moe") is None, "none of its business"


@pytest.mark.usefixtures("hopper")
def test_flashinfer_is_refused_where_it_is_not_installed() -> None:
    if importlib.util.find_spec("flashinfer") is not None:
        pytest.skip("flashinfer is installed here: see test_flashinfer_gdn.py")
    for op in ("gdn_chunk_rule", "gdn_decode"):
        found = kernels.offers(op) or []
        assert found[1:] == [Refusal(op, "flashinfer", "flashinfer is not installed")]


def test_an_old_gpu_is_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    found = kernels.offers("gdn_decode_norm")
    assert found == [Refusal("gdn_decode_norm", "hardpoint", "requires compute capability 8.0 or newer, got 7.5")]
