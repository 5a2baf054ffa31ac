"""Communicators with a fault, and ones that are different and right."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch

from hardpoint.backend import Backend
from hardpoint.communicator.protocol import Verdict
from hardpoint.conformance.mutant import Mutant
from hardpoint.conformance.mutants import _communicator as change
from hardpoint.conformance.mutants._communicator_variants import VARIANTS
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.errors import CommunicatorError, DeadlineExceeded

legal_variants = VARIANTS


def _plant(name: str, law: str, statement: str, mutate: Callable[[Backend], Backend]) -> Mutant:
    return Mutant(f"communicator.{name}", f"communicator.{law}", "communicator", statement, mutate)


# -- place and sequence --------------------------------------------------------------------------------------------


def _counting(counts: Callable[[str, int], int]) -> Callable[[Backend], Backend]:
    """`sequence` after each call is ``counts(name, sequence before)``."""

    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        counted = [0]

        def step(name: str, call: Any, *args: Any, **options: Any) -> Any:
            result = call(*args, **options)
            counted[0] = counts(name, counted[0])
            return result

        return change.answering(change.around(base, step), sequence=lambda: counted[0])

    return change.opened(wrap)


rank_reversed = _plant(
    "rank-is-reversed",
    "knows-its-place",
    "Ranks are counted from the other end.",
    change.opened(lambda _, base, rendezvous: change.answering(base, rank=lambda: base.world_size - 1 - base.rank)),
)
sequence_stands_still = _plant(
    "sequence-stands-still",
    "knows-its-place",
    "`sequence` is always 0.",
    change.opened(lambda _, base, rendezvous: change.answering(base, sequence=lambda: 0)),
)
sequence_skips_votes = _plant(
    "sequence-skips-barriers-and-votes",
    "knows-its-place",
    "Only collectives that move data are counted.",
    _counting(lambda name, count: count + (name in change.MOVING)),
)
sequence_restarts = _plant(
    "sequence-restarts-at-a-barrier",
    "knows-its-place",
    "`sequence` begins again at every barrier.",
    _counting(lambda name, count: 0 if name == "barrier" else count + 1),
)
sequence_counts_ragged_twice = _plant(
    "sequence-counts-ragged-twice",
    "knows-its-place",
    "A ragged collective, made of two native ones, counts as two.",
    _counting(lambda name, count: count + (2 if "ragged" in name else 1)),
)

# -- broadcast -----------------------------------------------------------------------------------------------------


def _root(root: Callable[[int, int], int]) -> Callable[[Backend], Backend]:
    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        def broadcast(tensor: Any, /, *, src: int, deadline: float | None = None) -> None:
            base.broadcast(
                tensor, src=root(src, base.world_size) if 0 <= src < base.world_size else src, deadline=deadline
            )

        return Changed(base, broadcast=broadcast)

    return change.opened(wrap)


broadcast_from_zero = _plant(
    "broadcast-from-rank-0",
    "broadcast-carries-the-root",
    "`broadcast` always sends rank 0's tensor.",
    _root(lambda src, world: 0),
)
broadcast_from_next = _plant(
    "broadcast-from-the-next-rank",
    "broadcast-carries-the-root",
    "`broadcast` counts its root from 1.",
    _root(lambda src, world: (src + 1) % world),
)


def _narrows(name: str, call: Any, tensor: Any, /, **options: Any) -> None:
    if tensor.dtype not in (torch.float32, torch.float64) or tensor.numel() == 0:
        call(tensor, **options)
        return
    narrow = tensor.to(torch.bfloat16)
    call(narrow, **options)
    tensor.copy_(narrow.to(tensor.dtype))


broadcast_in_bfloat16 = _plant(
    "broadcast-in-bfloat16",
    "broadcast-carries-the-root",
    "Floats are broadcast as bfloat16 to save bandwidth.",
    change.wrapped(_narrows, ("broadcast",)),
)


def _skips_strangers(name: str, call: Any, tensor: Any, /, **options: Any) -> None:
    strange = tensor.dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.int16)
    call(tensor.clone() if strange else tensor, **options)


broadcast_skips_dtypes = _plant(
    "broadcast-skips-dtypes",
    "broadcast-carries-the-root",
    "A dtype that the native library lacks is left as it was on every rank.",
    change.wrapped(_skips_strangers, ("broadcast",)),
)


def _whole_pieces(name: str, call: Any, tensor: Any, /, **options: Any) -> None:
    piece = 4096
    if tensor.numel() <= piece:
        call(tensor, **options)
        return
    whole = tensor.clone()
    call(whole, **options)
    end = tensor.numel() // piece * piece
    tensor.view(-1)[:end] = whole.view(-1)[:end]


broadcast_loses_the_tail = _plant(
    "broadcast-loses-the-last-piece",
    "broadcast-carries-the-root",
    "A large tensor goes in pieces of 4096 elements, and the last one, which is shorter, is not sent.",
    change.wrapped(_whole_pieces, ("broadcast",)),
)

# -- all_gather ----------------------------------------------------------------------------------------------------


def _gathered(arrange: Callable[[list[Any], int], list[Any]]) -> Callable[[Backend], Backend]:
    """The pieces of `all_gather`'s output come in another order: ``arrange(pieces in rank order, own rank)``."""

    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        def all_gather(output: Any, tensor: Any, /, *, deadline: float | None = None) -> None:
            base.all_gather(output, tensor, deadline=deadline)
            change.rearrange(output, arrange(change.equal_rows(output, base.world_size), base.rank))

        return Changed(base, all_gather=all_gather)

    return change.opened(wrap)


