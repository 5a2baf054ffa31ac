"""NPU backends with one planted fault each, over `sim:npu`. They test the laws and cases that NPUs are held to.

Plant one with ``hardpoint conformance sim:npu --plant hardpoint_npu.mutants:NAME --law ID``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from hardpoint import Backend
from hardpoint.attention import ReferenceAttentionBuffers
from hardpoint.communicator import Communicator, Rendezvous
from hardpoint.communicator.guarded import Guarded
from hardpoint.conformance.mutant import Mutant
from hardpoint.moe import CheckpointFormat, LayoutDescriptor, LoadSession, PackedExperts, ReferenceMoELayout
from hardpoint.moe.views import expert_views
from hardpoint_npu.backend import NpuCommunicatorFactory, over
from hardpoint_npu.facts import NZ
from hardpoint_npu.graphs import NpuGraphs, StreamBudget, Task
from hardpoint_npu.grid import GridLimited
from hardpoint_npu.moe import NpuMoELayout

_INVERSE = "npu.nz-has-a-true-inverse"
_GRIDS = "npu.grids-stay-within-the-limit"
_STREAMS = "npu.graphs-stay-within-the-streams"
_UPDATES = "npu.graph-tasks-take-updates"


def _mutant(name: str, law: str, statement: str, mutate: Callable[[Backend], Backend]) -> Mutant:
    return Mutant(f"npu.{name}", law, law.partition(".")[0], statement, mutate)


def _layout(backend: Backend) -> NpuMoELayout:
    assert isinstance(backend.moe_layout, NpuMoELayout)
    return backend.moe_layout


def _graphs(backend: Backend) -> NpuGraphs:
    assert isinstance(backend.graphs, NpuGraphs)
    return backend.graphs


class _Runtime:
    """The backend's runtime with some calls changed."""

    def __init__(self, base: Any, **changes: Any) -> None:
        self._base = base
        self.__dict__.update(changes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)


def _over(backend: Backend, **changes: Any) -> Backend:
    """The backend again, over a runtime with some calls changed."""
    changed: Any = _Runtime(_layout(backend).runtime, **changes)
    return over(changed, backend.info, sleep=backend.capabilities.sleep)


def _laid_out(kind: type[NpuMoELayout]) -> Callable[[Backend], Backend]:
    return lambda backend: replace(backend, moe_layout=kind(_layout(backend).runtime))


# expert layout

not_transposed = _mutant(
    "experts-not-transposed",
    "npu.expert-weights-are-transposed",
    "Expert weights stay as the model has them; npu_grouped_matmul reads them the other way round.",
    lambda backend: replace(
        backend, moe_layout=NpuMoELayout(_layout(backend).runtime, plain=ReferenceMoELayout(axes="[E,N,K]"))
    ),
)


class _TwiceTransposed(NpuMoELayout):
    def pack(self, source: Any, descriptor: LayoutDescriptor, **where: Any) -> PackedExperts:
        if isinstance(source, PackedExperts) and source.descriptor == descriptor and descriptor.format == "dense":
            return replace(source, w13_weight=source.w13_weight.transpose(1, 2).reshape(source.w13_weight.shape))
        return super().pack(source, descriptor, **where)


transposed_twice = _mutant(
    "experts-transposed-twice",
    "npu.expert-weights-are-transposed",
    "Waking up transposes w13 once more (vllm-ascend issue 11548).",
    _laid_out(_TwiceTransposed),
)


class _PaddingLeft(NpuMoELayout):
    def pack(self, source: Any, descriptor: LayoutDescriptor, **where: Any) -> PackedExperts:
        packed = super().pack(source, descriptor, **where)
        if packed.descriptor.format == "dense" and packed is not source:
            for padding in expert_views(packed).padding:
                padding.fill_(-1)  # as words: a NaN in every float
        return packed


padding_not_zeroed = _mutant(
    "padding-not-zeroed",
    "moe_layout.storage-is-as-declared",
    "What pads the intermediate size keeps what the memory held, NaN among it.",
    _laid_out(_PaddingLeft),
)


