"""All-to-alls with a fault, and one that is different and right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hardpoint.backend import Backend
from hardpoint.conformance.mutant import LegalVariant, Mutant
from hardpoint.conformance.mutants import _communicator as change
from hardpoint.errors import CollectiveMismatch, CommunicatorError, DeadlineExceeded

ONLY = ("all_to_all",)


def _plant(name: str, law: str, statement: str, mutate: Callable[[Backend], Backend]) -> Mutant:
    return Mutant(f"all_to_all.{name}", f"all_to_all.{law}", "all_to_all", statement, mutate)


def _afterwards(spoil: Callable[[Any, Any, list[int], list[int]], None]) -> Callable[[Backend], Backend]:
    """All is done as it should be, and then ``spoil(output, tensor, sent, received)``."""

    def run(name: str, call: Any, output: Any, tensor: Any, sent: Any, received: Any, **options: Any) -> None:
        call(output, tensor, sent, received, **options)
        spoil(output, tensor, list(sent), list(received))

    return change.wrapped(run, ONLY)


def _reversed(output: Any, tensor: Any, sent: list[int], received: list[int]) -> None:
    change.rearrange(output, change.rows(output, received)[::-1])


def _by_own_counts(output: Any, tensor: Any, sent: list[int], received: list[int]) -> None:
    """The rows of the last sender lie one row early: the loop that places them took this rank's own counts."""
    if sent != received and output.shape[0] > 1:
        change.rearrange(output, [output[1:], output[:1]])


def _drops_last(output: Any, tensor: Any, sent: list[int], received: list[int]) -> None:
    if output.shape[0]:
        output[-1:].zero_()


def _zeroes_input(output: Any, tensor: Any, sent: list[int], received: list[int]) -> None:
    tensor.zero_()


order = _plant(
    "order-of-senders-reversed",
    "rows-go-where-they-are-sent",
    "What came from the last rank lies first.",
    _afterwards(_reversed),
)
own_counts = _plant(
    "places-by-what-it-sends",
    "rows-go-where-they-are-sent",
    "Rows are placed by the counts that this rank sends, which is right only while counts are symmetric.",
    _afterwards(_by_own_counts),
)
last_row = _plant(
    "last-row-lost",
    "rows-go-where-they-are-sent",
    "The last row of the last sender is not received.",
    _afterwards(_drops_last),
)
input_spoiled = _plant(
    "input-used-as-scratch",
    "rows-go-where-they-are-sent",
    "The tensor that is sent is zero afterwards.",
    _afterwards(_zeroes_input),
)


def _halves(name: str, call: Any, output: Any, tensor: Any, sent: Any, received: Any, **options: Any) -> None:
    if tensor.dtype.itemsize == 2:
        call(output, tensor.abs() if tensor.dtype.is_floating_point else tensor, sent, received, **options)
        return
    if tensor.dtype.itemsize == 1:  # through a wider type, in which the sign is another
        output.zero_()
        return
    call(output, tensor, sent, received, **options)


bytes_lost = _plant(
    "bytes-do-not-travel",
    "rows-go-where-they-are-sent",
    "Dtypes of one byte are not carried: the output is zero.",
    change.wrapped(_halves, ONLY),
)


def _empty(name: str, call: Any, output: Any, tensor: Any, sent: Any, received: Any, **options: Any) -> None:
    if not output.numel():
        raise CommunicatorError("all_to_all: nothing to receive")
    call(output, tensor, sent, received, **options)


empty_refused = _plant(
    "a-rank-without-rows-is-refused",
    "rows-go-where-they-are-sent",
    "A rank to which nobody sends may not take part.",
    change.wrapped(_empty, ONLY),
)

other_stream = _plant(
    "runs-ahead-of-the-stream",
    "follows-the-stream",
    "It runs on a stream of its own, which does not wait for the caller's.",
    change.on_own_stream(waits_before=False, waits_after=True, names=ONLY),
)
not_waited_for = _plant(
    "is-not-waited-for",
    "follows-the-stream",
    "It runs on a stream of its own, which the caller's does not wait for.",
    change.on_own_stream(waits_before=True, waits_after=False, names=ONLY),
)


def _accepts(name: str, call: Any, output: Any, tensor: Any, sent: Any, received: Any, **options: Any) -> None:
    try:
        call(output, tensor, sent, received, **options)
    except (CollectiveMismatch, DeadlineExceeded):
        raise
    except CommunicatorError:
        return


misfits_accepted = _plant(
    "counts-that-do-not-fit-are-ignored",
    "counts-fit-the-tensors",
    "Counts that do not fit the tensors are no error: nothing is moved.",
    change.wrapped(_accepts, ONLY),
)


def _breaks(backend: Backend, base: Any, rendezvous: Any) -> Any:
    broken: list[str] = []

    def run(name: str, call: Any, *args: Any, **options: Any) -> None:
        if broken:
            raise CommunicatorError(f"broken since {broken[0]}")
        try:
            call(*args, **options)
        except CommunicatorError as error:
            broken.append(str(error))
            raise

    return change.around(base, run, ONLY)


refusal_breaks = _plant(
    "a-refusal-breaks-it",
    "counts-fit-the-tensors",
    "After counts that do not fit, nothing is taken any more.",
    change.opened(_breaks),
)


def _silent(name: str, call: Any, *args: Any, **options: Any) -> None:
    try:
        call(*args, **options)
    except CollectiveMismatch:
        return


mismatch_hidden = _plant(
    "mismatch-is-hidden",
    "ranks-that-expect-other-rows-are-told",
    "Ranks that disagree about counts go on as if nothing were wrong.",
    change.wrapped(_silent, ONLY),
)


def _writes_first(name: str, call: Any, output: Any, tensor: Any, sent: Any, received: Any, **options: Any) -> None:
    try:
        call(output, tensor, sent, received, **options)
    except CollectiveMismatch:
        output.zero_()
        raise


written_first = _plant(
    "output-is-cleared-first",
    "ranks-that-expect-other-rows-are-told",
    "The output is cleared before the counts are compared.",
    change.wrapped(_writes_first, ONLY),
)


def _no_deadline(name: str, call: Any, *args: Any, deadline: float | None = None, **options: Any) -> None:
    call(*args, **options)


deadline_ignored = _plant(
    "deadline-is-ignored",
    "deadline-is-obeyed",
    "The deadline of the call is not looked at; that of the rendezvous holds.",
    change.wrapped(_no_deadline, ONLY),
)


def _names_nobody(name: str, call: Any, *args: Any, **options: Any) -> None:
    try:
        call(*args, **options)
    except DeadlineExceeded as error:
        raise change.retold(error, missing=()) from error


nobody_named = _plant(
    "names-nobody",
    "deadline-is-obeyed",
    "The error of a missed deadline does not say which rank was absent.",
    change.wrapped(_names_nobody, ONLY),
)


def _through_copies(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def run(name: str, call: Any, output: Any, tensor: Any, sent: Any, received: Any, **options: Any) -> None:
        backend.device.synchronize(rendezvous.device_index)
        result = output.clone()
        call(result, tensor.clone(), sent, received, **options)
        output.copy_(result)
        backend.device.synchronize(rendezvous.device_index)

    return change.around(base, run, ONLY)


legal_variants = (
    LegalVariant(
        "all_to_all.through-copies",
        "all_to_all",
        "It works on copies, and waits for the device before and after: slower, and the same to the caller.",
        change.opened(_through_copies),
    ),
)