gather_reversed = _plant(
    "gather-in-reverse",
    "gather-is-in-rank-order",
    "`all_gather` puts the last rank's rows first.",
    _gathered(lambda pieces, rank: pieces[::-1]),
)
gather_own_first = _plant(
    "gather-own-rows-first",
    "gather-is-in-rank-order",
    "`all_gather` begins with the rank's own rows, as a ring does.",
    _gathered(lambda pieces, rank: pieces[rank:] + pieces[:rank]),
)
gather_forgets_own = _plant(
    "gather-forgets-own-rows",
    "gather-is-in-rank-order",
    "`all_gather` leaves zeros where the rank's own rows belong.",
    _gathered(lambda pieces, rank: [p.clone().zero_() if peer == rank else p for peer, p in enumerate(pieces)]),
)


def _arrival(backend: Backend, base: Any, rendezvous: Any) -> Any:
    store, world, number = rendezvous.store, rendezvous.world_size, [0]

    def all_gather(output: Any, tensor: Any, /, *, deadline: float | None = None) -> None:
        number[0] += 1
        place = store.add(f"arrivals/{number[0]}", 1) - 1
        store.set(f"arrival/{number[0]}/{place}", str(rendezvous.rank))
        base.all_gather(output, tensor, deadline=deadline)
        order = [int(store.get(f"arrival/{number[0]}/{place}")) for place in range(world)]
        pieces = change.equal_rows(output, world)
        change.rearrange(output, [pieces[rank] for rank in order])

    return Changed(base, all_gather=all_gather)


gather_in_arrival_order = _plant(
    "gather-in-arrival-order",
    "gather-is-in-rank-order",
    "`all_gather` puts the rows of the rank that came first at the beginning.",
    change.opened(_arrival),
)


def _spoils_input(position: int) -> change.Around:
    def spoil(name: str, call: Any, *args: Any, **options: Any) -> None:
        call(*args, **options)
        args[position].zero_()

    return spoil


gather_spoils_input = _plant(
    "gather-spoils-its-input",
    "gather-is-in-rank-order",
    "`all_gather` uses its input as a scratch buffer.",
    change.wrapped(_spoils_input(1), ("all_gather",)),
)

# -- all_gather_ragged -----------------------------------------------------------------------------------------------


def _ragged(spoil: Callable[[Any, list[int], int], None]) -> Callable[[Backend], Backend]:
    """After `all_gather_ragged`, ``spoil(output, counts, own rank)``."""

    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        def all_gather_ragged(output: Any, tensor: Any, /, counts: Any, *, deadline: float | None = None) -> None:
            base.all_gather_ragged(output, tensor, counts, deadline=deadline)
            spoil(output, list(counts), base.rank)

        return Changed(base, all_gather_ragged=all_gather_ragged)

    return change.opened(wrap)


def _pads(output: Any, counts: list[int], rank: int) -> None:
    most, start = max(counts), 0
    pieces = []
    for piece in change.rows(output, counts):
        padding = torch.full((most - piece.shape[0], *piece.shape[1:]), 7, device=output.device).to(output.dtype)
        pieces += [piece.clone(), padding]
    for piece in pieces:
        fits = min(piece.shape[0], output.shape[0] - start)
        output[start : start + fits] = piece[:fits]
        start += fits


def _truncates(output: Any, counts: list[int], rank: int) -> None:
    least = min(counts)
    for piece in change.rows(output, counts):
        piece[least:].zero_()


def _drops_last(output: Any, counts: list[int], rank: int) -> None:
    if len(set(counts)) > 1:
        change.rows(output, counts)[counts.index(max(counts))][-1:].zero_()


ragged_pads = _plant(
    "ragged-gather-pads",
    "ragged-gather-has-no-padding",
    "The padding between the ranks' rows stays in the output of `all_gather_ragged`.",
    _ragged(_pads),
)
ragged_truncates = _plant(
    "ragged-gather-truncates",
    "ragged-gather-has-no-padding",
    "`all_gather_ragged` takes as many rows of each rank as the shortest has.",
    _ragged(_truncates),
)
ragged_drops_last = _plant(
    "ragged-gather-drops-a-row",
    "ragged-gather-has-no-padding",
    "`all_gather_ragged` loses the last row of the rank that has most.",
    _ragged(_drops_last),
)


def _stays_out(op: str, position: int) -> Callable[[Backend], Backend]:
    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        def ragged(name: str, call: Any, *args: Any, **options: Any) -> None:
            if args[position].shape[0]:
                call(*args, **options)

        return change.around(base, ragged, (op,))

    return change.opened(wrap)


