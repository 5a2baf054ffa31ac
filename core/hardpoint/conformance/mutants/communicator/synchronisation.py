"""Faults in how calls meet the rest: empty tensors, barriers, streams, devices."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutants import _communicator as change
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.conformance.mutants.communicator._plant import plant
from hardpoint.errors import CommunicatorError

# -- empty tensors -------------------------------------------------------------------------------------------------


def _passes_empty(name: str, call: Any, *args: Any, **options: Any) -> None:
    if args[-1 if not name.endswith("ragged") else 1].numel():
        call(*args, **options)


empty_not_counted = plant(
    "empty-tensors-are-not-counted",
    "empty-tensors-take-part",
    "A collective of an empty tensor returns at once and is not counted.",
    change.wrapped(_passes_empty, ("broadcast", "all_reduce", "all_gather", "reduce_scatter")),
)


def _refuses_empty(name: str, call: Any, *args: Any, **options: Any) -> None:
    if not args[0].numel() and not args[1 % len(args)].numel():
        raise CommunicatorError(f"{name}: a tensor without elements.")
    call(*args, **options)


empty_refused = plant(
    "empty-tensors-are-refused",
    "empty-tensors-take-part",
    "A collective of an empty tensor is refused.",
    change.wrapped(_refuses_empty, ("broadcast", "all_reduce", "all_gather")),
)


# -- barrier -------------------------------------------------------------------------------------------------------


def _private_barrier(waits: Callable[[int, int], list[int]]) -> Callable[[Backend], Backend]:
    """A barrier through the store in which a rank waits for ``waits(rank, world size)`` only."""

    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        entered = [0]

        def barrier(*, deadline: float | None = None) -> None:
            entered[0] += 1
            rendezvous.store.set(f"barrier/{entered[0]}/{base.rank}", "in")
            keys = [f"barrier/{entered[0]}/{peer}" for peer in waits(base.rank, base.world_size)]
            if keys:
                rendezvous.store.wait(keys, timedelta(seconds=deadline or rendezvous.deadline))

        return Changed(base, barrier=barrier)

    return change.opened(wrap)


barrier_does_nothing = plant(
    "barrier-does-nothing",
    "barrier-waits-for-all",
    "`barrier` returns at once.",
    _private_barrier(lambda rank, world: []),
)
barrier_waits_for_first = plant(
    "barrier-waits-for-rank-0",
    "barrier-waits-for-all",
    "`barrier` returns when rank 0 has entered it.",
    _private_barrier(lambda rank, world: [0]),
)
barrier_waits_for_neighbour = plant(
    "barrier-waits-for-the-next-rank",
    "barrier-waits-for-all",
    "`barrier` waits for one neighbour: enough for two ranks, not for four.",
    _private_barrier(lambda rank, world: [(rank + 1) % world]),
)


# -- streams and devices -------------------------------------------------------------------------------------------


ignores_the_stream = plant(
    "stream-of-its-own",
    "follows-the-current-stream",
    "Collectives run on a stream of their own that neither waits for the caller's nor is waited for.",
    change.on_own_stream(waits_before=False, waits_after=False),
)
reads_too_early = plant(
    "reads-before-the-callers-stream",
    "follows-the-current-stream",
    "A collective does not wait for what the caller's stream has queued.",
    change.on_own_stream(waits_before=False, waits_after=True),
)
read_too_early = plant(
    "result-read-before-it-is-there",
    "follows-the-current-stream",
    "The caller's stream does not wait for the collective.",
    change.on_own_stream(waits_before=True, waits_after=False),
)
ragged_ignores_the_stream = plant(
    "ragged-scatter-on-another-stream",
    "follows-the-current-stream",
    "`reduce_scatter_ragged`, alone of all, runs on a stream of its own.",
    change.on_own_stream(waits_before=False, waits_after=True, names=("reduce_scatter_ragged",)),
)


def _current_device(backend: Backend, base: Any, rendezvous: Any) -> Any:
    device = backend.device

    def run(name: str, call: Any, *args: Any, **options: Any) -> None:
        # What the current device's stream holds back is waited for; the tensors' own device is another.
        if device.current() == rendezvous.device_index:
            call(*args, **options)
            return
        device.synchronize(device.current())
        with device.use_stream(device.stream(rendezvous.device_index)):
            call(*args, **options)

    return change.around(base, run, change.MOVING)


runs_under_current_device = plant(
    "waits-for-the-current-device",
    "runs-under-the-tensors-device",
    "A collective is ordered behind the work of the thread's current device instead of its tensors'.",
    change.opened(_current_device),
)


def _refuses_other_device(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def run(name: str, call: Any, *args: Any, **options: Any) -> None:
        if backend.device.current() != rendezvous.device_index:
            raise CommunicatorError(f"{name}: the current device is {backend.device.current()}.")
        call(*args, **options)

    return change.around(base, run, change.MOVING)


needs_current_device = plant(
    "needs-its-device-to-be-current",
    "runs-under-the-tensors-device",
    "A collective is refused while another device than its tensors' is current.",
    change.opened(_refuses_other_device),
)


def _leaves_device(backend: Backend, base: Any, rendezvous: Any) -> Any:
    entered: list[contextlib.AbstractContextManager[None]] = []

    def run(name: str, call: Any, *args: Any, **options: Any) -> None:
        if backend.device.current() != rendezvous.device_index:
            entered.append(backend.device.use(rendezvous.device_index))
            entered[-1].__enter__()
        call(*args, **options)

    return change.around(base, run, change.MOVING)


leaves_device = plant(
    "leaves-its-device-current",
    "runs-under-the-tensors-device",
    "A collective makes its tensors' device current and leaves it so.",
    change.opened(_leaves_device),
)
