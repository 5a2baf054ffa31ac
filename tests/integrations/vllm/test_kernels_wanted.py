"""``HARDPOINT_KERNELS``: what it may hold, and whose kernel it gives. The layer itself: support.kernel_cases.layer."""

from __future__ import annotations

import pytest
import torch

from hardpoint.environment import BadVariable
from hardpoint.launcher import KernelOffer, Refusal
from hardpoint_vllm.kernels import choice
from hardpoint_vllm.kernels.wanted import wanted

H100 = "NVIDIA H100 80GB HBM3"
HEADS = (("H", 16), ("HV", 32))


@pytest.mark.parametrize(
    ("text", "decode", "prefill"),
    [("", "off", "off"), ("off", "off", "off"), ("auto", "auto", "auto"), ("ALL", "on", "on"), ("decode", "on", "off"),
     ("prefill, decode", "on", "on")],
)  # fmt: skip
def test_values(text: str, decode: str, prefill: str) -> None:
    assert wanted({"HARDPOINT_KERNELS": text}) == {"decode": decode, "prefill": prefill}


def test_another_value_is_an_error() -> None:
    with pytest.raises(BadVariable, match="a list out of decode, prefill; found 'moe'"):
        wanted({"HARDPOINT_KERNELS": "moe"})


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    choice._choose.cache_clear()
    monkeypatch.setattr(choice, "answers", lambda op: [KernelOffer(op, "hardpoint", dict)])
    monkeypatch.setattr(choice, "_name", lambda device: H100)


@pytest.mark.usefixtures("offered")
def test_auto_takes_ours_only_where_it_was_measured_quicker() -> None:
    here = torch.device("cpu")
    assert choice.choose("gdn_decode", (*HEADS, ("requests", 1)), "auto", here) is dict
    assert choice.choose("gdn_decode", (*HEADS, ("requests", 250)), "auto", here) is None
    assert choice.choose("gdn_decode", (*HEADS, ("requests", 250)), "on", here) is dict
    assert choice.choose("gdn_decode", (*HEADS, ("requests", 1)), "off", here) is None
    assert choice.choose("gdn_decode", (("H", 3), ("HV", 6), ("requests", 1)), "auto", here) is None, "not measured"
    many = (*HEADS, ("sequences", 4), ("tokens", 32768))
    assert choice.choose("gdn_prefill", many, "auto", here) is dict
    assert choice.choose("gdn_chunk_rule", many, "auto", here, peer="flashinfer") is None
    short = (*HEADS, ("sequences", 8), ("tokens", 8192))
    assert choice.choose("gdn_chunk_rule", short, "auto", here, peer="flashinfer") is dict


def test_without_an_offer_auto_is_quiet_and_a_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    choice._choose.cache_clear()
    monkeypatch.setattr(choice, "answers", lambda op: [Refusal(op, "hardpoint", "requires Triton")])
    shape, here = (*HEADS, ("requests", 1)), torch.device("cpu")
    assert choice.choose("gdn_decode", shape, "auto", here) is None
    with pytest.raises(RuntimeError, match="asks for hardpoint's gdn_decode, but requires Triton"):
        choice.choose("gdn_decode", shape, "on", here)