ragged_stays_out = _plant(
    "ragged-gather-without-the-empty-rank",
    "ragged-gather-has-no-padding",
    "A rank without rows returns from `all_gather_ragged` at once and takes no part.",
    _stays_out("all_gather_ragged", 1),
)
ragged_spoils_input = _plant(
    "ragged-gather-spoils-its-input",
    "ragged-gather-has-no-padding",
    "`all_gather_ragged` uses its input as a scratch buffer.",
    change.wrapped(_spoils_input(1), ("all_gather_ragged",)),
)

# -- reductions --------------------------------------------------------------------------------------------------


def _averages(name: str, call: Any, tensor: Any, /, *, op: str = "sum", deadline: float | None = None) -> None:
    call(tensor, op="avg" if op == "sum" and tensor.is_floating_point() else op, deadline=deadline)


averages = _plant(
    "all-reduce-averages",
    "all-reduce-adds-up",
    "`all_reduce` divides the sum by the number of ranks.",
    change.wrapped(_averages, ("all_reduce",)),
)


def _only_first(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def all_reduce(tensor: Any, /, *, op: str = "sum", deadline: float | None = None) -> None:
        base.all_reduce(tensor if base.rank == 0 else tensor.clone(), op=op, deadline=deadline)

    return Changed(base, all_reduce=all_reduce)


reduces_to_one = _plant(
    "all-reduce-on-rank-0-only",
    "all-reduce-adds-up",
    "`all_reduce` leaves the sum on rank 0 and the other ranks as they were.",
    change.opened(_only_first),
)


def _reduces_in(dtypes: dict[torch.dtype, torch.dtype]) -> change.Around:
    def narrow(name: str, call: Any, tensor: Any, /, **options: Any) -> None:
        if tensor.dtype not in dtypes:
            call(tensor, **options)
            return
        small = tensor.to(dtypes[tensor.dtype])
        call(small, **options)
        tensor.copy_(small.to(tensor.dtype))

    return narrow


reduces_in_bfloat16 = _plant(
    "all-reduce-in-bfloat16",
    "all-reduce-adds-up",
    "float32 is reduced in bfloat16.",
    change.wrapped(_reduces_in({torch.float32: torch.bfloat16}), ("all_reduce",)),
)
reduces_in_float32 = _plant(
    "all-reduce-in-float32",
    "all-reduce-adds-up",
    "float64 and integers are reduced in float32.",
    change.wrapped(
        _reduces_in(dict.fromkeys((torch.float64, torch.int64, torch.int32), torch.float32)), ("all_reduce",)
    ),
)


def _always_adds(name: str, call: Any, *args: Any, op: str = "sum", deadline: float | None = None) -> None:
    call(*args, deadline=deadline)


reduce_ignores_op = _plant(
    "all-reduce-ignores-op",
    "all-reduce-adds-up",
    "`all_reduce` adds up whatever `op` says.",
    change.wrapped(_always_adds, ("all_reduce",)),
)
scatter_ignores_op = _plant(
    "reduce-scatter-ignores-op",
    "reduce-scatter-keeps-own-rows",
    "`reduce_scatter` adds up whatever `op` says.",
    change.wrapped(_always_adds, ("reduce_scatter",)),
)


def _next_rows(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def reduce_scatter(output: Any, tensor: Any, /, **options: Any) -> None:
        pieces = change.equal_rows(tensor, base.world_size)
        turned = torch.cat([*pieces[1:], pieces[0]]) if output.shape[0] * base.world_size == tensor.shape[0] else tensor
        base.reduce_scatter(output, turned, **options)

    return Changed(base, reduce_scatter=reduce_scatter)


scatter_keeps_next = _plant(
    "reduce-scatter-keeps-the-next-rows",
    "reduce-scatter-keeps-own-rows",
    "`reduce_scatter` leaves rank r the rows of rank r + 1.",
    change.opened(_next_rows),
)


def _does_not_reduce(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def reduce_scatter(output: Any, tensor: Any, /, **options: Any) -> None:
        base.reduce_scatter(output, tensor, **options)
        if tensor.numel():
            output.copy_(change.equal_rows(tensor, base.world_size)[base.rank])

    return Changed(base, reduce_scatter=reduce_scatter)


scatter_does_not_reduce = _plant(
    "reduce-scatter-does-not-reduce",
    "reduce-scatter-keeps-own-rows",
    "`reduce_scatter` keeps the right rows of its own input, without the other ranks'.",
    change.opened(_does_not_reduce),
)
scatter_spoils_input = _plant(
    "reduce-scatter-spoils-its-input",
    "reduce-scatter-keeps-own-rows",
    "`reduce_scatter` reduces in place, in its input.",
    change.wrapped(_spoils_input(1), ("reduce_scatter",)),
)


def _fair_shares(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def reduce_scatter_ragged(output: Any, tensor: Any, /, counts: Any, **options: Any) -> None:
        whole = tensor.clone()
        base.reduce_scatter_ragged(output, tensor, counts, **options)
        base.all_reduce(whole, deadline=options.get("deadline"))
        begin = min(base.rank * (whole.shape[0] // base.world_size), whole.shape[0] - output.shape[0])
        output.copy_(whole[begin : begin + output.shape[0]])

    return Changed(base, reduce_scatter_ragged=reduce_scatter_ragged)


ragged_scatter_in_equal_steps = _plant(
    "ragged-scatter-in-equal-steps",
    "ragged-scatter-keeps-own-rows",
    "`reduce_scatter_ragged` finds a rank's rows as if all ranks had equally many.",
    change.opened(_fair_shares),
)
ragged_scatter_stays_out = _plant(
    "ragged-scatter-without-the-empty-rank",
    "ragged-scatter-keeps-own-rows",
    "A rank that keeps no rows takes no part in `reduce_scatter_ragged`.",
    _stays_out("reduce_scatter_ragged", 0),
)
ragged_scatter_spoils_input = _plant(
    "ragged-scatter-spoils-its-input",
    "ragged-scatter-keeps-own-rows",
    "`reduce_scatter_ragged` reduces in place, in its input.",
    change.wrapped(_spoils_input(1), ("reduce_scatter_ragged",)),
)

# -- empty tensors ---------------------------------------------------------------------------------------------------


def _passes_empty(name: str, call: Any, *args: Any, **options: Any) -> None:
    if args[-1 if not name.endswith("ragged") else 1].numel():
        call(*args, **options)


empty_not_counted = _plant(
    "empty-tensors-are-not-counted",
    "empty-tensors-take-part",
    "A collective of an empty tensor returns at once and is not counted.",
    change.wrapped(_passes_empty, ("broadcast", "all_reduce", "all_gather", "reduce_scatter")),
)


def _refuses_empty(name: str, call: Any, *args: Any, **options: Any) -> None:
    if not args[0].numel() and not args[1 % len(args)].numel():
        raise CommunicatorError(f"{name}: a tensor without elements.")
    call(*args, **options)


empty_refused = _plant(
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


barrier_does_nothing = _plant(
    "barrier-does-nothing",
    "barrier-waits-for-all",
    "`barrier` returns at once.",
    _private_barrier(lambda rank, world: []),
)
barrier_waits_for_first = _plant(
    "barrier-waits-for-rank-0",
    "barrier-waits-for-all",
    "`barrier` returns when rank 0 has entered it.",
    _private_barrier(lambda rank, world: [0]),
)
barrier_waits_for_neighbour = _plant(
    "barrier-waits-for-the-next-rank",
    "barrier-waits-for-all",
    "`barrier` waits for one neighbour: enough for two ranks, not for four.",
    _private_barrier(lambda rank, world: [(rank + 1) % world]),
)

# -- streams and devices -----------------------------------------------------------------------------------------------


ignores_the_stream = _plant(
    "stream-of-its-own",
    "follows-the-current-stream",
    "Collectives run on a stream of their own that neither waits for the caller's nor is waited for.",
    change.on_own_stream(waits_before=False, waits_after=False),
)
reads_too_early = _plant(
    "reads-before-the-callers-stream",
    "follows-the-current-stream",
    "A collective does not wait for what the caller's stream has queued.",
    change.on_own_stream(waits_before=False, waits_after=True),
)
read_too_early = _plant(
    "result-read-before-it-is-there",
    "follows-the-current-stream",
    "The caller's stream does not wait for the collective.",
    change.on_own_stream(waits_before=True, waits_after=False),
)
ragged_ignores_the_stream = _plant(
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


runs_under_current_device = _plant(
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


needs_current_device = _plant(
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


leaves_device = _plant(
    "leaves-its-device-current",
    "runs-under-the-tensors-device",
    "A collective makes its tensors' device current and leaves it so.",
    change.opened(_leaves_device),
)

# -- groups --------------------------------------------------------------------------------------------------------


def _shared_group(backend: Backend) -> Backend:
    """The second communicator of a process is the first one."""
    made: list[Any] = []

    def factory(rendezvous: Any) -> Any:
        if made:
            return made[0]
        base = backend.communicator(rendezvous)

        def close() -> None:
            made.clear()
            base.close()

        made.append(Changed(base, close=close))
        return made[0]

    return replace(backend, communicator=factory)


one_group_for_all = _plant(
    "one-group-for-all",
    "groups-do-not-mix",
    "Two communicators of the same ranks are one group under two names.",
    _shared_group,
)


def _shared_count(backend: Backend) -> Backend:
    made: list[Any] = []

    def factory(rendezvous: Any) -> Any:
        base = backend.communicator(rendezvous)
        made.append(base)

        def close() -> None:
            if base in made:
                made.remove(base)
            base.close()

        total: Callable[[], int] = lambda: sum(other.sequence for other in made)  # noqa: E731
        return change.answering(Changed(base, close=close), sequence=total)

    return replace(backend, communicator=factory)


one_count_for_all = _plant(
    "one-sequence-for-all-groups",
    "groups-do-not-mix",
    "Calls are numbered per process instead of per communicator.",
    _shared_count,
)


def _closes_all(backend: Backend) -> Backend:
    made: list[Any] = []

    def factory(rendezvous: Any) -> Any:
        base = backend.communicator(rendezvous)
        made.append(base)

        def close() -> None:
            while made:
                made.pop().close()
            base.close()

        return Changed(base, close=close)

    return replace(backend, communicator=factory)


closes_all = _plant(
    "close-ends-every-group",
    "groups-do-not-mix",
    "Closing one communicator shuts the native library down for all of them.",
    _closes_all,
)

# -- deadlines -----------------------------------------------------------------------------------------------------


def _another_deadline(seconds: Callable[[float], float | None], names: Any = change.COLLECTIVES) -> change.Around:
    def run(name: str, call: Any, *args: Any, deadline: float | None = None, **options: Any) -> Any:
        chosen = seconds(deadline) if deadline is not None and name in names else deadline
        return call(*args, deadline=chosen, **options)

    return run


deadline_ignored = _plant(
    "deadline-is-ignored",
    "deadline-is-obeyed",
    "`deadline` is accepted and ignored; the rendezvous' own holds.",
    change.wrapped(_another_deadline(lambda deadline: None)),
)
deadline_ignored_by_one = _plant(
    "deadline-is-ignored-by-ragged-scatter",
    "deadline-is-obeyed",
    "`reduce_scatter_ragged`, alone of all, ignores its deadline.",
    change.wrapped(_another_deadline(lambda deadline: None, ("reduce_scatter_ragged",))),
)
deadline_cut = _plant(
    "deadline-is-cut-short",
    "deadline-is-obeyed",
    "A collective gives up after a twentieth of its deadline.",
    change.wrapped(_another_deadline(lambda deadline: deadline / 20)),
)


def _tells(change_error: Callable[[Any, DeadlineExceeded], Exception], names: Any = change.COLLECTIVES) -> Any:
    """DeadlineExceeded becomes what ``change_error(communicator, error)`` makes of it."""

    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        def run(name: str, call: Any, *args: Any, **options: Any) -> Any:
            try:
                return call(*args, **options)
            except DeadlineExceeded as error:
                raise change_error(base, error) from None

        return change.around(base, run, names)

    return change.opened(wrap)


names_nobody = _plant(
    "error-names-nobody",
    "deadline-is-obeyed",
    "A missed deadline does not say which ranks were absent.",
    _tells(lambda base, error: change.retold(error, missing=(), message="the collective timed out")),
)
names_itself = _plant(
    "error-names-itself",
    "deadline-is-obeyed",
    "A missed deadline names the rank that waited.",
    _tells(lambda base, error: change.retold(error, missing=(base.rank,))),
)
names_first_only = _plant(
    "error-names-one-of-two",
    "deadline-is-obeyed",
    "A missed deadline names the first absent rank and no other.",
    _tells(lambda base, error: change.retold(error, missing=error.missing[:1])),
)
names_all_others = _plant(
    "error-names-all-others",
    "deadline-is-obeyed",
    "A missed deadline names every other rank: right for two ranks only.",
    _tells(
        lambda base, error: change.retold(error, missing=tuple(r for r in range(base.world_size) if r != base.rank))
    ),
)
names_wrong_op = _plant(
    "error-names-the-native-op",
    "deadline-is-obeyed",
    "A missed deadline of `barrier` speaks of the all_reduce that it is made of.",
    _tells(lambda base, error: change.retold(error, op="all_reduce"), ("barrier",)),
)
names_wrong_number = _plant(
    "error-names-the-next-number",
    "deadline-is-obeyed",
    "A missed deadline gives the number of the call after it.",
    _tells(lambda base, error: change.retold(error, sequence=error.sequence + 1)),
)
timeout_is_a_runtime_error = _plant(
    "timeout-is-a-runtime-error",
    "deadline-is-obeyed",
    "A missed deadline is a RuntimeError of the native library.",
    _tells(lambda base, error: RuntimeError("Timed out waiting for operation to complete")),
)


def _default_deadline(seconds: float) -> Callable[[Backend], Backend]:
    def mutate(backend: Backend) -> Backend:
        return replace(backend, communicator=lambda r: backend.communicator(replace(r, deadline=seconds)))

    return mutate


default_deadline_ignored = _plant(
    "default-deadline-is-ignored",
    "default-deadline-is-obeyed",
    "The deadline of the rendezvous is not used: a call without one waits for a built-in time.",
    _default_deadline(6.0),
)


def _hurries(name: str, call: Any, *args: Any, deadline: float | None = None, **options: Any) -> Any:
    return call(*args, deadline=0.1 if deadline is None else deadline, **options)


default_deadline_cut = _plant(
    "default-deadline-is-cut-short",
    "default-deadline-is-obeyed",
    "A call without a deadline has a tenth of a second, whatever the rendezvous says.",
    change.wrapped(_hurries, ("all_reduce", "barrier")),
)

# -- dead ranks, broken and closed communicators ---------------------------------------------------------------------


def _sits_out(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def run(name: str, call: Any, *args: Any, **options: Any) -> Any:
        begin = time.monotonic()
        try:
            return call(*args, **options)
        except CommunicatorError:
            if time.monotonic() - begin < 1.0:
                time.sleep(4.0)
            raise

    return change.around(base, run, ("all_reduce",))


dead_rank_waited_for = _plant(
    "dead-rank-is-waited-for",
    "dead-rank-is-noticed",
    "A rank that died is waited for long after the deadline.",
    change.opened(_sits_out),
)
dead_rank_unnamed = _plant(
    "dead-rank-is-not-named",
    "dead-rank-is-noticed",
    "A connection that broke is reported without the rank at its other end.",
    _tells(lambda base, error: CommunicatorError("connection closed by peer")),
)
dead_rank_misnamed = _plant(
    "dead-rank-is-misnamed",
    "dead-rank-is-noticed",
    "The rank that survived is named as the dead one.",
    _tells(lambda base, error: change.retold(error, missing=(base.rank,))),
)


def _swallows(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def run(name: str, call: Any, *args: Any, **options: Any) -> Any:
        with contextlib.suppress(CommunicatorError):
            return call(*args, **options)

    return change.around(base, run, change.COLLECTIVES)


errors_swallowed = _plant(
    "errors-are-swallowed",
    "dead-rank-is-noticed",
    "A collective that failed returns as if it had not.",
    change.opened(_swallows),
)


def _after_failure(later: Callable[[str, Any], Any], names: Any = change.EVERY) -> Callable[[Backend], Backend]:
    """Calls after a missed deadline give ``later(name, communicator)``."""

    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        broken: list[bool] = []

        def run(name: str, call: Any, *args: Any, **options: Any) -> Any:
            if broken and name in names:
                return later(name, base)
            try:
                return call(*args, **options)
            except DeadlineExceeded:
                broken.append(True)
                raise

        return change.around(base, run)

    return change.opened(wrap)


def _answers(name: str, base: Any) -> Any:
    return Verdict(True, "as if nothing had happened", {}, ()) if name == "vote" else None


def _late_refusal(name: str, base: Any) -> Any:
    time.sleep(1.5)
    raise CommunicatorError(f"{name}: nobody came.")


broken_is_reused = _plant(
    "broken-communicator-is-reused",
    "broken-stays-broken",
    "After a failed collective the next ones run as if nothing had happened.",
    _after_failure(_answers),
)
broken_votes = _plant(
    "broken-communicator-votes",
    "broken-stays-broken",
    "After a failed collective a vote still gives a verdict.",
    _after_failure(_answers, ("vote",)),
)
broken_is_tried_again = _plant(
    "broken-communicator-is-tried-again",
    "broken-stays-broken",
    "After a failed collective each further one waits again before it is refused.",
    _after_failure(_late_refusal, ("barrier",)),
)


def _after_close(later: Callable[[str, Any], Any], names: Any = change.EVERY) -> Callable[[Backend], Backend]:
    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        closed: list[bool] = []

        def run(name: str, call: Any, *args: Any, **options: Any) -> Any:
            return later(name, base) if closed and name in names else call(*args, **options)

        changed = change.around(base, run)

        def close() -> None:
            closed.append(True)
            base.close()

        return Changed(changed, close=close)

    return change.opened(wrap)


def _crashes(name: str, base: Any) -> Any:
    raise AttributeError("'NoneType' object has no attribute 'allreduce'")


closed_still_answers = _plant(
    "closed-communicator-answers",
    "closed-stays-closed",
    "Calls after `close` return as if they had run.",
    _after_close(_answers),
)
closed_barrier_passes = _plant(
    "closed-barrier-passes",
    "closed-stays-closed",
    "`barrier` after `close` returns at once, every other call is refused.",
    _after_close(_answers, ("barrier",)),
)
closed_crashes = _plant(
    "closed-communicator-crashes",
    "closed-stays-closed",
    "A call after `close` fails with an AttributeError from inside.",
    _after_close(_crashes),
)


def _closes_once(backend: Backend, base: Any, rendezvous: Any) -> Any:
    closed: list[bool] = []

    def close() -> None:
        if closed:
            raise CommunicatorError("the group was destroyed already.")
        closed.append(True)
        base.close()

    return Changed(base, close=close)


closes_only_once = _plant(
    "close-raises-the-second-time",
    "closed-stays-closed",
    "The second `close` raises.",
    change.opened(_closes_once),
)

# -- arguments -------------------------------------------------------------------------------------------------------

root_wraps_around = _plant(
    "root-wraps-around",
    "wrong-shapes-are-refused",
    "`broadcast` takes its root modulo the number of ranks.",
    change.opened(
        lambda _, base, rendezvous: Changed(
            base,
            broadcast=lambda tensor, *, src, deadline=None: base.broadcast(
                tensor, src=src % base.world_size, deadline=deadline
            ),
        )
    ),
)


def _accepts(name: str, call: Any, *args: Any, **options: Any) -> None:
    try:
        call(*args, **options)
    except CommunicatorError as error:
        if "expected tensor" not in str(error) and "counts" not in str(error):
            raise


shapes_not_checked = _plant(
    "shapes-are-not-checked",
    "wrong-shapes-are-refused",
    "A gather or scatter whose shapes or counts do not fit moves nothing and says nothing.",
    change.wrapped(_accepts, change.MOVING),
)


def _converts(name: str, call: Any, output: Any, tensor: Any, /, **options: Any) -> None:
    call(output, tensor.to(output.dtype), **options)


gather_converts = _plant(
    "gather-converts-dtypes",
    "wrong-shapes-are-refused",
    "`all_gather` converts its input to the dtype of its output without a word.",
    change.wrapped(_converts, ("all_gather",)),
)


def _breaks_when_refusing(backend: Backend, base: Any, rendezvous: Any) -> Any:
    refused: list[bool] = []

    def run(name: str, call: Any, *args: Any, **options: Any) -> Any:
        if refused:
            raise CommunicatorError("the communicator is broken since a call was refused.")
        try:
            return call(*args, **options)
        except DeadlineExceeded:
            raise
        except CommunicatorError:
            refused.append(True)
            raise

    return change.around(base, run)


refusal_breaks = _plant(
    "refusal-breaks-the-group",
    "wrong-shapes-are-refused",
    "After a call with a wrong shape was refused the communicator cannot be used any more.",
    change.opened(_breaks_when_refusing),
)


def _through_copies(name: str, call: Any, *args: Any, **options: Any) -> Any:
    dense = [arg.contiguous() if isinstance(arg, torch.Tensor) else arg for arg in args]
    return call(*dense, **options)


strided_not_written = _plant(
    "strided-output-is-not-written",
    "strided-tensors-are-refused-or-right",
    "A tensor that is not contiguous is copied, the copy gets the result, and the tensor stays as it was.",
    change.wrapped(_through_copies, change.MOVING),
)


def _as_if_dense(name: str, call: Any, *args: Any, **options: Any) -> Any:
    def flat(arg: Any) -> Any:
        if not isinstance(arg, torch.Tensor) or arg.is_contiguous():
            return arg
        return arg.as_strided(arg.shape, torch.empty(arg.shape, device="meta").stride())

    return call(*[flat(arg) for arg in args], **options)


strides_ignored = _plant(
    "strides-are-ignored",
    "strided-tensors-are-refused-or-right",
    "The storage of a gather's output is written as if it were contiguous.",
    change.wrapped(_as_if_dense, ("all_gather", "all_gather_ragged")),
)


def _hides_mismatch(backend: Backend, base: Any, rendezvous: Any) -> Any:
    """What a native library does to whom the ranks' calls look alike: it comes back."""
    hidden: list[bool] = []

    def run(name: str, call: Any, *args: Any, **options: Any) -> Any:
        if hidden:
            return None
        try:
            return call(*args, **options)
        except DeadlineExceeded:
            raise
        except CommunicatorError as error:
            if "disagree" not in str(error):
                raise
            hidden.append(True)
            return None

    return change.around(base, run, change.COLLECTIVES)


mismatch_unnoticed = _plant(
    "mismatch-is-not-noticed",
    "different-calls-are-an-error",
    "Ranks that make different calls all come back as if they had made the same.",
    change.opened(_hides_mismatch),
)


def _mismatch_told_to_one(backend: Backend, base: Any, rendezvous: Any) -> Any:
    return _hides_mismatch(backend, base, rendezvous) if base.rank else base


mismatch_told_to_rank_0 = _plant(
    "mismatch-is-told-to-rank-0-only",
    "different-calls-are-an-error",
    "Of ranks that make different calls only rank 0 is told.",
    change.opened(_mismatch_told_to_one),
)


def _root_uncompared(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def broadcast(tensor: Any, /, *, src: int, deadline: float | None = None) -> None:
        if not 0 <= src < base.world_size:
            base.broadcast(tensor, src=src, deadline=deadline)
            return
        every = torch.empty((base.world_size, *tensor.shape), dtype=tensor.dtype, device=tensor.device)
        base.all_gather(every.view(-1), tensor.view(-1), deadline=deadline)
        tensor.copy_(every[src])

    return Changed(base, broadcast=broadcast)


roots_not_compared = _plant(
    "roots-are-not-compared",
    "different-calls-are-an-error",
    "Ranks that broadcast from different roots each get what they asked for.",
    change.opened(_root_uncompared),
)

# -- votes -----------------------------------------------------------------------------------------------------------


def _verdicts(judge: Callable[[Any, Verdict, bool], Verdict]) -> Callable[[Backend], Backend]:
    """The verdict that a rank gets is ``judge(communicator, true verdict, own ballot)``."""

    def wrap(backend: Backend, base: Any, rendezvous: Any) -> Any:
        def vote(ok: bool, subject: str, **options: Any) -> Verdict:
            return judge(base, base.vote(ok, subject, **options), ok)

        return Changed(base, vote=vote)

    return change.opened(wrap)


def _majority(base: Any, verdict: Verdict, ok: bool) -> Verdict:
    against = len(verdict.objections) + len(verdict.missing)
    return replace(verdict, unanimous=against * 2 < base.world_size)


vote_by_majority = _plant(
    "vote-by-majority",
    "vote-needs-every-yes",
    "A vote passes when more than half of the ranks say yes.",
    _verdicts(_majority),
)
vote_of_rank_0 = _plant(
    "vote-of-rank-0",
    "vote-needs-every-yes",
    "Rank 0 decides for all.",
    _verdicts(lambda base, verdict, ok: replace(verdict, unanimous=0 not in verdict.objections)),
)
vote_loses_reason = _plant(
    "vote-loses-the-reason",
    "vote-needs-every-yes",
    "An objection says that a rank said no, and not why.",
    _verdicts(lambda base, v, ok: replace(v, objections=dict.fromkeys(v.objections, "said no"))),
)
vote_loses_names = _plant(
    "vote-names-no-objector",
    "vote-needs-every-yes",
    "A vote that failed does not say who objected.",
    _verdicts(lambda base, verdict, ok: replace(verdict, objections={})),
)
vote_differs = _plant(
    "vote-tells-each-its-own",
    "vote-needs-every-yes",
    "A rank that said yes is not told about another's no.",
    _verdicts(lambda base, v, ok: replace(v, unanimous=True, objections={}) if ok and base.rank % 2 else v),
)
vote_names_wrong_rank = _plant(
    "vote-names-the-next-rank",
    "vote-needs-every-yes",
    "An objection is put down to the rank after the one that made it.",
    _verdicts(
        lambda base, v, ok: replace(
            v, objections={(rank + 1) % base.world_size: text for rank, text in v.objections.items()}
        )
    ),
)


def _ignores_digest(name: str, call: Any, *args: Any, digest: str = "", **options: Any) -> Any:
    return call(*args, **options)


vote_ignores_digest = _plant(
    "vote-ignores-digests",
    "vote-needs-every-yes",
    "Digests are not compared.",
    change.wrapped(_ignores_digest, ("vote",)),
)


def _bare_barrier(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def vote(ok: bool, subject: str, *, reason: str = "", digest: str = "", deadline: float | None = None) -> Verdict:
        base.barrier(deadline=deadline)
        return Verdict(ok, subject, {} if ok else {base.rank: reason}, ())

    return Changed(base, vote=vote)


vote_is_a_barrier = _plant(
    "vote-is-a-barrier",
    "vote-needs-every-yes",
    "A vote is a barrier: every rank learns that all are there, and only its own answer.",
    change.opened(_bare_barrier),
)


def _raises_at_no(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def vote(ok: bool, subject: str, **options: Any) -> Verdict:
        verdict: Verdict = base.vote(ok, subject, **options)
        if not verdict.unanimous:
            raise CommunicatorError(f"the vote on {subject!r} failed: {verdict.objections or verdict.missing}.")
        return verdict

    return Changed(base, vote=vote)


vote_raises_at_no = _plant(
    "vote-raises-at-a-no",
    "vote-needs-every-yes",
    "A vote that is not unanimous raises.",
    change.opened(_raises_at_no),
)
absent_vote_raises = _plant(
    "absent-voter-is-an-error",
    "vote-names-who-is-absent",
    "A vote is a barrier first: an absent rank is an error instead of a verdict.",
    change.opened(_bare_barrier),
)
absent_rank_agrees = _plant(
    "absent-voter-agrees",
    "vote-names-who-is-absent",
    "A rank that does not come counts as a yes.",
    _verdicts(lambda base, v, ok: replace(v, unanimous=not v.objections, missing=())),
)
absent_rank_unnamed = _plant(
    "absent-voter-is-not-named",
    "vote-names-who-is-absent",
    "A vote without a rank fails, and does not say which one was absent.",
    _verdicts(lambda base, v, ok: replace(v, missing=())),
)
vote_waits_on = _plant(
    "vote-ignores-its-deadline",
    "vote-names-who-is-absent",
    "A vote waits as long as the rendezvous allows, whatever its own deadline is.",
    change.wrapped(_another_deadline(lambda deadline: None, ("vote",)), ("vote",)),
)
vote_does_not_wait = _plant(
    "vote-does-not-wait",
    "vote-names-who-is-absent",
    "A vote gives up after a twentieth of its deadline.",
    change.wrapped(_another_deadline(lambda deadline: deadline / 20, ("vote",)), ("vote",)),
)
late_voter_agrees = _plant(
    "late-voter-hears-its-own-yes",
    "vote-names-who-is-absent",
    "A rank that votes after the decision is told yes, while the others were told no.",
    _verdicts(
        lambda base, v, ok: replace(v, unanimous=True, missing=()) if base.rank in v.missing and not v.objections else v
    ),
)
