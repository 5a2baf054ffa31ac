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
from hardpoint_npu import hardpoint_info
from hardpoint_npu.dp_rule import DP_RULE
from hardpoint_npu.facts import NZ_DTYPES, VARIABLE, capabilities
from hardpoint_npu.graphs import NpuGraphs, StreamBudget
from hardpoint_npu.grid import GridLimited
from hardpoint_npu.moe import NpuMoELayout
from hardpoint_npu.runtime import NpuRuntime

NZ_PROFILE = "nz"


def build(options: Mapping[str, Any]) -> Backend:
    """The backend of this process. Imports torch_npu; creates no device context.

    `options`: ``profile``, nothing or ``nz`` (``HARDPOINT_BACKEND=npu:nz``: expert weights in NZ). ValueError for
    anything else.
    """
    unknown = sorted(set(options) - {"profile"})
    profile = str(options.get("profile") or "")
    if unknown or profile not in ("", NZ_PROFILE):
        raise ValueError(
            f"the backend 'npu' knows the profile {NZ_PROFILE!r} and no other option, found {dict(options)}"
        )
    from hardpoint_npu.vendor import TorchNpu

    return over(TorchNpu(), hardpoint_info(), nz=profile == NZ_PROFILE)


def over(runtime: NpuRuntime, info: BackendInfo, *, nz: bool = False) -> Backend:
    """The parts over `runtime`. `nz`: kernels read expert weights in NZ where its dtypes allow."""
    device = RuntimeDevice(
        runtime, VARIABLE, "Install torch_npu for this torch and the Ascend driver, or choose another backend."
    )
    memory_map = runtime.memory_map()
    graphs = NpuGraphs(runtime, device, StreamBudget(runtime.graph_stream_budget()))
    declared = capabilities(graph=runtime.graph_refusal() is None, sleep=memory_map is not None)
    parts: dict[str, Any] = {} if memory_map is None else {"memory_map": memory_map}
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
