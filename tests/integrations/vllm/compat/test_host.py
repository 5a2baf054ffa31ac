"""Who has the platform, and what is left to them."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from hardpoint_vllm import platform_plugin
from hardpoint_vllm.compat.host import LEFT, Host, host_of


def platform(module: str, name: str, device_type: str) -> Any:
    return type(name, (), {"__module__": module, "device_type": device_type})()


@pytest.mark.parametrize(
    ("module", "device_type", "owner", "text"),
    [
        ("hardpoint_vllm.platform.cpu", "cpu", "hardpoint", "P (hardpoint's)"),
        ("vllm.platforms.xpu", "xpu", "vllm", "P (vLLM's own)"),
        ("vllm_ascend.platform", "npu", "plugin", "P (of vllm_ascend.platform)"),
    ],
)
def test_the_class_says_whose_the_platform_is(module: str, device_type: str, owner: str, text: str) -> None:
    found = host_of(platform(module, "P", device_type))
    assert (found.owner, found.device_type, str(found)) == (owner, device_type, text)
    assert host_of(None) == Host("nobody")


def test_beside_a_plugin_nothing_is_registered_that_it_registers_itself_and_sync_stays() -> None:
    ascend = Host("plugin", "NPUPlatform", "npu", "vllm-ascend 0.26.0rc1")
    for part in ("triton.gdn", "moe.unquantized", "parallel.padding", "sleep.core"):
        assert ascend.leaves(f"hardpoint_vllm.{part}")
    for part in ("weight_transfer.engine", "weight_transfer.core_hook", "tripwire.hook", "triton.guard", "compat.keep"):
        assert not ascend.leaves(f"hardpoint_vllm.{part}")


def test_on_vllms_own_xpu_platform_its_method_for_experts_stays() -> None:
    assert Host("vllm", "XPUPlatform", "xpu").leaves("hardpoint_vllm.moe.unquantized")
    assert not Host("vllm", "XPUPlatform", "xpu").leaves("hardpoint_vllm.triton.gdn")
    assert not Host("hardpoint", "HardpointXPUPlatform", "xpu").leaves("hardpoint_vllm.moe.unquantized")
    assert not Host("vllm", "CpuPlatform", "cpu").left_out()


def test_what_is_left_out_exists() -> None:
    for modules in LEFT.values():
        for module in modules:
            importlib.import_module(module)


def test_the_platform_of_an_in_tree_xpu_build_is_left_to_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    platforms = pytest.importorskip("vllm.platforms", reason="vLLM is not installed")
    monkeypatch.setenv("HARDPOINT_BACKEND", "xpu")
    found = {"cpu": lambda: None, "xpu": lambda: "vllm.platforms.xpu.XPUPlatform"}
    monkeypatch.setattr(platforms, "builtin_platform_plugins", found)
    if "xpu" not in platform_plugin.PLATFORMS:
        assert platform_plugin.platform() is None
    found["xpu"] = lambda: "somebody.elses.XPUPlatform"
    assert platform_plugin.platform() is None
