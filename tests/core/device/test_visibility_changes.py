"""A variable that changes after its driver has read it is told, not believed."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from hardpoint.device import RuntimeDevice, TorchDevice
from hardpoint.device.changes import Change, VisibilityWatch, changed_since_start
from hardpoint.errors import DeviceError


def test_a_change_after_the_first_look_is_refused_with_both_values_and_rays_switch() -> None:
    watch = VisibilityWatch("ASCEND_RT_VISIBLE_DEVICES")
    watch.look({"ASCEND_RT_VISIBLE_DEVICES": "0,1"})
    watch.look({"ASCEND_RT_VISIBLE_DEVICES": "0,1", "OTHER": "x"})
    with pytest.raises(DeviceError, match=r"was '0,1' when .* is unset now.*NOSET_ASCEND_RT_VISIBLE_DEVICES=1"):
        watch.look({})


def test_both_variables_of_intel_devices_are_watched() -> None:
    watch = VisibilityWatch("ZE_AFFINITY_MASK")
    watch.look({})
    with pytest.raises(DeviceError, match=r"ONEAPI_DEVICE_SELECTOR was unset .* 'level_zero:0' now.*NOSET_ONEAPI"):
        watch.look({"ONEAPI_DEVICE_SELECTOR": "level_zero:0"})


def test_a_forked_child_looks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = VisibilityWatch("CUDA_VISIBLE_DEVICES")
    watch.look({"CUDA_VISIBLE_DEVICES": "0"})
    parent = os.getpid()
    monkeypatch.setattr("os.getpid", lambda: parent + 1)
    watch.look({"CUDA_VISIBLE_DEVICES": "1"})


def test_a_backend_without_a_variable_watches_nothing() -> None:
    watch = VisibilityWatch(None)
    watch.look({})
    watch.look({"CUDA_VISIBLE_DEVICES": "1"})


def test_torch_device_refuses_names_after_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(
        device_count=lambda: 2, current_device=lambda: 0, get_device_properties=lambda _i: SimpleNamespace(uuid="u")
    )
    monkeypatch.setattr("torch.xpu.device_count", lambda: 2)
    monkeypatch.setattr("torch.get_device_module", lambda _type: module)
    monkeypatch.setenv("ZE_AFFINITY_MASK", "3,1")
    device = TorchDevice("xpu", "ZE_AFFINITY_MASK")
    assert [device.identity(i).physical for i in (0, 1)] == ["1", "3"]
    monkeypatch.setenv("ZE_AFFINITY_MASK", "3")
    with pytest.raises(DeviceError, match=r"ZE_AFFINITY_MASK was '3,1' .* is '3' now"):
        device.identity(0)


def test_a_runtime_device_refuses_names_after_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime: Any = SimpleNamespace(device_type="npu", device_count=lambda: 2, uuid=lambda _index: None)
    device = RuntimeDevice(runtime, "ASCEND_RT_VISIBLE_DEVICES", "Install it.")
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "4,6")
    assert [device.identity(i).physical for i in (0, 1)] == ["4", "6"]
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "6")
    with pytest.raises(DeviceError, match=r"ASCEND_RT_VISIBLE_DEVICES was '4,6' .* is '6' now"):
        device.identity(0)


def test_changes_since_the_process_began_are_listed() -> None:
    start = {"CUDA_VISIBLE_DEVICES": "0,1", "HOME": "/x"}
    assert changed_since_start({"CUDA_VISIBLE_DEVICES": "1", "HOME": "/y"}, start) == (
        Change("CUDA_VISIBLE_DEVICES", "0,1", "1"),
    )
    assert changed_since_start(start, start) == ()
    text = str(Change("ZE_AFFINITY_MASK", None, "0"))
    assert text == "ZE_AFFINITY_MASK was unset at the start of this process and is '0' now"


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="this system does not show a process's start")  # noqa: PTH110
def test_a_process_sees_what_it_was_started_with() -> None:
    code = (
        "import os; from hardpoint.device.changes import changed_since_start as c; assert c() == (); "
        "os.environ['ZE_AFFINITY_MASK'] = '1'; print(*c())"
    )
    environment = {**os.environ, "ZE_AFFINITY_MASK": "0,1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "ZE_AFFINITY_MASK was '0,1' at the start of this process and is '1' now"
