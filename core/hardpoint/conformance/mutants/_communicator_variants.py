"""Communicators that keep every law in another way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from hardpoint.backend import Backend
from hardpoint.communicator.protocol import Rendezvous, Verdict
from hardpoint.conformance.mutant import LegalVariant
from hardpoint.conformance.mutants import _communicator as change
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.errors import CollectiveMismatch, CommunicatorError, DeadlineExceeded

_DTYPES = (torch.float32, torch.int32, torch.float64, torch.int64, torch.bfloat16)


def _legal(name: str, statement: str, mutate: Callable[[Backend], Backend]) -> LegalVariant:
    return LegalVariant(f"communicator.{name}", "communicator", statement, mutate)


def _synchronises(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def run(name: str, call: Any, *args: Any, **options: Any) -> None:
        backend.device.synchronize(rendezvous.device_index)
        call(*args, **options)
        backend.device.synchronize(rendezvous.device_index)

    return change.around(base, run, change.MOVING)


def _takes_its_time(name: str, call: Any, *args: Any, **options: Any) -> Any:
    time.sleep(0.01)
    return call(*args, **options)


def _as_bytes(name: str, call: Any, *args: Any, **options: Any) -> Any:
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    # What is to be refused is refused as it is; counts are rows, so a row stays a row.
    if len({t.dtype for t in tensors}) > 1 or not all(t.is_contiguous() and t.dim() for t in tensors):
        return call(*args, **options)
    if not all(t.numel() for t in tensors) and "ragged" not in name:
        return call(*args, **options)
    return call(*[_bytes(arg) if isinstance(arg, torch.Tensor) else arg for arg in args], **options)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    data = tensor.reshape(*tensor.shape, 1).view(torch.uint8)
    # Further axes stand for the dtype, so that ranks that disagree about it are still told.
    return data.reshape(*data.shape, *[1] * (_DTYPES.index(tensor.dtype) if tensor.dtype in _DTYPES else 5))


class _Compared(Changed):
    """Every collective is preceded by a vote, on a group of its own, on what the collective is."""

    def __init__(self, base: Any, judge: Any, rendezvous: Rendezvous) -> None:
        super().__init__(base)
        self._judge = judge
        self._default = rendezvous.deadline
        self._number = 0
        self._refusal = ""
        for name in change.COLLECTIVES:
            setattr(self, name, lambda *args, name=name, **options: self._step(name, *args, **options))

    @property
    def sequence(self) -> int:
        return self._number

    def vote(self, ok: bool, subject: str, **options: Any) -> Verdict:
        self._usable()
        verdict: Verdict = self._base.vote(ok, subject, **options)
        self._number += 1
        return verdict

    def close(self) -> None:
        self._judge.close()
        self._base.close()

    def _usable(self) -> None:
        if self._refusal:
            raise CommunicatorError(f"an earlier call failed: {self._refusal}")

    def _step(self, called: str, /, *args: Any, deadline: float | None = None, **options: Any) -> None:
        self._usable()
        seconds = self._default if deadline is None else deadline
        number, self._number = self._number, self._number + 1
        shapes = [
            f"{arg.dtype} {list(arg.shape)[1:]} {arg.numel() if called == 'all_reduce' else ''}"
            for arg in args
            if isinstance(arg, torch.Tensor)
        ]
        try:
            verdict = self._judge.vote(
                True, "the next collective", digest=f"{called} {shapes} {options}", deadline=seconds
            )
            if verdict.missing:
                raise DeadlineExceeded(
                    f"{called}, call number {number}: "
                    + ", ".join(f"rank {rank} did not come" for rank in verdict.missing),
                    op=called,
                    sequence=number,
                    missing=verdict.missing,
                    deadline=seconds,
                )
            if not verdict.unanimous:
                raise CollectiveMismatch(f"{called}, call number {number}: the ranks differ: {verdict.objections}")
        except CommunicatorError as error:
            self._refusal = str(error)
            raise
        self.carry(called, *args, deadline=seconds, **options)

    def carry(self, called: str, /, *args: Any, **options: Any) -> None:
        getattr(self._base, called)(*args, **options)


class _Gathering(_Compared):
    """Reduces by gathering what all ranks have and adding it up in rank order, the same way on each."""

    def carry(self, called: str, /, *args: Any, **options: Any) -> None:
        if called != "all_reduce" or options.get("op", "sum") not in ("sum", "max") or not args[0].is_contiguous():
            super().carry(called, *args, **options)
            return
        tensor = args[0]
        every = torch.empty((self._base.world_size, tensor.numel()), dtype=tensor.dtype, device=tensor.device)
        self._base.all_gather(every.view(-1), tensor.view(-1), deadline=options["deadline"])
        result = every[0].clone()
        for part in every[1:]:
            result = torch.maximum(result, part) if options.get("op") == "max" else result + part
        tensor.copy_(result.view(tensor.shape))


def _beside(kind: type[_Compared]) -> Callable[[Backend], Backend]:
    def mutate(backend: Backend) -> Backend:
        def factory(rendezvous: Rendezvous) -> Any:
            base = backend.communicator(rendezvous)
            return kind(base, backend.communicator(replace(rendezvous, name=f"{rendezvous.name}/compare")), rendezvous)

        return replace(backend, communicator=factory)

    return mutate


def _elsewhere(backend: Backend) -> Backend:
    def factory(rendezvous: Rendezvous) -> Any:
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # torch exports it lazily

        place = PrefixStore(f"v2/{rendezvous.name}", rendezvous.store)
        return backend.communicator(replace(rendezvous, store=place, name=f"{rendezvous.name}#2"))

    return replace(backend, communicator=factory)


def _padded_gather(backend: Backend, base: Any, rendezvous: Any) -> Any:
    """Ragged rows travel with a row of padding that is cut off again."""

    def all_gather_ragged(output: Any, tensor: Any, /, counts: Any, *, deadline: float | None = None) -> None:
        fits = len(counts) == base.world_size and min(counts) >= 0 and output.dtype == tensor.dtype
        fits = fits and output.dim() and output.shape[0] == sum(counts) and tensor.shape[0] == counts[base.rank]
        if not fits or not (output.is_contiguous() and tensor.is_contiguous()):
            base.all_gather_ragged(output, tensor, counts, deadline=deadline)
            return
        longer = [count + 1 for count in counts]
        padded = torch.zeros((tensor.shape[0] + 1, *tensor.shape[1:]), device=tensor.device).to(tensor.dtype)
        padded[: tensor.shape[0]] = tensor
        every = torch.zeros((sum(longer), *tensor.shape[1:]), device=tensor.device).to(tensor.dtype)
        base.all_gather_ragged(every, padded, longer, deadline=deadline)
        for place, piece in zip(change.rows(output, counts), change.rows(every, longer), strict=True):
            place.copy_(piece[:-1])

    return Changed(base, all_gather_ragged=all_gather_ragged)


def _says_more(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def vote(ok: bool, subject: str, **options: Any) -> Verdict:
        verdict: Verdict = base.vote(ok, subject, **options)
        told = {rank: f"[{rendezvous.name}] rank {rank}: {text}" for rank, text in verdict.objections.items()}
        return replace(verdict, objections=told)

    return Changed(base, vote=vote)


VARIANTS = (
    _legal(
        "synchronises",
        "The host waits for the device before and after every collective: more synchronisation than asked for.",
        change.opened(_synchronises),
    ),
    _legal(
        "runs-beside",
        "Collectives run on a stream of their own, which waits for the caller's and is waited for.",
        change.on_own_stream(waits_before=True, waits_after=True),
    ),
    _legal(
        "moves-bytes",
        "What only moves travels as bytes in every dtype.",
        change.wrapped(_as_bytes, ("broadcast", "all_gather", "all_gather_ragged")),
    ),
    _legal(
        "votes-first",
        "Every collective is preceded by a vote on a second group, in which the ranks compare their calls.",
        _beside(_Compared),
    ),
    _legal(
        "reduces-by-gathering",
        "`all_reduce` gathers and then adds up in rank order on every rank.",
        _beside(_Gathering),
    ),
    _legal(
        "pads-ragged-rows",
        "Ragged rows travel padded, and the padding is cut off on arrival.",
        change.opened(_padded_gather),
    ),
    _legal(
        "meets-elsewhere",
        "The ranks meet under a prefix and a name of their own on the same store.",
        _elsewhere,
    ),
    _legal(
        "says-more",
        "Objections carry more than the reason: group and rank, alike on every rank.",
        change.opened(_says_more),
    ),
    _legal(
        "takes-its-time",
        "Every call takes 10 ms longer.",
        change.wrapped(_takes_its_time),
    ),
)
