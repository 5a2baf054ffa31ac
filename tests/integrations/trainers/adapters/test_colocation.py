"""Who shares a device goes through the host, on both sides; on the CPU nothing is special."""

from __future__ import annotations

import pytest

from hardpoint_trainers.adapters.colocation import colocated
from support.sync_processes import gloo


def test_nothing_is_special_on_the_cpu_or_with_a_communicator_of_the_users() -> None:
    assert colocated("cpu", None) == (None, {})
    assert colocated("cuda:1", gloo) == (gloo, {})


def test_both_sides_go_through_the_host_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDPOINT_BACKEND", "cpu")
    factory, terms = colocated("cuda:1", None)
    assert factory is not None
    assert terms == {"transport": "host"}