class _CastAgain(NpuMoELayout):
    def _thawed(self, packed: PackedExperts) -> PackedExperts:
        plain = super()._thawed(packed)
        if plain is packed:
            return packed
        # The storage is taken for a plain one and cast once more on the way.
        again = self.runtime.format_cast(packed.w13_weight.clone(), NZ)
        return replace(plain, w13_weight=self.runtime.format_cast(again, 2))


cast_twice = _mutant(
    "cast-twice",
    _INVERSE,
    "A storage in NZ is cast to NZ again.",
    _laid_out(_CastAgain),
)


class _NotCastBack(NpuMoELayout):
    def _thawed(self, packed: PackedExperts) -> PackedExperts:
        return replace(packed, descriptor=replace(packed.descriptor, format="dense"))


not_cast_back = _mutant(
    "not-cast-back",
    _INVERSE,
    "A storage in NZ is read as if it were plain.",
    _laid_out(_NotCastBack),
)
cast_is_identity = _mutant(
    "cast-is-identity",
    _INVERSE,
    "The cast gives its argument back, as a mock does and as torch_npu with private formats off.",
    lambda backend: _over(backend, format_cast=lambda tensor, acl_format: tensor),
)


class _Trusting(NpuMoELayout):
    def _thawed(self, packed: PackedExperts) -> PackedExperts:
        if packed.descriptor.format != "dense" and self.runtime.format_of(packed.w13_weight) != NZ:
            return replace(packed, descriptor=replace(packed.descriptor, format="dense"))
        return super()._thawed(packed)


declaration_not_checked = _mutant(
    "declaration-not-checked",
    _INVERSE,
    "A plain storage that is declared NZ passes.",
    _laid_out(_Trusting),
)


class _Moves(NpuMoELayout):
    def overwrite(self, plain: PackedExperts, destination: PackedExperts) -> None:
        made = self._frozen(plain, destination.descriptor)
        destination.w13_weight.data = made.w13_weight
        destination.w2_weight.data = made.w2_weight


storage_moves = _mutant(
    "storage-moves",
    _INVERSE,
    "An update puts a new storage under the parameter, and captured graphs read the old one.",
    _laid_out(_Moves),
)


class _LoadsPlain(NpuMoELayout):
    def load(self, packed: PackedExperts, checkpoint: CheckpointFormat | None = None) -> LoadSession:
        return self.plain.load(replace(packed, descriptor=replace(packed.descriptor, format="dense")), checkpoint)


loads_into_private_storage = _mutant(
    "loads-into-private-storage",
    _INVERSE,
    "Checkpoint tensors are written into a storage in NZ as if it were plain (field report 5).",
    _laid_out(_LoadsPlain),
)

# launches


def _limited(backend: Backend) -> GridLimited:
    assert isinstance(backend.launcher, GridLimited)
    return backend.launcher


grid_limit_ignored = _mutant(
    "grid-limit-ignored",
    _GRIDS,
    "A grid of any size is launched.",
    lambda backend: replace(backend, launcher=_limited(backend).inner),
)


