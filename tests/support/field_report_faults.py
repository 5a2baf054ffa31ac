"""The faults of the five field reports, each planted in a backend, with the law of the kit that has to name it.

A fault wraps one part of the backend that it is given. Tests use the same classes to show what users saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from hardpoint.backend import Backend
from hardpoint.communicator import Verdict
from hardpoint.conformance.mutant import Mutant
from hardpoint.dp import DpPlan, DpRule, GraphMode
from hardpoint.errors import LayoutError, LifecycleError
from hardpoint.lifecycle import Action, Health, Lifecycle, LifecycleParts, transition
from hardpoint.moe import PackedExperts
from hardpoint_sim.driver import Driver


class Wrapped:
    """A part that answers as `base` does; a fault overrides what it breaks."""

    def __init__(self, base: Any) -> None:
        self.base = base

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)


def _launcher(wrap: Callable[[Any], Any]) -> Callable[[Backend], Backend]:
    return lambda backend: replace(backend, launcher=wrap(backend.launcher))


def _device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Index of the first tensor's device."""
    return next(value.get_device() for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))


# -- FR1: a kernel runs where the thread is, not where its tensors are ------------------------------------------------


class LaunchesWhereTheThreadIs(Wrapped):
    """What Triton does: the kernel starts on the thread's current device, whatever its tensors say."""

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        Driver(self.base.engine).launch(kernel, args, kwargs)


class StaysWhereTheTensorsAre(Wrapped):
    """The fix without its second half: the tensors' device is made current, and stays so after the launch."""

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        self.base.launch(kernel, *args, **kwargs)
        self.base.engine.set_current(_device(args, kwargs))


class AsksOneTensorOnly(Wrapped):
    """The fix for well-behaved callers: the first tensor decides, the others are not looked at."""

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        with self.base.engine.use(_device(args, kwargs)):
            Driver(self.base.engine).launch(kernel, args, kwargs)


launches_where_the_thread_is = Mutant(
    "launcher.fr1-where-the-thread-is",
    "launcher.device-from-tensors",
    "launcher",
    "A launch goes to the thread's current device, wherever its tensors are.",
    _launcher(LaunchesWhereTheThreadIs),
)
stays_where_the_tensors_are = Mutant(
    "launcher.fr1-stays-there",
    "launcher.current-device-is-restored",
    "launcher",
    "After a launch the tensors' device is still current.",
    _launcher(StaysWhereTheTensorsAre),
)
asks_one_tensor_only = Mutant(
    "launcher.fr1-first-tensor-decides",
    "launcher.refuses-two-devices",
    "launcher",
    "The first tensor's device is used, and tensors elsewhere are not noticed before the launch.",
    _launcher(AsksOneTensorOnly),
)
# -- FR2: a kernel's first load inside a capture ----------------------------------------------------------------------


class LoadsAtFirstLaunch(Wrapped):
    """What Triton does: a kernel is loaded at its first launch on a device, in a capture or not.

    `driver_refuses`: the driver does not load modules while a stream is being captured; whether it does is a matter of
    its version.
    """

    def __init__(self, base: Any, driver_refuses: bool) -> None:
        super().__init__(base)
        self.driver_refuses = driver_refuses
        self.loaded: set[tuple[Any, int]] = set()

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        engine = self.base.engine
        with engine.use(_device(args, kwargs)):
            if (kernel, engine.current()) not in self.loaded:
                if self.driver_refuses and engine.current_stream().recording is not None:
                    raise RuntimeError("Triton Error [CUDA]: operation not permitted when stream is capturing")
                self.loaded.add((kernel, engine.current()))
            Driver(engine).launch(kernel, args, kwargs)


class ReturnsEarlyWhileCapturing(Wrapped):
    """The fix that was proposed upstream: what is not loaded yet is left out while capturing."""

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        with self.base.engine.use(_device(args, kwargs)):
            capturing = self.base.engine.current_stream().recording is not None
            if capturing and not self.base.explain(kernel, *args, **kwargs).loaded:
                return
        self.base.launch(kernel, *args, **kwargs)


