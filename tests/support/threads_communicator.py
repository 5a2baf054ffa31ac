"""The `Communicator` protocol between threads of one process: the steps of a session without the cost of processes.

Only what weight sync uses. Real processes and torch.distributed are in the tests that spawn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from hardpoint.communicator import Verdict
from hardpoint.errors import CommunicatorError, DeadlineExceeded


@dataclass
class Hub:
    """What the ranks share. A step is keyed by its sequence number."""

    world_size: int
    condition: threading.Condition = field(default_factory=threading.Condition)
    steps: dict[int, dict[int, Any]] = field(default_factory=dict)
    final: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def meet(self, sequence: int, rank: int, brought: Any, deadline: float) -> tuple[dict[int, Any], tuple[int, ...]]:
        """What each rank brought to step `sequence`, and the ranks that did not come in time (same answer for all)."""
        end = time.monotonic() + deadline
        with self.condition:
            arrived = self.steps.setdefault(sequence, {})
            if sequence not in self.final:
                arrived[rank] = brought
            self.condition.notify_all()
            while len(arrived) < self.world_size and sequence not in self.final:
                left = end - time.monotonic()
                if left <= 0:
                    self.final[sequence] = tuple(r for r in range(self.world_size) if r not in arrived)
                    self.condition.notify_all()
                    break
                self.condition.wait(left)
            return dict(arrived), self.final.get(sequence, ())


class ThreadsCommunicator:
    """One rank of a `Hub`. `on_broadcast(index, tensor)` may raise, sleep or change what arrives (fault injection)."""

    def __init__(
        self,
        hub: Hub,
        rank: int,
        *,
        deadline: float = 5.0,
        on_broadcast: Callable[[int, torch.Tensor], None] | None = None,
    ) -> None:
        self._hub = hub
        self._deadline = deadline
        self._on_broadcast = on_broadcast
        self._broken = False
        self._broadcasts = 0
        self.rank = rank
        self.sequence = 0

    @property
    def world_size(self) -> int:
        return self._hub.world_size

    def broadcast(self, tensor: torch.Tensor, /, *, src: int, deadline: float | None = None) -> None:
        brought = tensor.clone() if self.rank == src else (tuple(tensor.shape), tensor.dtype)
        arrived = self._meet("broadcast", brought, deadline)
        if self.rank != src:
            if arrived[src].shape != tensor.shape:
                self._broken = True
                raise CommunicatorError(f"broadcast of {tuple(arrived[src].shape)} into {tuple(tensor.shape)}")
            tensor.copy_(arrived[src])
        index, self._broadcasts = self._broadcasts, self._broadcasts + 1
        if self._on_broadcast is not None:
            self._on_broadcast(index, tensor)

    def vote(
        self, ok: bool, subject: str, *, reason: str = "", digest: str = "", deadline: float | None = None
    ) -> Verdict:
        self._check()
        sequence, self.sequence = self.sequence, self.sequence + 1
        limit = self._deadline if deadline is None else deadline
        arrived, missing = self._hub.meet(sequence, self.rank, (ok, subject, reason, digest), limit)
        objections = {rank: text or "objects" for rank, (yes, _, text, _) in arrived.items() if not yes}
        first = min(arrived)
        for rank, (_, other_subject, _, other_digest) in arrived.items():
            if other_subject != arrived[first][1]:
                objections.setdefault(rank, f"votes on {other_subject}, rank {first} on {arrived[first][1]}")
            if other_digest and arrived[first][3] and other_digest != arrived[first][3]:
                objections.setdefault(rank, f"digest {other_digest}, rank {first} has {arrived[first][3]}")
        return Verdict(not objections and not missing, subject, objections, missing)

    def _meet(self, op: str, brought: Any, deadline: float | None) -> dict[int, Any]:
        self._check()
        sequence, self.sequence = self.sequence, self.sequence + 1
        limit = self._deadline if deadline is None else deadline
        arrived, missing = self._hub.meet(sequence, self.rank, brought, limit)
        if missing:
            self._broken = True
            raise DeadlineExceeded(
                f"{op} number {sequence}: ranks {missing} did not arrive within {limit} s",
                op=op,
                sequence=sequence,
                missing=missing,
                deadline=limit,
            )
        return arrived

    def _check(self) -> None:
        if self._broken:
            raise CommunicatorError("an earlier collective failed; this communicator cannot be used again")
