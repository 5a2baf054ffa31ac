"""What one rank of a field report does; importable, so that spawned processes find it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from hardpoint.communicator import Communicator, Rendezvous
from hardpoint.dp import DpPlan
from hardpoint.lifecycle import Deadlines, IdleHost, LifecycleParts
from hardpoint_sim.backend import build
from support import field_report_faults

# -- FR4 ---------------------------------------------------------------------------------------------------------------

HIDDEN = 16


def tokens_of(rank: int, count: int) -> torch.Tensor:
    """`count` rows of hidden states that no other rank has, on the host."""
    return (torch.arange(count * HIDDEN, dtype=torch.float32) + 1000.0 * (rank + 1)).reshape(count, HIDDEN)


def _refusal(call: Callable[[], None]) -> tuple[str, str, float]:
    """Kind and text of the error that `call` raises, and the seconds until then; two empty texts if none."""
    began = time.monotonic()
    try:
        call()
    except Exception as error:  # noqa: BLE001 - the test judges what was raised
        return type(error).__name__, str(error), time.monotonic() - began
    return "", "", time.monotonic() - began


def unequal_counts(store: Any, rank: int, world: int, counts: tuple[int, ...]) -> dict[str, Any]:
    """Ranks that bring `counts` rows: into an equal-size collective, padded by the plan, and into a ragged one."""
    backend = build({"devices": 1})

    def group(name: str) -> Communicator:
        return backend.communicator(Rendezvous(store, rank, world, name=name, deadline=60.0))

    mine = tokens_of(rank, counts[rank]).to("sim:0")
    own = len(mine)
    unpadded = group("unpadded")
    found: dict[str, Any] = {
        "unpadded": _refusal(lambda: unpadded.all_gather(torch.empty(own * world, HIDDEN, device="sim:0"), mine)),
        "after": _refusal(lambda: unpadded.barrier()),
    }
    unpadded.close()
    whole = group("padded")
    one_output = torch.empty(max(own, 1), HIDDEN, device="sim:0")
    found["one output"] = _refusal(lambda: whole.all_gather(one_output, mine))
    seen = torch.zeros(world, dtype=torch.int32, device="sim:0")
    whole.all_gather(seen, torch.tensor([own], dtype=torch.int32).to("sim:0"))
    plan: DpPlan = backend.dp_rule.plan(seen.tolist(), tp=2, expert_parallel=True)
    gathered = torch.empty(sum(plan.num_padded_tokens), HIDDEN, device="sim:0")
    whole.all_gather(gathered, plan.pad(mine, rank))
    found["plan"] = (plan.num_actual_tokens, plan.num_padded_tokens, plan.dummy_forward)
    found["padded"] = plan.unpad_gathered(gathered).cpu()
    ragged = torch.empty(sum(counts), HIDDEN, device="sim:0")
    whole.all_gather_ragged(ragged, mine, counts)
    found["ragged"] = ragged.cpu()
    whole.close()
    return found


def unequal_counts_by_torch(store: Any, rank: int, world: int, counts: tuple[int, ...]) -> Any:
    """The same without a check: torch.distributed is handed `counts` rows as if they were equal."""
    build({"devices": 1})
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    try:
        output = torch.empty(counts[rank] * world, HIDDEN, device="sim:0")
        dist.all_gather_into_tensor(output, tokens_of(rank, counts[rank]).to("sim:0"))
        return output.cpu()
    finally:
        dist.destroy_process_group()


def one_output_by_torch(store: Any, rank: int, world: int) -> tuple[str, str, float]:
    """``dist.all_gather([out], x)``, the misuse of the report."""
    build({"devices": 1})
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    try:
        x = tokens_of(rank, 2).to("sim:0")
        return _refusal(lambda: dist.all_gather([torch.empty(2 * world, HIDDEN, device="sim:0")], x))
    finally:
        dist.destroy_process_group()


# -- FR3 ---------------------------------------------------------------------------------------------------------------

VOCABULARY = 31
STEPS = 2
PATIENT = Deadlines(steps=30.0, vote=30.0)
SHORT = Deadlines(steps=1.5, vote=1.5)  # where a rank hangs, and the others have to go on


def weights_of(rank: int) -> torch.Tensor:
    """``[VOCABULARY]`` integers that no other rank has, so that an answer needs the weights of every rank."""
    return (torch.arange(VOCABULARY) * (7 + 2 * rank) + 3 * rank + 1) % 97


def right_answer(prompt: int, world: int) -> list[int]:
    """What an engine of `world` ranks answers."""
    tokens = [prompt]
    for _ in range(STEPS):
        tokens.append(sum(int(weights_of(rank)[tokens[-1]]) for rank in range(world)) % VOCABULARY)
    return tokens[1:]


@dataclass
class Planted:
    """What goes wrong on one rank in one call of its memory map or its engine: it raises, or hangs, once."""

    rank: int
    where: str
    how: str
    seconds: float = 4.0

    def strike(self, rank: int, where: str) -> None:
        if (rank, where) != (self.rank, self.where):
            return
        self.where = ""
        if self.how == "raises":
            raise RuntimeError(f"cumem_allocator: CUDA Error: invalid argument (planted in {where})")
        time.sleep(self.seconds)


class WorkerRank(IdleHost):
    """One worker of a TP x PP engine: every token needs all ranks, and the last one broadcasts what was sampled.

    Scheduling is asynchronous: the first work of a next step is queued before anybody asks for one. A prompt that was
    answered before is a prefix-cache hit and touches no device.
    """

    def __init__(self, store: Any, rank: int, world: int, lifecycle: str, planted: Planted | None = None) -> None:
        backend = build({"devices": 1})
        self.rank, self.world, self.device, self.memory = rank, world, backend.device, backend.memory_map
        self.planted = planted or Planted(-1, "", "")
        self.patience = 30.0  # of a collective
        self.group = backend.communicator(Rendezvous(store, rank, world, name="engine", deadline=30.0))
        self.votes = backend.communicator(Rendezvous(store, rank, world, name="votes", deadline=30.0))
        with self.memory.pool("weights"):
            self.weight = weights_of(rank).to("sim:0")
        with self.memory.pool("kv_cache"):
            self.sampled = torch.zeros(1, dtype=torch.int64, device="sim:0")
        self.next_step = torch.zeros(1, dtype=torch.int64, device="sim:0")
        self.prefix_cache: dict[int, list[int]] = {}
        factory: Any = getattr(field_report_faults, lifecycle) if lifecycle else backend.lifecycle
        self.lifecycle = factory(
            LifecycleParts(
                memory=_Memory(self),
                device=self.device,
                voter=self.votes,
                host=self,
                deadlines=SHORT if self.planted.how == "hangs" else PATIENT,
            )
        )

    def drain(self, deadline: float) -> None:
        self.planted.strike(self.rank, "drain")

    def answer(self, prompt: int) -> list[int]:
        if prompt not in self.prefix_cache:
            self.prefix_cache[prompt] = self._generate(prompt)
        return self.prefix_cache[prompt]

    def _generate(self, prompt: int) -> list[int]:
        tokens = [prompt]
        for _ in range(STEPS):
            total = self.weight[tokens[-1]].reshape(1).clone()
            self.group.all_reduce(total, deadline=self.patience)
            if self.rank == self.world - 1:
                self.sampled.copy_(total % VOCABULARY)
            self.group.broadcast(self.sampled, src=self.world - 1, deadline=self.patience)
            tokens.append(int(self.sampled.item()))
        self.next_step.copy_(self.weight.index_select(0, self.sampled))
        return tokens[1:]

    def others_use_the_device(self) -> None:
        """A colocated trainer: it works, and waits for its work, while the engine sleeps."""
        work = torch.ones(4, device="sim:0") * 2
        assert float(work.sum().item()) == 8.0

    def close(self) -> None:
        self.group.close()
        self.votes.close()


class _Memory:
    """The backend's memory map, in which something may be planted."""

    def __init__(self, worker: WorkerRank) -> None:
        self._worker, self._memory = worker, worker.memory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)

    def unmap(self, tags: Any) -> None:
        self._worker.planted.strike(self._worker.rank, "unmap")
        self._memory.unmap(tags)

    def map(self, tags: Any) -> None:
        self._worker.planted.strike(self._worker.rank, "map")
        self._memory.map(tags)


