"""What one rank of `sleep_wake.py` does, in a process of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import hardpoint
from hardpoint.communicator import Rendezvous
from hardpoint.lifecycle import AloneVoter, Lifecycle, LifecycleParts, StoreVoter

TAG = "weights"


@dataclass
class Cycle:
    """One sleep and one wake of a rank: seconds, seconds by step, and what was left in memory meanwhile."""

    sleep: float = 0.0
    wake: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)
    residual: int = 0


@dataclass
class Meeting:
    """Where the ranks wait for one another, so that all of them copy at once."""

    store: Any
    rank: int
    world: int
    number: int = 0

    def all(self) -> None:
        """Return when every rank is here; RuntimeError after the store's timeout."""
        self.number += 1
        self.store.set(f"here/{self.number}/{self.rank}", "yes")
        self.store.wait([f"here/{self.number}/{rank}" for rank in range(self.world)])


def meet(port: int, rank: int, world: int) -> Meeting:
    """The store that the parent serves."""
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=120))
    return Meeting(store, rank, world)


def place_of(device: str, index: int) -> torch.device:
    """Device `index` of a backend's name, which may have a profile: ``cuda:sleep``."""
    kind = device.partition(":")[0]
    return torch.device(kind) if kind == "cpu" else torch.device(kind, index)


