"""The few runtime calls on the launch path exist for every vendor's torch module, also where it lacks one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from hardpoint.launcher.triton.host import runtime_calls


def test_a_module_without_exchange_is_driven_by_current_and_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch_npu has no `_exchange_device` (ci/vendor_api tables): launches on npu would end in AttributeError."""
    state = {"now": 2}
    module = SimpleNamespace(
        current_device=lambda: state["now"],
        set_device=lambda index: state.update(now=index),
        is_current_stream_capturing=lambda: False,
    )
    monkeypatch.setattr("torch.get_device_module", lambda _type: module)
    current, exchange, capturing = runtime_calls("npu")
    assert (current(), exchange(1), current(), exchange(0), current()) == (2, 2, 1, 1, 0)
    assert capturing() is False


def test_a_module_with_exchange_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(
        current_device=lambda: 0, _exchange_device=lambda index: index + 10, is_current_stream_capturing=lambda: True
    )
    monkeypatch.setattr("torch.get_device_module", lambda _type: module)
    assert runtime_calls("npu")[1](3) == 13