def cycles(store: Any, rank: int, world: int, lifecycle: str, prompts: list[int]) -> dict[str, Any]:
    """Sleep, wake and answer once per prompt; ends at the first error. `lifecycle` is a fault, "" the backend's."""
    worker = WorkerRank(store, rank, world, lifecycle)
    found: dict[str, Any] = {"answers": [], "error": ("", ""), "health": []}
    worker.answer(0)
    worker.device.synchronize()  # the server has been idle for a while
    try:
        for prompt in prompts:
            found["answers"].append(worker.answer(prompt))
            worker.lifecycle.sleep()
            asleep = worker.lifecycle.health()
            worker.others_use_the_device()
            worker.lifecycle.wake()
            awake = worker.lifecycle.health()
            found["health"].append((asleep.serving, asleep.asleep, awake.serving, awake.healthy, awake.epoch))
    except Exception as error:  # noqa: BLE001 - the test judges what was raised
        found["error"] = (type(error).__name__, str(error))
    worker.close()
    return found


def one_sleep(store: Any, rank: int, world: int, lifecycle: str, planted: Planted) -> dict[str, Any]:
    """One sleep in which one rank fails; then an answer from those ranks whose health says that they serve."""
    worker = WorkerRank(store, rank, world, lifecycle, planted)
    before = worker.answer(1)
    worker.device.synchronize()
    began = time.monotonic()
    kind, text, _ = _refusal(worker.lifecycle.sleep)
    seconds = time.monotonic() - began
    health = worker.lifecycle.health()
    found: dict[str, Any] = {
        "before": before,
        "error": (kind, text),
        "seconds": seconds,
        "mapped": worker.memory.mapped("weights"),
        "health": health,
        "answer": None,
        "answer error": ("", ""),
    }
    if health.serving:
        worker.patience = 3.0
        answers: list[list[int]] = []
        found["answer error"] = _refusal(lambda: answers.append(worker.answer(2)))[:2]
        found["answer"] = answers[0] if answers else None
    worker.close()
    return found
