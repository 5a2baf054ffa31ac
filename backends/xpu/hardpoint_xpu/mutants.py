"""XPU backends with one planted fault each, over `sim:xpu`. They test the laws and cases that XPU is held to.

Plant one with ``hardpoint conformance sim:xpu --plant hardpoint_xpu.mutants:NAME --law ID``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from hardpoint import Backend
from hardpoint.attention import BufferKind, ReferenceAttentionBuffers, ZeroedAttentionBuffers
from hardpoint.communicator import Communicator, Rendezvous
from hardpoint.communicator.guarded import Guarded
from hardpoint.communicator.host_staged import HostStaged
from hardpoint.conformance.mutant import Mutant
from hardpoint.device import RuntimeDevice
from hardpoint.dp import DpRule
from hardpoint.lifecycle.virtual_memory import VirtualMemoryMap
from hardpoint.moe import LayoutDescriptor, PackedExperts, ReferenceMoELayout
from hardpoint_xpu.communicator import XpuCommunicatorFactory, matching
from hardpoint_xpu.facts import VARIABLE
from hardpoint_xpu.moe import XpuMoELayout


def _mutant(name: str, law: str, statement: str, mutate: Callable[[Backend], Backend]) -> Mutant:
    return Mutant(f"xpu.{name}", law, law.partition(".")[0], statement, mutate)


def _factory(backend: Backend) -> XpuCommunicatorFactory:
    assert isinstance(backend.communicator, XpuCommunicatorFactory)
    return backend.communicator


def _claiming(backend: Backend, **more: Any) -> Backend:
    """`backend` that claims more, and whose communicator believes it."""
    claimed = replace(backend.capabilities, **more)
    return replace(backend, capabilities=claimed, communicator=replace(_factory(backend), capabilities=claimed))


# expert layout


@dataclass(frozen=True)
class _Untransposed(ReferenceMoELayout):
    """``[E, N, K]``, as CUDA has it."""


not_transposed = _mutant(
    "experts-not-transposed",
    "xpu.expert-weights-are-transposed",
    "Expert weights stay as the model has them; the grouped GEMM reads them the other way round.",
    lambda backend: replace(backend, moe_layout=_Untransposed()),
)


@dataclass(frozen=True)
class _AllTransposed(XpuMoELayout):
    def kernel_layout(self, model: LayoutDescriptor) -> LayoutDescriptor:
        return replace(super().kernel_layout(model), axes="[E,K,N]")


four_bits_transposed = _mutant(
    "four-bit-experts-transposed",
    "xpu.expert-weights-are-transposed",
    "4-bit weights are transposed as well, which the int4 kernel does not expect.",
    lambda backend: replace(backend, moe_layout=_AllTransposed()),
)


@dataclass(frozen=True)
class _TwiceTransposed(XpuMoELayout):
    def pack(self, source: Any, descriptor: LayoutDescriptor, **where: Any) -> PackedExperts:
        if isinstance(source, PackedExperts) and source.descriptor == descriptor:
            turned = source.w13_weight.transpose(1, 2).reshape(source.w13_weight.shape)
            return replace(source, w13_weight=turned)
        return super().pack(source, descriptor, **where)


transposed_twice = _mutant(
    "experts-transposed-twice",
    "xpu.expert-weights-are-transposed",
    "A second post-processing transposes what is transposed already.",
    lambda backend: replace(backend, moe_layout=_TwiceTransposed()),
)


# buffers

buffers_not_zeroed = _mutant(
    "buffers-not-zeroed",
    "xpu.token-buffers-begin-as-zero",
    "New token buffers hold what the memory held.",
    lambda backend: replace(backend, attention_buffers=ReferenceAttentionBuffers()),
)


@dataclass(frozen=True)
class _EmptyZ(ZeroedAttentionBuffers):
    def allocate(
        self, kind: BufferKind, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        if kind == "z":
            return torch.empty(tuple(shape), dtype=dtype, device=device)
        return super().allocate(kind, shape, dtype=dtype, device=device)


z_not_zeroed = _mutant(
    "z-not-zeroed",
    "xpu.token-buffers-begin-as-zero",
    "GDN's z comes from empty_like, as in vLLM 0.32's XPU path.",
    lambda backend: replace(backend, attention_buffers=_EmptyZ()),
)


# collectives

average_declared = _mutant(
    "average-declared",
    "capabilities.reduces-with-avg",
    "ReduceOp.AVG is used on a oneCCL that has none.",
    lambda backend: _claiming(backend, reduce_ops=backend.capabilities.reduce_ops | {"avg"}),
)
int16_sent_as_it_is = _mutant(
    "int16-sent-as-it-is",
    "communicator.broadcast-carries-the-root",
    "int16 goes to XCCL, which does not know it, instead of as bytes.",
    lambda backend: _claiming(backend, communication_dtypes=backend.capabilities.communication_dtypes | {"int16"}),
)
float64_computed = _mutant(
    "float64-computed",
    "capabilities.computes-float64",
    "Arithmetic in float64 is claimed on a card without it.",
    lambda backend: _claiming(backend, dtypes=backend.capabilities.dtypes | {"float64"}),
)
known_bad_ignored = _mutant(
    "known-bad-ignored",
    "xpu.one-card-goes-by-the-host",
    "XCCL is used although each process sees a single card: it hangs.",
    lambda backend: replace(backend, communicator=replace(_factory(backend), known_bad=())),
)


@dataclass(frozen=True)
class _DecidesAlone(XpuCommunicatorFactory):
    def __call__(self, rendezvous: Rendezvous, /) -> Communicator:
        import os

        if rendezvous.world_size == 1 or matching(self.known_bad, os.environ.get(VARIABLE) or "", (), "") is None:
            return self._native(rendezvous)
        return HostStaged(self._host(rendezvous), self.device, rendezvous.device_index)


ranks_decide_alone = _mutant(
    "ranks-decide-alone",
    "xpu.masks-that-differ-go-by-the-host",
    "Each rank chooses the transport by its own mask, so that some wait on XCCL and others on gloo.",
    lambda backend: replace(backend, communicator=_DecidesAlone(**vars(_factory(backend)))),
)


@dataclass(frozen=True)
class _StagesAtOnce(HostStaged):
    def _to_host(self, op: str, **tensors: torch.Tensor) -> list[torch.Tensor]:
        return [tensor.to("cpu", non_blocking=True) for tensor in tensors.values()]


@dataclass(frozen=True)
class _Hasty(XpuCommunicatorFactory):
    def __call__(self, rendezvous: Rendezvous, /) -> Communicator:
        made = super().__call__(rendezvous)
        return _StagesAtOnce(made.host, made.device, made.device_index) if isinstance(made, HostStaged) else made


staged_without_waiting = _mutant(
    "staged-without-waiting",
    "xpu.one-card-goes-by-the-host",
    "The host path sends what the host copy holds before the device has written it.",
    lambda backend: replace(backend, communicator=_Hasty(**vars(_factory(backend)))),
)


@dataclass(frozen=True)
class _Unguarded(XpuCommunicatorFactory):
    def __call__(self, rendezvous: Rendezvous, /) -> Communicator:
        made = super().__call__(rendezvous)
        return made.native if isinstance(made, Guarded) else made


collectives_unguarded = _mutant(
    "collectives-without-device-guard",
    "communicator.broadcast-carries-the-root",
    "A collective runs under whatever device is current, and not under its tensors'.",
    lambda backend: replace(backend, communicator=_Unguarded(**vars(_factory(backend)))),
)


def _with_rule(backend: Backend, **changes: Any) -> Backend:
    rule: DpRule = replace(backend.dp_rule, **changes)
    return replace(backend, dp_rule=rule)


barrier_left_out = _mutant(
    "barrier-left-out",
    "xpu.expert-ranks-meet-first",
    "Ranks enter the collectives of expert parallelism without having met.",
    lambda backend: _with_rule(backend, barrier_before_moe=False),
)
padding_not_forced = _mutant(
    "padding-not-forced",
    "xpu.expert-ranks-bring-equal-counts",
    "An eager step leaves each rank at its own count, although experts are spread over the ranks.",
    lambda backend: _with_rule(backend, pad_to="none", uniform_when="graph"),
)
scheduling_ahead = _mutant(
    "scheduling-runs-ahead",
    "xpu.expert-ranks-bring-equal-counts",
    "Asynchronous scheduling stays on with experts and data parallelism.",
    lambda backend: _with_rule(backend, async_scheduling=True),
)


# devices, launches, graphs


class _NoGuard(RuntimeDevice):
    @contextmanager
    def use(self, index: int, /) -> Iterator[None]:
        yield


def _launch_unguarded(backend: Backend) -> Backend:
    runtime = _factory(backend).runtime
    return replace(backend, launcher=runtime.launcher(_NoGuard(runtime, VARIABLE, ""), backend.graphs.capturing))


launches_unguarded = _mutant(
    "launches-without-device-guard",
    "launcher.device-from-tensors",
    "A kernel is launched on the thread's current device (field report 1).",
    _launch_unguarded,
)


class _ForgetsStream(RuntimeDevice):
    @contextmanager
    def use_stream(self, stream: Any, /) -> Iterator[None]:
        with self.use(stream.device.index):
            self._runtime.set_stream(stream)
            yield


stream_not_restored = _mutant(
    "stream-not-restored",
    "streams.current-stream-is-restored",
    "After `use_stream` the stream stays current.",
    lambda backend: replace(backend, device=_ForgetsStream(_factory(backend).runtime, VARIABLE, "")),
)


def _both(backend: Backend) -> Backend:
    runtime = _factory(backend).runtime
    calls = runtime.virtual_memory()
    assert calls is not None
    memory_map = VirtualMemoryMap(calls, runtime.device_type)
    return replace(backend, capabilities=replace(backend.capabilities, sleep=True), memory_map=memory_map)


graphs_beside_sleep = _mutant(
    "graphs-beside-sleep",
    "xpu.graphs-and-sleep-exclude-each-other",
    "Graphs are captured although their memory may be put to sleep.",
    _both,
)

MUTANTS: tuple[Mutant, ...] = tuple(value for value in list(vars().values()) if isinstance(value, Mutant))