def in_memory() -> int:
    """Bytes: resident pages of this process on the host; what other ranks hold does not count."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cycles(port: int, rank: int, world: int, device: str, nbytes: int, count: int, change: bool, keep: bool) -> Any:
    """`count` cycles of `nbytes` in this process; `change`: new contents before each sleep. List of `Cycle`."""
    meeting = meet(port, rank, world)
    backend = hardpoint.get_backend(device)
    index = rank if backend.info.device_type != "cpu" else 0
    place = place_of(device, index)
    held = []
    with backend.device.use(index), backend.memory_map.pool(TAG, index):
        for _ in range(16):
            held.append(torch.randint(0, 256, (nbytes // 16,), dtype=torch.uint8, device=place))
    voter = StoreVoter(meeting.store, rank, world) if world > 1 else AloneVoter()
    parts = LifecycleParts(
        memory=backend.memory_map, device=backend.device, device_index=index, voter=voter, keep_copies=keep
    )
    lifecycle, found = Lifecycle(parts), []
    for number in range(count):
        if change:
            for tensor in held:
                tensor[number] += 1
        cycle = Cycle()
        for kind in ("sleep", "wake"):
            backend.device.synchronize(index)
            before = _free(backend, index)
            meeting.all()
            if isinstance(voter, StoreVoter):
                voter.begin(2 * number + (kind == "wake") + 1)
            begin = time.perf_counter()
            getattr(lifecycle, kind)()
            setattr(cycle, kind, time.perf_counter() - begin)
            account = lifecycle.account()
            cycle.steps |= {f"{kind}: {step}": seconds for step, seconds in account.steps.items()}
            cycle.steps |= {f"{kind}: memory": account.memory, f"{kind}: protocol": account.protocol}
            if kind == "sleep":
                cycle.residual = nbytes - (_free(backend, index) - before)
        found.append(cycle)
    return found


def _free(backend: Any, index: int) -> int:
    return -in_memory() if backend.info.device_type == "cpu" else int(backend.device.memory(index).free)


def floor(port: int, rank: int, world: int, device: str, nbytes: int, times: int) -> dict[str, list[float]]:
    """Seconds of plain copies of `nbytes` with all ranks at once: what no sleep can beat.

    On a GPU: to pinned memory and back. On the host: memory to memory, and to the temporary file and back, where the
    contents of a sleeping host go.
    """
    meeting = meet(port, rank, world)
    seconds: dict[str, list[float]] = {}

    def measure(name: str, work: Callable[[], object]) -> None:
        work()
        for _ in range(times):
            meeting.all()
            begin = time.perf_counter()
            work()
            seconds.setdefault(name, []).append(time.perf_counter() - begin)

    if device == "cpu":
        import tempfile

        one = torch.randint(0, 256, (nbytes,), dtype=torch.uint8)
        other = torch.empty_like(one)
        measure("copy", lambda: other.copy_(one))
        view = memoryview(one.numpy())
        with tempfile.TemporaryFile(buffering=0) as file:
            measure("to file", lambda: _write(file.fileno(), view))
            measure("from file", lambda: _read(file.fileno(), view))
        return seconds
    place = place_of(device, rank)
    one = torch.empty(nbytes, dtype=torch.uint8, device=place)
    pinned = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
    measure("to pinned", lambda: (pinned.copy_(one, non_blocking=True), torch.accelerator.synchronize(place)))
    measure("from pinned", lambda: (one.copy_(pinned, non_blocking=True), torch.accelerator.synchronize(place)))
    return seconds


def _write(file: int, view: memoryview) -> None:
    done = 0
    while done < view.nbytes:
        done += os.pwrite(file, view[done:], done)


def _read(file: int, view: memoryview) -> None:
    done = 0
    while done < view.nbytes:
        done += os.preadv(file, [view[done:]], done)


def protocol(port: int, rank: int, world: int, kind: str, times: int) -> dict[str, list[float]]:
    """Milliseconds of protocol of each sleep and wake of one page on this rank, votes over ``"store"`` or ``"gloo"``.

    They hold what the rank waited for slower ones: of a transition, the least of all ranks is what the protocol costs.
    """
    meeting = meet(port, rank, world)
    backend = hardpoint.get_backend("cpu")
    held = torch.zeros(1024)
    backend.memory_map.adopt(TAG, {"w": held})
    voter: Any = AloneVoter()
    if world > 1 and kind == "store":
        voter = StoreVoter(meeting.store, rank, world)
    elif world > 1:
        voter = backend.communicator(Rendezvous(meeting.store, rank, world, "sleep", 60.0))
    lifecycle = Lifecycle(LifecycleParts(memory=backend.memory_map, device=backend.device, voter=voter))
    seen: dict[str, list[float]] = {"sleep": [], "wake": []}
    for number in range(2 * times):
        step = "wake" if number % 2 else "sleep"
        meeting.all()
        if isinstance(voter, StoreVoter):
            voter.begin(number + 1)
        getattr(lifecycle, step)()
        seen[step].append(lifecycle.account().protocol * 1e3)
    return {step: values[2:] for step, values in seen.items()}


def stock(port: int, rank: int, world: int, device: str, nbytes: int, count: int) -> list[Cycle]:
    """The same cycles by vLLM's CuMemAllocator, which knows no other ranks. CUDA alone."""
    from vllm.device_allocator.cumem import CuMemAllocator

    meeting = meet(port, rank, world)
    place = place_of(device, rank)
    torch.accelerator.set_device_index(rank)
    allocator, held, found = CuMemAllocator.get_instance(), [], []
    with allocator.use_memory_pool(tag=TAG):
        for _ in range(16):
            held.append(torch.randint(0, 256, (nbytes // 16,), dtype=torch.uint8, device=place))
    for _ in range(count):
        cycle = Cycle()
        torch.accelerator.synchronize(place)
        before = torch.cuda.mem_get_info(rank)[0]
        meeting.all()
        begin = time.perf_counter()
        allocator.sleep(offload_tags=(TAG,))
        torch.accelerator.synchronize(place)
        cycle.sleep = time.perf_counter() - begin
        cycle.residual = nbytes - (torch.cuda.mem_get_info(rank)[0] - before)
        meeting.all()
        begin = time.perf_counter()
        allocator.wake_up(tags=[TAG])
        torch.accelerator.synchronize(place)
        cycle.wake = time.perf_counter() - begin
        found.append(cycle)
    return found
