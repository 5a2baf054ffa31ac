"""Run one function on every rank of a world of real processes that share a TCPStore.

`run_ranks` starts fresh processes (a rank may be killed); `RankPool` keeps them between calls (starting costs an
``import torch`` per rank). Every wait has a deadline, and processes are ended by their own handle in `finally`.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

_CONTEXT = multiprocessing.get_context("spawn")
_START_SECONDS = 60.0


@dataclass(frozen=True)
class RankResult:
    """What one rank did: `value` it returned, or `error` it raised (with `trace`), or neither: it died or hung."""

    rank: int
    value: Any = None
    error: BaseException | None = None
    trace: str = ""
    seconds: float = 0.0
    returned: bool = False
    exit_code: int | None = None

    def unwrap(self) -> Any:
        """The value; AssertionError with the rank's own traceback if it did not return."""
        assert self.returned, f"rank {self.rank}: exit code {self.exit_code}\n{self.trace}"
        return self.value


class RankPool:
    """Processes that wait for work: ``function(store, rank, world, *args)`` with a fresh TCPStore per call.

    The store is served by this (parent) process unless `host_rank` names the rank that serves it.
    """

    def __init__(self, world: int) -> None:
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._calls = 0
        self.world = 0
        self.grow(world)

    def grow(self, world: int) -> None:
        """Have at least `world` live processes."""
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        for rank in range(world):
            if rank < self.world and self._processes[rank].is_alive():
                continue
            ours, theirs = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            if rank < self.world:
                self._pipes[rank].close()
                self._pipes[rank], self._processes[rank] = ours, process
            else:
                self._pipes.append(ours)
                self._processes.append(process)
                self.world += 1

    def run(
        self,
        world: int,
        function: Callable[..., Any],
        *args: Any,
        deadline: float = 60.0,
        host_rank: int | None = None,
    ) -> list[RankResult]:
        """Results of ranks 0..world-1. A rank that is not back in `deadline` seconds is killed and has no value."""
        from torch.distributed import TCPStore

        self.grow(world)
        served = None
        if host_rank is None:
            served = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            port = served.port
        else:
            port = _free_port()
        waiting = {self._pipes[rank]: rank for rank in range(world)}
        for pipe, rank in waiting.items():
            pipe.send((function, rank, world, port, rank == host_rank, args))
        results: dict[int, RankResult] = {}
        end = time.monotonic() + deadline + _START_SECONDS
        started = False
        try:
            while waiting:
                ready = wait(list(waiting), max(0.0, end - time.monotonic()))
                if not ready:
                    break
                for pipe in ready:
                    assert isinstance(pipe, Connection)
                    try:
                        answer = pipe.recv()
                    except (EOFError, OSError):
                        rank = waiting.pop(pipe)
                        self._processes[rank].join(10)
                        results[rank] = RankResult(rank, exit_code=self._processes[rank].exitcode)
                        continue
                    if answer is None:  # the rank has imported torch and starts
                        if not started:
                            started, end = True, time.monotonic() + deadline
                        continue
                    rank = waiting.pop(pipe)
                    results[rank] = RankResult(rank, *answer)
        finally:
            for rank in waiting.values():
                self._processes[rank].kill()
                self._processes[rank].join(10)
                results[rank] = RankResult(rank, exit_code=self._processes[rank].exitcode)
            del served
        return [results[rank] for rank in range(world)]

    def kill(self, rank: int) -> None:
        """SIGKILL one rank from outside."""
        self._processes[rank].kill()

    def pid(self, rank: int) -> int:
        """Process id of a rank."""
        pid = self._processes[rank].pid
        assert pid is not None
        return pid

    def close(self) -> None:
        """End all processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.kill()
            process.join(10)


def run_ranks(
    world: int, function: Callable[..., Any], *args: Any, deadline: float = 60.0, host_rank: int | None = None
) -> list[RankResult]:
    """`RankPool.run` in processes of its own. `function` must be importable (module level)."""
    pool = RankPool(world)
    try:
        return pool.run(world, function, *args, deadline=deadline, host_rank=host_rank)
    finally:
        pool.close()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(pipe: Connection) -> None:
    import torch
    from torch.distributed import TCPStore

    torch.set_num_threads(1)
    while True:
        try:
            function, rank, world, port, host, args = pipe.recv()
        except EOFError:
            return
        pipe.send(None)
        began = time.monotonic()
        answer: tuple[Any, ...]
        try:
            store = TCPStore("127.0.0.1", port, is_master=host, wait_for_workers=False, timeout=timedelta(seconds=30))
            value = function(store, rank, world, *args)
            answer = (value, None, "", time.monotonic() - began, True)
        except BaseException as error:  # noqa: BLE001 - handed to the parent, which judges it
            answer = (None, error, traceback.format_exc(), time.monotonic() - began, False)
        try:
            pipe.send(answer)
        except Exception as error:  # noqa: BLE001 - the value or the error cannot be pickled: say which
            pipe.send((None, RuntimeError(f"{error}: {answer[1]!r}"), answer[2], answer[3], False))
