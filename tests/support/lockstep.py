"""Ranks as threads whose collectives meet exactly: a hang is found the moment that nobody can go on, without a clock.

Like a library with fixed sizes: ranks meet call by call, and calls that differ in op or shape never end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch


class Hang(Exception):
    """The ranks wait for each other for ever."""


class Lockstep:
    """What the ranks of one world share."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self._condition = threading.Condition()
        self._waiting: dict[int, tuple[tuple[Any, ...], Any]] = {}
        self._ended: set[int] = set()
        self._rounds: dict[int, list[Any]] = {}
        self._round = 0
        self._hang: str | None = None

    def run(self, program: Callable[[LockstepRank], Any]) -> list[Any]:
        """`program` on every rank; what each returned.

        Raises:
            Hang: the ranks parted.
        """
        answers: list[Any] = [None] * self.world_size

        def work(rank: int) -> None:
            try:
                answers[rank] = program(LockstepRank(self, rank))
            except BaseException as error:  # noqa: BLE001 - raised again below
                answers[rank] = error
            with self._condition:
                self._ended.add(rank)
                self._look()

        threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(self.world_size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    def meet(self, rank: int, call: tuple[Any, ...], brought: Any) -> list[Any]:
        """What every rank brought to this call."""
        with self._condition:
            number = self._round
            self._waiting[rank] = (call, brought)
            self._look()
            while self._round == number and self._hang is None:
                self._condition.wait(30)
            if self._round == number:
                raise Hang(self._hang or "waited too long")
            return self._rounds[number]

    def _look(self) -> None:
        """Complete the round, or find that nobody can go on. The condition is held."""
        if len(self._waiting) + len(self._ended) < self.world_size or not self._waiting:
            return
        calls = {call for call, _ in self._waiting.values()}
        if self._ended or len(calls) > 1:
            said = ", ".join(f"rank {rank} in {call}" for rank, (call, _) in sorted(self._waiting.items()))
            self._hang = f"{said}; ended: {sorted(self._ended)}"
        else:
            self._rounds[self._round] = [self._waiting[rank][1] for rank in range(self.world_size)]
            self._rounds.pop(self._round - 2, None)
            self._waiting.clear()
            self._round += 1
        self._condition.notify_all()


class LockstepRank:
    """The collectives of one rank; the part of `Communicator` that an engine's step needs."""

    def __init__(self, hub: Lockstep, rank: int) -> None:
        self._hub, self.rank, self.world_size = hub, rank, hub.world_size

    def all_gather(self, output: torch.Tensor, tensor: torch.Tensor, /, *, deadline: float | None = None) -> None:
        rows = self._hub.meet(self.rank, ("all_gather", tuple(tensor.shape)), tensor.clone())
        torch.cat(rows, out=output)

    def all_gather_ragged(
        self, output: torch.Tensor, tensor: torch.Tensor, /, counts: Sequence[int], *, deadline: float | None = None
    ) -> None:
        assert tensor.shape[0] == counts[self.rank]
        rows = self._hub.meet(self.rank, ("all_gather_ragged", tuple(counts)), tensor.clone())
        torch.cat(rows, out=output)

    def reduce_scatter_ragged(
        self, output: torch.Tensor, tensor: torch.Tensor, /, counts: Sequence[int], *, op: str = "sum",
        deadline: float | None = None,
    ) -> None:  # fmt: skip
        assert tensor.shape[0] == sum(counts)
        parts = self._hub.meet(self.rank, ("reduce_scatter_ragged", tuple(counts)), tensor.clone())
        start = sum(counts[: self.rank])
        output.copy_(torch.stack(parts).sum(0)[start : start + counts[self.rank]])

    def reduce_scatter(
        self, output: torch.Tensor, tensor: torch.Tensor, /, *, op: str = "sum", deadline: float | None = None
    ) -> None:
        parts = self._hub.meet(self.rank, ("reduce_scatter", tuple(tensor.shape)), tensor.clone())
        rows = output.shape[0]
        output.copy_(torch.stack(parts).sum(0)[self.rank * rows : (self.rank + 1) * rows])
