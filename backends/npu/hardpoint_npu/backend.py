"""`build`: the NPU backend, put together from its parts over a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hardpoint import Backend, BackendInfo, Capabilities
from hardpoint.attention import ZeroedAttentionBuffers
from hardpoint.communicator import Communicator, Rendezvous
from hardpoint.communicator.guarded import Guarded
from hardpoint.device import Device, RuntimeDevice
from hardpoint.errors import BackendUnavailable
from hardpoint.lifecycle.virtual_memory import VirtualMemoryMap
from hardpoint_npu import hardpoint_info
from hardpoint_npu.dp_rule import DP_RULE
from hardpoint_npu.facts import NZ_DTYPES, VARIABLE, capabilities
from hardpoint_npu.graphs import NpuGraphs, StreamBudget
from hardpoint_npu.grid import GridLimited
from hardpoint_npu.moe import NpuMoELayout
from hardpoint_npu.runtime import NpuRuntime

NZ_PROFILE = "nz"
SLEEP_PROFILE = "sleep"


def build(options: Mapping[str, Any]) -> Backend:
    """The backend of this process. Imports torch_npu; creates no device context.

    `options`: ``profile``, which is nothing, ``nz`` (``HARDPOINT_BACKEND=npu:nz``: expert weights in NZ) or ``sleep``.
    ValueError for anything else.
    """
    unknown = sorted(set(options) - {"profile"})
    profile = str(options.get("profile") or "")
    if unknown or profile not in ("", NZ_PROFILE, SLEEP_PROFILE):
        raise ValueError(
            f"the backend 'npu' knows the profiles {NZ_PROFILE!r} and {SLEEP_PROFILE!r} and no other option, found "
            f"{dict(options)}"
        )
    from hardpoint_npu.vendor import TorchNpu

    return over(TorchNpu(), hardpoint_info(), nz=profile == NZ_PROFILE, sleep=profile == SLEEP_PROFILE)


def over(runtime: NpuRuntime, info: BackendInfo, *, nz: bool = False, sleep: bool = False) -> Backend:
    """The parts over `runtime`. `nz`: kernels read expert weights in NZ where its dtypes allow.

    `sleep` is asked for by name, since vllm-ascend's own sleep mode holds the same calls in a process that uses it.

    Raises:
        BackendUnavailable: `sleep` where the runtime has nothing that unmaps memory.
    """
    device = RuntimeDevice(
        runtime, VARIABLE, "Install torch_npu for this torch and the Ascend driver, or choose another backend."
    )
    virtual_memory = runtime.virtual_memory() if sleep else None
    if sleep and virtual_memory is None:
        raise BackendUnavailable(
            "the profile 'npu:sleep' needs calls that unmap device memory, which come with vllm-ascend, and that is "
            "not installed; install it, or use 'npu'."
        )
    graphs = NpuGraphs(runtime, device, StreamBudget(runtime.graph_stream_budget()))
    declared = capabilities(graph=runtime.graph_refusal() is None, sleep=sleep)
    parts: dict[str, Any] = {}
    if virtual_memory is not None:
        parts["memory_map"] = VirtualMemoryMap(virtual_memory, runtime.device_type)
    return Backend(
        info=info,
        device=device,
        communicator=NpuCommunicatorFactory(runtime, device, declared),
        capabilities=declared,
        launcher=GridLimited(runtime.launcher(device, graphs.capturing)),
        moe_layout=NpuMoELayout(runtime, NZ_DTYPES if nz else frozenset()),
        attention_buffers=ZeroedAttentionBuffers(),
        dp_rule=DP_RULE,
        graphs=graphs,
        **parts,
    )


@dataclass(frozen=True)
class NpuCommunicatorFactory:
    """Makes the HCCL communicator of one `Rendezvous`, under the tensors' device."""

    runtime: NpuRuntime
    device: Device
    capabilities: Capabilities

    def __call__(self, rendezvous: Rendezvous, /) -> Communicator:
        """DeviceError for a device that does not exist, before anybody is waited for."""
        self.device.torch_device(rendezvous.device_index)
        declared = self.capabilities
        native = self.runtime.native_communicator(rendezvous, declared.communication_dtypes, declared.reduce_ops)
        return Guarded(native, self.device, rendezvous.device_index)
