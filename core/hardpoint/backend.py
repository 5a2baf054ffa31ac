"""What a plugin hands over: a small frozen dataclass of parts, and the facts about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from hardpoint.api_version import API_VERSION

if TYPE_CHECKING:
    from hardpoint.attention import AttentionBuffers
    from hardpoint.communicator import CommunicatorFactory
    from hardpoint.device import Device
    from hardpoint.dp import DpRule
    from hardpoint.graphs import Graphs
    from hardpoint.launcher import KernelLauncher
    from hardpoint.lifecycle import LifecycleFactory, MemoryMap
    from hardpoint.moe import MoELayout
    from hardpoint.sync.stream import BoxKernels


@dataclass(frozen=True)
class BackendInfo:
    """Static facts of a plugin; answered without probing anything.

    Attributes:
        name: what ``HARDPOINT_BACKEND`` selects, lower case, for example ``"cuda"``.
        device_type: torch device type, for example ``"cuda"``, ``"xpu"``, ``"npu"``, ``"cpu"``.
        priority: for ``auto``; the highest available wins, a negative one is never chosen by ``auto``.
        summary: one line for people.
        api: plugin API version that the plugin was written for.
        aliases: other names that select this backend, for example ``("ascend",)``.
        extra: extra of the hardpoint distribution that installs what the backend needs, if there is one.
    """

    name: str
    device_type: str
    priority: int
    summary: str
    api: tuple[int, int] = API_VERSION
    aliases: tuple[str, ...] = ()
    extra: str | None = None


@dataclass(frozen=True)
class Probe:
    """Whether a backend can be used on this machine now. Made without creating a device context (vLLM forks).

    Attributes:
        available: True if `hardpoint_backend` may be called.
        reason: a sentence; why not, or what was found.
        device_count: devices that would be visible.
    """

    available: bool
    reason: str
    device_count: int = 0


@dataclass(frozen=True)
class Capabilities:
    """Declared facts. Declared but failing is a conformance failure; not declared is shown as "not claimed".

    Attributes:
        dtypes: torch dtype names that arithmetic works with, for example ``{"float32", "bfloat16"}``.
        communication_dtypes: dtype names that the native collective library carries; others travel as bytes.
        reduce_ops: names out of ``sum, avg, min, max, prod``.
        graph: graphs can be captured and replayed.
        sleep: device memory can be unmapped and mapped again at the same address.
        streams: more than one stream runs side by side; False means that every stream is in order with the host.
        sparse_formats: device-private storage formats, for example ``{"NZ"}``.
        ranks_share_device: ranks of one collective may work on the same device (gloo: yes, NCCL: no).
        extras: further claims by name, with a sentence each; a claim without a law of its own fails conformance.
    """

    dtypes: frozenset[str]
    communication_dtypes: frozenset[str]
    reduce_ops: frozenset[str] = frozenset({"sum"})
    graph: bool = False
    sleep: bool = False
    streams: bool = False
    sparse_formats: frozenset[str] = frozenset()
    ranks_share_device: bool = False
    extras: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def _default_launcher() -> KernelLauncher:
    from hardpoint.launcher import PythonLauncher

    return PythonLauncher()


def _default_moe_layout() -> MoELayout:
    from hardpoint.moe import ReferenceMoELayout

    return ReferenceMoELayout()


def _default_attention() -> AttentionBuffers:
    from hardpoint.attention import ReferenceAttentionBuffers

    return ReferenceAttentionBuffers()


def _default_dp_rule() -> DpRule:
    from hardpoint.dp import DpRule

    return DpRule()


def _default_graphs() -> Graphs:
    from hardpoint.graphs import NoGraphs

    return NoGraphs()


def _default_memory_map() -> MemoryMap:
    from hardpoint.lifecycle import HostMemoryMap

    return HostMemoryMap()


def _default_lifecycle() -> LifecycleFactory:
    from hardpoint.lifecycle import Lifecycle

    return Lifecycle


def _default_box_kernels() -> BoxKernels:
    from hardpoint.sync.stream import TorchBoxes

    return TorchBoxes()


@dataclass(frozen=True)
class Backend:
    """A backend, composed of parts. Defaults live in core; a vendor overrides what differs.

    Only `info`, `device`, `communicator` and `capabilities` have no default: nobody can guess them.
    """

    info: BackendInfo
    device: Device
    communicator: CommunicatorFactory
    capabilities: Capabilities
    launcher: KernelLauncher = field(default_factory=_default_launcher)
    moe_layout: MoELayout = field(default_factory=_default_moe_layout)
    attention_buffers: AttentionBuffers = field(default_factory=_default_attention)
    dp_rule: DpRule = field(default_factory=_default_dp_rule)
    graphs: Graphs = field(default_factory=_default_graphs)
    memory_map: MemoryMap = field(default_factory=_default_memory_map)
    lifecycle: LifecycleFactory = field(default_factory=_default_lifecycle)
    box_kernels: BoxKernels = field(default_factory=_default_box_kernels)