class WarmAnywhereIsWarm(Wrapped):
    """The fix that one GPU suggests: a kernel that was loaded on some device counts as loaded on every one."""

    def __init__(self, base: Any) -> None:
        super().__init__(base)
        self.warm: set[Any] = set()

    def preload(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        self.base.preload(kernel, *args, **kwargs)
        self.warm.add(kernel)

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        if kernel in self.warm:
            with self.base.engine.use(_device(args, kwargs)):
                Driver(self.base.engine).launch(kernel, args, kwargs)
            return
        self.base.launch(kernel, *args, **kwargs)


loads_at_first_launch = Mutant(
    "launcher.fr2-loads-at-first-launch",
    "launcher.cold-launch-in-capture-is-refused",
    "launcher",
    "A cold kernel in a capture fails with the driver's words, which name neither kernel nor remedy.",
    _launcher(lambda base: LoadsAtFirstLaunch(base, driver_refuses=True)),
)
loads_where_the_driver_lets_it = Mutant(
    "launcher.fr2-loads-where-the-driver-lets-it",
    "launcher.cold-launch-in-capture-is-refused",
    "launcher",
    "A cold kernel in a capture is loaded without a word, which other drivers refuse.",
    _launcher(lambda base: LoadsAtFirstLaunch(base, driver_refuses=False)),
)
returns_early_while_capturing = Mutant(
    "launcher.fr2-returns-early",
    "launcher.cold-launch-in-capture-is-refused",
    "launcher",
    "A cold kernel in a capture is left out: the graph lacks it.",
    _launcher(ReturnsEarlyWhileCapturing),
)
warm_anywhere_is_warm = Mutant(
    "launcher.fr2-warm-anywhere-is-warm",
    "launcher.cold-launch-in-capture-is-refused",
    "launcher",
    "A kernel that is loaded on one device counts as loaded on another one.",
    _launcher(WarmAnywhereIsWarm),
)


# -- FR4: rows that nobody wrote, and ranks that bring different counts -----------------------------------------------


class TrustsNumActualTokens(Wrapped):
    """vLLM's own zeroing: the rows after num_actual_tokens, though padding may have been counted in it."""

    def finish(self, output: torch.Tensor, num_actual_tokens: Any, *, query_start_loc: Any = None) -> torch.Tensor:
        return self.base.finish(output, num_actual_tokens)  # type: ignore[no-any-return]


class LeavesTheTail(Wrapped):
    """The attention layer before it was zeroed: ``torch.empty`` goes into the residual as it is."""

    def finish(self, output: torch.Tensor, num_actual_tokens: Any, *, query_start_loc: Any = None) -> torch.Tensor:
        return self.base.finish(output, None) if num_actual_tokens is None else output


class LeavesProfileRuns(Wrapped):
    """The model's own buffer: zeroed where there is metadata, left as it came in profile and warm-up runs."""

    def finish(self, output: torch.Tensor, num_actual_tokens: Any, *, query_start_loc: Any = None) -> torch.Tensor:
        if num_actual_tokens is None:
            return output
        return self.base.finish(output, num_actual_tokens, query_start_loc=query_start_loc)  # type: ignore[no-any-return]


class StateFromEmpty(Wrapped):
    """Conv and recurrent state as an allocator hands it over."""

    def allocate(self, kind: Any, shape: Any, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(tuple(shape), dtype=dtype, device=device)


class MasksByMultiplication(Wrapped):
    """0 x NaN is NaN."""

    def mask_rows(self, rows: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return rows * keep.reshape(-1, *([1] * (rows.dim() - 1))).to(rows.dtype)


class ReadsWhateverIsThere(Wrapped):
    """The state of a request that has none is what its slot happens to hold."""

    def read_state(self, state: torch.Tensor, slots: torch.Tensor, has_initial_state: torch.Tensor) -> torch.Tensor:
        return self.base.read_state(state, slots, torch.ones_like(has_initial_state))  # type: ignore[no-any-return]


def _buffers(name: str, law: str, statement: str, wrap: Callable[[Any], Any]) -> Mutant:
    return Mutant(
        f"attention_buffers.fr4-{name}",
        f"attention_buffers.{law}",
        "attention_buffers",
        statement,
        lambda backend: replace(backend, attention_buffers=wrap(backend.attention_buffers)),
    )


trusts_num_actual_tokens = _buffers(
    "trusts-num-actual-tokens",
    "query-start-loc-bounds-tokens",
    "Padding rows that num_actual_tokens counts are left as they came.",
    TrustsNumActualTokens,
)
leaves_the_tail = _buffers("leaves-the-tail", "tail-is-zero", "Padding rows are left as they came.", LeavesTheTail)
leaves_profile_runs = _buffers(
    "leaves-profile-runs",
    "no-metadata-is-all-zero",
    "Without metadata the buffer is left as it came.",
    LeavesProfileRuns,
)
state_from_empty = _buffers(
    "state-from-empty", "state-starts-at-zero", "State that nobody wrote is handed over.", StateFromEmpty
)
masks_by_multiplication = _buffers(
    "masks-by-multiplication", "masks-select", "Masked rows are multiplied by 0.", MasksByMultiplication
)
reads_whatever_is_there = _buffers(
    "reads-whatever-is-there",
    "reads-need-initial-state",
    "A request without initial state reads its slot all the same.",
    ReadsWhateverIsThere,
)


class PadsForGraphsOnly(DpRule):
    """Padding is off in eager mode, expert parallelism or not; each rank keeps its own count."""

    def plan(self, tokens_per_rank: Any, tp: int = 1, synced_mode: Any = 0, expert_parallel: bool = False) -> DpPlan:
        if synced_mode != GraphMode.NONE:
            return super().plan(tokens_per_rank, tp, synced_mode, expert_parallel)
        return DpRule("none", self.multiple_of, "never").plan(tokens_per_rank, tp, synced_mode, expert_parallel)


class CountsPaddingAsTokens(DpRule):
    """What dp_rank 0 of the report did: 26 tokens padded to 30, and num_actual_tokens says 30."""

    def plan(self, tokens_per_rank: Any, tp: int = 1, synced_mode: Any = 0, expert_parallel: bool = False) -> DpPlan:
        plan = super().plan(tokens_per_rank, tp, synced_mode, expert_parallel)
        return replace(plan, num_actual_tokens=plan.num_padded_tokens)


class IdleRanksStayOut(DpRule):
    """A rank without tokens runs nothing, and the others wait for it in their collectives."""

    def plan(self, tokens_per_rank: Any, tp: int = 1, synced_mode: Any = 0, expert_parallel: bool = False) -> DpPlan:
        plan = super().plan(tokens_per_rank, tp, synced_mode, expert_parallel)
        padded = tuple(
            0 if idle else rows for idle, rows in zip(plan.dummy_forward, plan.num_padded_tokens, strict=True)
        )
        return replace(plan, num_padded_tokens=padded, dummy_forward=(False,) * plan.world_size)


def _rule(name: str, law: str, statement: str, rule: type[DpRule]) -> Mutant:
    return Mutant(
        f"dp_rule.fr4-{name}", f"dp_rule.{law}", "dp_rule", statement, lambda backend: replace(backend, dp_rule=rule())
    )


pads_for_graphs_only = _rule(
    "pads-for-graphs-only",
    "same-count-on-all-ranks",
    "With expert parallelism and no graph every rank brings its own count.",
    PadsForGraphsOnly,
)
counts_padding_as_tokens = _rule(
    "counts-padding-as-tokens",
    "actual-tokens-end-query-start-loc",
    "The padded count is given out as the actual one.",
    CountsPaddingAsTokens,
)
idle_ranks_stay_out = _rule(
    "idle-ranks-stay-out", "ranks-without-tokens-take-part", "A rank without tokens runs nothing.", IdleRanksStayOut
)


class GathersIntoOneOutput(Wrapped):
    """``dist.all_gather([out], x)``: one output for the group; where it does not deadlock one part is filled."""

    def all_gather(self, output: torch.Tensor, tensor: torch.Tensor, /, *, deadline: float | None = None) -> None:
        self.base.barrier(deadline=deadline)
        output[: tensor.shape[0]].copy_(tensor)


class WaitsMuchLonger(Wrapped):
    """Collectives that do not look at their deadline; three seconds stand for ever."""

    def broadcast(self, tensor: torch.Tensor, /, *, src: int, deadline: float | None = None) -> None:
        self.base.broadcast(tensor, src=src, deadline=3.0)

    def all_reduce(self, tensor: torch.Tensor, /, *, op: str = "sum", deadline: float | None = None) -> None:
        self.base.all_reduce(tensor, op=op, deadline=3.0)

    def all_gather(self, output: torch.Tensor, tensor: torch.Tensor, /, *, deadline: float | None = None) -> None:
        self.base.all_gather(output, tensor, deadline=3.0)

    def barrier(self, *, deadline: float | None = None) -> None:
        self.base.barrier(deadline=3.0)


def _communicator(name: str, law: str, statement: str, wrap: Callable[[Any], Any]) -> Mutant:
    return Mutant(
        f"communicator.{name}",
        f"communicator.{law}",
        "communicator",
        statement,
        lambda backend: replace(backend, communicator=lambda rendezvous: wrap(backend.communicator(rendezvous))),
    )


gathers_into_one_output = _communicator(
    "fr4-gathers-into-one-output",
    "gather-is-in-rank-order",
    "Every rank gathers its own rows and nobody else's.",
    GathersIntoOneOutput,
)
waits_much_longer = _communicator(
    "fr4-waits-much-longer", "deadline-is-obeyed", "Deadlines are taken and not kept.", WaitsMuchLonger
)


# -- FR5: expert weights in the wrong layout, and the broadcast that brings them --------------------------------------


def _as_model(packed: PackedExperts) -> PackedExperts | None:
    """The same storage taken for model layout; None where padding says that it is not."""
    if packed.descriptor.padded_intermediate is not None or packed.descriptor.format != "dense":
        return None
    model = packed.descriptor.in_state("model")
    return PackedExperts(
        packed.w13_weight.view(model.w13_shape), packed.w2_weight.view(model.w2_shape), model, packed.layer
    )


class LoadsIntoProcessedStorage(Wrapped):
    """Checkpoint names are copied into the parameters as they are, processed or not."""

    def load(self, packed: PackedExperts, checkpoint: Any = None) -> Any:
        raw = _as_model(packed)
        if raw is None:
            return self.base.load(packed, checkpoint)
        session = self.base.load(raw, checkpoint)
        finish = session.finish
        session.finish = lambda: (finish(), packed)[1]
        return session


class ProcessesAgain(Wrapped):
    """Post-processing runs whenever somebody calls it: what is processed is processed once more."""

    def pack(self, source: Any, descriptor: Any, **options: Any) -> PackedExperts:
        if isinstance(source, PackedExperts) and source.descriptor == descriptor:
            raw = _as_model(source)
            if raw is not None:
                return self.base.pack(raw, descriptor, **options)  # type: ignore[no-any-return]
        return self.base.pack(source, descriptor, **options)  # type: ignore[no-any-return]


class GuessesFromShapes(Wrapped):
    """A storage whose shape is already the wanted one is taken for processed."""

    def pack(self, source: Any, descriptor: Any, **options: Any) -> PackedExperts:
        if isinstance(source, PackedExperts):
            shapes = tuple(source.w13_weight.shape), tuple(source.w2_weight.shape)
            if shapes[0] == descriptor.w13_shape:
                source = self._believe(source, descriptor, w13_state=descriptor.w13_state)
            if shapes[1] == descriptor.w2_shape:
                source = self._believe(source, descriptor, w2_state=descriptor.w2_state)
        return self.base.pack(source, descriptor, **options)  # type: ignore[no-any-return]

    @staticmethod
    def _believe(source: PackedExperts, wanted: Any, **state: Any) -> PackedExperts:
        layout = {name: getattr(wanted, name) for name in ("order", "axes", "padded_intermediate")}
        try:
            return replace(source, descriptor=replace(source.descriptor, **layout, **state))
        except LayoutError:
            return source  # the other storage then does not fit: what is declared is believed


def _layout(name: str, law: str, statement: str, wrap: Callable[[Any], Any]) -> Mutant:
    return Mutant(
        f"moe_layout.fr5-{name}",
        f"moe_layout.{law}",
        "moe_layout",
        statement,
        lambda backend: replace(backend, moe_layout=wrap(backend.moe_layout)),
    )


loads_into_processed_storage = _layout(
    "loads-into-processed-storage",
    "load-equals-pack",
    "A load writes checkpoint rows into storage that is in kernel layout.",
    LoadsIntoProcessedStorage,
)
processes_again = _layout(
    "processes-again", "twice-is-once", "Post-processing what is processed turns it once more.", ProcessesAgain
)
guesses_from_shapes = _layout(
    "guesses-from-shapes",
    "shape-says-nothing",
    "Whether a storage is processed is read from its shape.",
    GuessesFromShapes,
)


class BroadcastsOnTheDefaultStream(Wrapped):
    """The broadcast does not run on the caller's current stream, and nobody waits for it there."""

    def broadcast(self, tensor: torch.Tensor, /, *, src: int, deadline: float | None = None) -> None:
        engine = self.base.engine
        with engine.use_stream(engine.state(self.base.device_index).default_stream):
            self.base.broadcast(tensor, src=src, deadline=deadline)


class SetsTheDeviceAndLeavesIt(Wrapped):
    """The broadcast makes the communicator's device current, and it stays current."""

    def broadcast(self, tensor: torch.Tensor, /, *, src: int, deadline: float | None = None) -> None:
        self.base.engine.set_current(self.base.device_index)
        self.base.broadcast(tensor, src=src, deadline=deadline)


broadcasts_on_the_default_stream = _communicator(
    "fr5-default-stream",
    "follows-the-current-stream",
    "A broadcast runs on the default stream, whichever is current.",
    BroadcastsOnTheDefaultStream,
)
sets_the_device_and_leaves_it = _communicator(
    "fr5-sets-the-device",
    "runs-under-the-tensors-device",
    "A broadcast changes the caller's current device.",
    SetsTheDeviceAndLeavesIt,
)


# -- FR3: sleep and wake tear ranks apart -----------------------------------------------------------------------------


def unmaps_without_waiting(parts: LifecycleParts) -> Lifecycle:
    """Everything but the wait for the device: work in flight runs into memory that is gone."""

    def table(state: Any, event: Any) -> Any:
        following, actions = transition(state, event)
        return following, tuple(action for action in actions if action is not Action.SYNCHRONIZE)

    return Lifecycle(parts, table)


class _OwnVoteOnly:
    """A vote that nobody else takes part in."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def vote(
        self, ok: bool, subject: str, *, reason: str = "", digest: str = "", deadline: float | None = None
    ) -> Verdict:
        return Verdict(ok, subject, {} if ok else {self.rank: reason}, ())


def sleeps_alone(parts: LifecycleParts) -> Lifecycle:
    """Each rank at its own pace, as if the others were not there."""
    return Lifecycle(replace(parts, voter=_OwnVoteOnly(parts.voter.rank)))


class GuardsWithABarrier:
    """Drain, wait, barrier, unmap, barrier: right as long as no rank raises between the two.

    A real one has no deadline; this one waits as long as a vote may take. `health` says what a server without a state
    machine says: 200.
    """

    def __init__(self, parts: LifecycleParts) -> None:
        self._parts = parts
        self._epoch = 0

    def sleep(self, tags: Any = None, *, level: int = 1, op_id: int | None = None) -> Health:
        parts, chosen = self._parts, list(self._parts.memory.tags() if tags is None else tags)
        with self._named(), parts.device.use(parts.device_index):
            parts.host.close_admission()
            parts.host.drain(parts.deadlines.steps)
            parts.device.synchronize(parts.device_index)
            self._barrier()
            parts.memory.save(chosen)
            parts.memory.unmap(chosen)
            self._barrier()
        self._epoch += 1
        return self.health()

    def wake(self, tags: Any = None, *, op_id: int | None = None) -> Health:
        parts, chosen = self._parts, list(self._parts.memory.tags() if tags is None else tags)
        with self._named(), parts.device.use(parts.device_index):
            parts.memory.map(chosen)
            parts.memory.restore(chosen)
            parts.device.synchronize(parts.device_index)
            self._barrier()
            parts.host.resume([])
            parts.host.open_admission()
        return self.health()

    @contextmanager
    def _named(self) -> Iterator[None]:
        # The rank that fails says so as it should: what is wrong is what the others do.
        try:
            yield
        except Exception as error:
            raise LifecycleError(f"rank {self._parts.voter.rank}: {type(error).__name__}: {error}") from error

    def health(self) -> Health:
        return Health(True, True, "RUNNING", "", self._epoch, (), (), (), "")

    def _barrier(self) -> None:
        group: Any = self._parts.voter
        group.barrier(deadline=self._parts.deadlines.vote)


class AlwaysSays200(Lifecycle):
    """`/health` of the report: 200, whatever has happened."""

    def health(self) -> Health:
        return replace(super().health(), healthy=True, serving=True, reason="", missing=())


def _lifecycle(name: str, law: str, statement: str, factory: Callable[[LifecycleParts], Any]) -> Mutant:
    return Mutant(
        f"lifecycle.fr3-{name}",
        f"lifecycle.{law}",
        "lifecycle",
        statement,
        lambda backend: replace(backend, lifecycle=factory),
    )


work_in_flight = _lifecycle(
    "work-in-flight", "queued-work-is-kept", "Nobody waits for the device before memory goes.", unmaps_without_waiting
)
everybody_alone = _lifecycle(
    "everybody-alone", "processes-sleep-together", "Each rank sleeps and wakes at its own pace.", sleeps_alone
)
bare_barrier = _lifecycle(
    "bare-barrier", "processes-fail-together", "A barrier stands where a vote has to be.", GuardsWithABarrier
)
always_says_200 = _lifecycle(
    "always-says-200", "admission-is-closed-while-asleep", "Health is always good.", AlwaysSays200
)
