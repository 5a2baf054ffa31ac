"""`build`: the XPU backend, put together from its parts over a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardpoint import Backend, BackendInfo
from hardpoint.attention import ZeroedAttentionBuffers
from hardpoint.device import RuntimeDevice
from hardpoint.errors import BackendUnavailable
from hardpoint.graphs import Graphs, NoGraphs, RuntimeGraphs
from hardpoint.lifecycle.virtual_memory import VirtualMemoryMap
from hardpoint_xpu import hardpoint_info
from hardpoint_xpu.communicator import XpuCommunicatorFactory
from hardpoint_xpu.dp_rule import DP_RULE
from hardpoint_xpu.facts import VARIABLE, capabilities
from hardpoint_xpu.moe import XpuMoELayout
from hardpoint_xpu.runtime import TorchXpu, XpuRuntime

SLEEP = "sleep"


def build(options: Mapping[str, Any]) -> Backend:
    """The backend of this process. Creates no device context.

    `options`: ``profile``, nothing or ``sleep`` (``HARDPOINT_BACKEND=xpu:sleep``). ValueError for anything else.
    """
    unknown = sorted(set(options) - {"profile"})
    profile = str(options.get("profile") or "")
    if unknown or profile not in ("", SLEEP):
        raise ValueError(f"the backend 'xpu' knows the profile {SLEEP!r} and no other option, found {dict(options)}")
    return over(TorchXpu(), hardpoint_info(), sleep=profile == SLEEP)


def over(runtime: XpuRuntime, info: BackendInfo, *, sleep: bool = False) -> Backend:
    """The parts over `runtime`.

    Graphs and sleep exclude each other: a replay would write to memory that sleep has taken away, and vLLM switches XPU
    graphs off under sleep for that reason (vllm/platforms/xpu.py). `sleep` decides which of the two there is.

    Raises:
        BackendUnavailable: `sleep` where the runtime has nothing that unmaps memory.
    """
    virtual_memory = runtime.virtual_memory() if sleep else None
    if sleep and virtual_memory is None:
        raise BackendUnavailable(
            "the profile 'xpu:sleep' needs calls that unmap device memory, and none are bound here; use 'xpu', and "
            "vLLM's own sleep mode on XPU."
        )
    graphs: Graphs = RuntimeGraphs(runtime)
    if sleep:
        graphs = NoGraphs("sleep is on, and XPU graphs and sleep exclude each other: work runs eagerly")
    captures = not sleep and runtime.graph_refusal() is None
    declared = capabilities(runtime.library_version(), graph=captures, sleep=sleep)
    device = RuntimeDevice(
        runtime, VARIABLE, "Install the torch build for xpu and Intel's GPU driver, or choose another backend."
    )
    parts: dict[str, Any] = {}
    if virtual_memory is not None:
        parts["memory_map"] = VirtualMemoryMap(virtual_memory, runtime.device_type)
    return Backend(
        info=info,
        device=device,
        communicator=XpuCommunicatorFactory(runtime, device, declared),
        capabilities=declared,
        launcher=runtime.launcher(device, graphs.capturing),
        moe_layout=XpuMoELayout(),
        attention_buffers=ZeroedAttentionBuffers(),
        dp_rule=DP_RULE,
        graphs=graphs,
        **parts,
    )
