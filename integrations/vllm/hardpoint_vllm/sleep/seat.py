"""`Seat`: the `Lifecycle` of one worker process, made at the first call, when every worker is there to vote."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from hardpoint.backend import Backend
from hardpoint.errors import LifecycleError
from hardpoint.lifecycle import (
    Account,
    AloneVoter,
    Deadlines,
    Health,
    Lifecycle,
    LifecycleParts,
    MemoryMap,
    StoreVoter,
)
from hardpoint_vllm.sleep import settings
from hardpoint_vllm.sleep.host import WorkerHost
from hardpoint_vllm.sleep.memory import KV_CACHE, TAGS


@dataclass(frozen=True)
class Call:
    """What the engine core asks of every worker: the same object for all of them.

    Attributes:
        name: ``"sleep"``, ``"wake"``, ``"committed"`` or ``"look"``.
        op_id: number of the call; never used twice in the life of an engine.
        store: ``"host:port"`` of the store that the engine core serves for the votes.
        tags: as in vLLM; None for all.
        level: of a sleep.
    """

    name: str
    op_id: int
    store: str
    tags: tuple[str, ...] | None = None
    level: int = 1


@dataclass(frozen=True)
class Answer:
    """What a worker says after a call; `sentence` is empty if the call did what was asked.

    Attributes:
        sentence: why it was not done.
        health: fields of `hardpoint.lifecycle.Health`; empty before the first call.
        account: of this call; None if it did not come to a `Lifecycle`.
    """

    sentence: str
    health: dict[str, Any]
    account: Account | None = None


class Seat:
    """Sleep and wake of the worker that it was made for."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._lifecycle: Lifecycle | None = None
        self._voter: StoreVoter | None = None

    def carry_out(self, call: Call) -> None:
        """Do it together with the other workers. LifecycleError, with rank and step, if it was not done."""
        if call.name == "look":
            return
        lifecycle = self._ready(call)
        if self._voter is not None:
            self._voter.begin(call.op_id)
        if call.name == "sleep":
            lifecycle.sleep(call.tags, level=call.level, op_id=call.op_id)
        elif call.name == "wake":
            lifecycle.wake(call.tags, op_id=call.op_id)
        elif call.name == "committed":
            lifecycle.committed(call.tags, op_id=call.op_id)
        else:
            raise LifecycleError(f"a worker can sleep, wake, be committed or be looked at; found {call.name!r}")

    def health(self) -> Health | None:
        """None before the first call: nothing is known to be wrong, and nobody was asked."""
        return self._lifecycle.health() if self._lifecycle else None

    def account(self, op_id: int) -> Account | None:
        """What operation `op_id` cost here; None if it is not the last one that came to its end."""
        account = self._lifecycle.account() if self._lifecycle else None
        return account if account is not None and account.op_id == op_id else None

    def _ready(self, call: Call) -> Lifecycle:
        if self._lifecycle is None:
            import hardpoint

            backend = hardpoint.get_backend()
            memory = memory_of(self._worker, backend)
            for tag in TAGS:  # known from the start; the tensors follow with each sleep
                memory.adopt(tag, {})
            wait = settings.step_seconds()
            self._voter = self._open(call.store, wait)
            self._lifecycle = Lifecycle(
                LifecycleParts(
                    memory=memory,
                    device=backend.device,
                    device_index=self._worker.device.index or 0,
                    voter=self._voter or AloneVoter(),
                    host=WorkerHost(self._worker, memory),
                    deadlines=Deadlines(steps=wait),
                    volatile=frozenset({KV_CACHE}),
                    keep_copies=settings.keeps_copies(),
                )
            )
        return self._lifecycle

    @staticmethod
    def _open(address: str, wait: float) -> StoreVoter | None:
        """The vote of this engine's workers: tensor and pipeline ranks, not other engines, which sleep on their own."""
        import torch.distributed as dist
        from vllm.distributed.parallel_state import get_pp_group, get_tp_group

        tp, pp = get_tp_group(), get_pp_group()
        world, rank = tp.world_size * pp.world_size, pp.rank_in_group * tp.world_size + tp.rank_in_group
        if world == 1:
            return None
        host, _, port = address.rpartition(":")
        try:
            store = dist.TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=wait))  # type: ignore[attr-defined]
        except RuntimeError as error:
            raise LifecycleError(
                f"rank {rank}: the store of the sleep votes, which the engine core serves at {address}, cannot be "
                f"reached: {str(error).splitlines()[0]}"
            ) from error
        return StoreVoter(store, rank, world)


def memory_of(worker: Any, backend: Backend) -> MemoryMap:
    """Where the worker's weights and caches lie: in vLLM's own allocator on CUDA, in the backend's part elsewhere."""
    if backend.info.device_type != "cuda":
        return backend.memory_map
    from hardpoint_vllm.sleep.cumem import memory_map

    return memory_map(worker, backend)


def seat_of(worker: Any) -> Seat:
    """The seat of a worker, the same one on every call."""
    worker = getattr(worker, "worker", worker)  # executors hold a wrapper that passes reads on, but not writes
    seat: Seat | None = worker.__dict__.get("hardpoint_seat")
    if seat is None:
        seat = worker.__dict__["hardpoint_seat"] = Seat(worker)
    return seat


def carry_out(worker: Any, call: Call) -> Answer:
    """Runs in each worker. Answers instead of raising: see `hardpoint_vllm.sleep.core`."""
    seat = seat_of(worker)
    sentence = ""
    try:
        seat.carry_out(call)
    except Exception as error:  # noqa: BLE001 - handed to the engine core, which raises it
        sentence = str(error) if isinstance(error, LifecycleError) else f"{type(error).__name__}: {error}"
    health = seat.health()
    return Answer(sentence, {} if health is None else asdict(health), seat.account(call.op_id))