class _ByAxis(GridLimited):
    def _refusal(self, kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        grid = kwargs.get("grid", ())
        if not callable(grid) and all(size <= self.programs for size in grid):
            return None
        return super()._refusal(kernel, args, kwargs)


grid_by_axis = _mutant(
    "grid-limit-by-axis",
    _GRIDS,
    "Each axis is held to the limit, and not their product.",
    lambda backend: replace(backend, launcher=_ByAxis(_limited(backend).inner)),
)


class _TupleOnly(GridLimited):
    def _refusal(self, kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        return None if callable(kwargs.get("grid")) else super()._refusal(kernel, args, kwargs)


callable_grid_ignored = _mutant(
    "callable-grid-ignored",
    _GRIDS,
    "A grid that is a function is not held to the limit.",
    lambda backend: replace(backend, launcher=_TupleOnly(_limited(backend).inner)),
)

# graphs

stream_budget_ignored = _mutant(
    "stream-budget-ignored",
    _STREAMS,
    "Captures go on until the device has no stream left.",
    lambda backend: replace(backend, graphs=replace(_graphs(backend), budget=StreamBudget(1 << 30))),
)


class _Hoards(StreamBudget):
    def _give(self, index: int) -> None:
        """The stream of a dropped graph stays counted."""


streams_not_given_back = _mutant(
    "streams-not-given-back",
    _STREAMS,
    "Dropped graphs count for ever, so that captures are refused that would work.",
    lambda backend: replace(backend, graphs=replace(_graphs(backend), budget=_Hoards(_graphs(backend).budget.most))),
)


@dataclass(frozen=True)
class _RunsUpdates(NpuGraphs):
    @contextmanager
    def update(self, task: Task) -> Iterator[None]:
        yield


update_runs_now = _mutant(
    "update-runs-now",
    _UPDATES,
    "An update runs its kernels at once and leaves the graph as it was.",
    lambda backend: replace(
        backend, graphs=_RunsUpdates(_graphs(backend).runtime, _graphs(backend).device, _graphs(backend).budget)
    ),
)
update_is_lost = _mutant(
    "update-is-lost",
    _UPDATES,
    "The end of an update is left out: the task keeps its old arguments and the stream stays in the update.",
    lambda backend: _over(backend, graph_task_update_end=lambda stream: None),
)

# collectives


def _claiming(backend: Backend, **more: Any) -> Backend:
    claimed = replace(backend.capabilities, **more)
    runtime = _layout(backend).runtime
    return replace(backend, capabilities=claimed, communicator=NpuCommunicatorFactory(runtime, backend.device, claimed))


average_declared = _mutant(
    "average-declared",
    "capabilities.reduces-with-avg",
    "ReduceOp.AVG is used; HCCL has none.",
    lambda backend: _claiming(backend, reduce_ops=backend.capabilities.reduce_ops | {"avg"}),
)
float8_sent_as_it_is = _mutant(
    "float8-sent-as-it-is",
    "communicator.broadcast-carries-the-root",
    "float8 goes to HCCL, which does not know it, instead of as bytes.",
    lambda backend: _claiming(
        backend, communication_dtypes=backend.capabilities.communication_dtypes | {"float8_e4m3fn"}
    ),
)
float64_added_up = _mutant(
    "float64-added-up",
    "capabilities.carries-float64",
    "HCCL is asked to add up float64, which it only moves.",
    lambda backend: _claiming(backend, communication_dtypes=backend.capabilities.communication_dtypes | {"float64"}),
)


@dataclass(frozen=True)
class _Unguarded(NpuCommunicatorFactory):
    def __call__(self, rendezvous: Rendezvous, /) -> Communicator:
        made = super().__call__(rendezvous)
        return made.native if isinstance(made, Guarded) else made


collectives_unguarded = _mutant(
    "collectives-without-device-guard",
    "communicator.broadcast-carries-the-root",
    "The broadcast runs under whatever device is current (field report 5, item 3).",
    lambda backend: replace(
        backend, communicator=_Unguarded(_layout(backend).runtime, backend.device, backend.capabilities)
    ),
)

# streams, buffers, padding


def _stale_streams(backend: Backend) -> Backend:
    kept: dict[int, Any] = {}
    current = _layout(backend).runtime.current_stream
    return _over(backend, current_stream=lambda index: kept.setdefault(index, current(index)))


current_stream_kept = _mutant(
    "current-stream-kept-for-good",
    "streams.use-stream-takes-the-work",
    "The current stream is asked for once per device and remembered, whoever sets another.",
    _stale_streams,
)
buffers_not_zeroed = _mutant(
    "buffers-not-zeroed",
    "npu.token-buffers-begin-as-zero",
    "New token buffers hold what the memory held.",
    lambda backend: replace(backend, attention_buffers=ReferenceAttentionBuffers()),
)
counts_ignore_tp = _mutant(
    "counts-ignore-tp",
    "npu.counts-are-multiples-of-tp",
    "Padded counts do not divide by the tensor-parallel size.",
    lambda backend: replace(backend, dp_rule=replace(backend.dp_rule, multiple_of=1)),
)

MUTANTS: tuple[Mutant, ...] = tuple(value for value in list(vars().values()) if isinstance(value, Mutant))
