"""Trainer and receivers as real processes over gloo and a TCPStore, made to fail at a stated point, and judged.

Processes are forked from a server that has torch imported already, so that one that was killed is replaced in a
moment. Everything is ended by its own handle.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from support.sync_world_child import serve
from support.transaction_cluster import WORLDS

DEADLINE = 2.0
SOON = 1.0  # seconds past the deadline within which an abort is told
ANSWER = 20.0  # seconds for a process to answer the test; only a machine that stands still needs them
_CONTEXT = multiprocessing.get_context("forkserver")
# The server looks for what it imports ahead on its own path (Python before 3.13 does not hand ours on).
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
_CONTEXT.set_forkserver_preload(["support.sync_world_child"])

Facts = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """`kind` (kill, hang, raise, slow) where `rank` (0: the trainer) comes to `point` for the `number`th time."""

    kind: str
    rank: int
    point: str
    number: int = 1

    def __str__(self) -> str:
        times = f" {self.number}" if self.number > 1 else ""
        return f"{self.kind} rank {self.rank} at {self.point}{times}"


class Proc:
    """One process and the pipe to it."""

    serve: Callable[[Connection, str, tuple[Any, ...]], None] = staticmethod(serve)

    def __init__(self, role: str, *arguments: Any) -> None:
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=self.serve, args=(theirs, role, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.gone = False
        self.struck_at: float | None = None
        assert self.hear() is not None

    def ask(self, name: str, *arguments: Any) -> None:
        self._pipe.send((name, arguments))

    def hear(self, seconds: float = ANSWER) -> Any:
        """The answer, or None if the process is dead or does not answer in time."""
        pipe = self._pipe
        assert isinstance(pipe, Connection)
        end = time.monotonic() + seconds
        while True:
            try:
                if not pipe.poll(max(0.0, end - time.monotonic())):
                    return None
                kind, value = pipe.recv()
            except (EOFError, OSError):
                self.gone = True
                return None
            if kind == "struck":
                self.struck_at = value
                continue
            assert kind in ("ok", "ready"), value
            return value

    def call(self, name: str, *arguments: Any) -> Any:
        self.ask(name, *arguments)
        return self.hear()

    @property
    def state(self) -> str:
        """``running``, ``stopped`` or ``dead``, as the kernel says it."""
        pid = self._process.pid
        try:
            text = open(f"/proc/{pid}/stat").read()  # noqa: SIM115, PTH123
        except OSError:
            return "dead"
        letter = text.rpartition(")")[2].split()[0]
        return {"T": "stopped", "Z": "dead", "X": "dead"}.get(letter, "running")

    def let_go(self) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def end(self) -> None:
        self._process.kill()
        self._process.join(10)
        self._pipe.close()


class World:
    """The processes of one world and layout, all at version 0."""

    def __init__(self, name: str, layout: str) -> None:
        self.name, self.layout = name, layout
        self.members = sorted(WORLDS[name][1])
        self.engines = WORLDS[name][0]
        self.trainer = Proc("trainer", name, layout)
        self.ranks = {rank: Proc("receiver", rank, name, layout, 0) for rank in self.members}
        self.epoch = 0
        self.versions = {0: 0, -1: -1}
        self._join()
        self.addresses = {rank: self.state(rank)["addresses"] for rank in self.members}

    def close(self) -> None:
        for proc in (self.trainer, *self.ranks.values()):
            proc.end()

    def state(self, rank: int) -> Facts:
        found: Facts = self.ranks[rank].call("state", *sorted({*self.versions.values()} - {-1}))
        return found

    def update(self, mode: str = "shadow", deadline: float = DEADLINE) -> Facts | None:
        """One update to a version of its own; what the trainer says of it, None if the trainer is gone or hangs."""
        self.epoch += 1
        self.versions[self.epoch] = self.epoch % 60 + 1
        self.trainer.ask("update", self.epoch, self.versions[self.epoch], mode, deadline)
        end = time.monotonic() + 6 * deadline + 8
        while time.monotonic() < end:
            found = self.trainer.hear(0.05)
            if found is not None or self.trainer.gone:
                return found
            if self.trainer.state == "stopped":
                return None
        raise AssertionError("the trainer's update never came to an end")

    def run(self, fault: Fault, mode: str = "shadow") -> list[str]:
        """One update with a fault, then the next good one. Everything that was wrong, as sentences."""
        target = self.trainer if fault.rank == 0 else self.ranks[fault.rank]
        target.call("plant", fault.point, fault.number, fault.kind)
        target.struck_at = None
        before = self.epoch
        said = self.update(mode)
        wrong = self._judge(fault, said, before)
        wrong += self._recover(fault)
        return wrong

    # What has to hold.

    def _judge(self, fault: Fault, said: Facts | None, before: int) -> list[str]:
        wrong: list[str] = []
        states = self._settled(said)
        for rank, state in states.items():
            wrong += self._judge_rank(rank, state)
        wrong += self._judge_engines(states)
        if said is None:
            if fault.rank != 0:
                wrong.append("the trainer has no part in it and did not answer")
            return wrong
        alive = {rank for rank, proc in self.ranks.items() if proc.state == "running"}
        target = self.trainer if fault.rank == 0 else self.ranks[fault.rank]
        target.hear(0.0)
        if target.struck_at is None:
            wrong.append(f"the fault never happened: {said}")
        elif said["committed"] is False and said["decided"] > target.struck_at + DEADLINE + SOON:
            wrong.append(f"the abort was told after {said['decided'] - target.struck_at:.2f} s")
        if said["committed"] is None:
            if fault.rank != 0:
                wrong.append(f"the trainer raised: {said['reason']}")
        elif not said["everywhere"]:
            culprit = "trainer" if fault.rank == 0 else f"rank {fault.rank}"
            if culprit not in said["reason"]:
                wrong.append(f"does not name {culprit}: {said['reason']}")
            if fault.kind in ("kill", "hang") and said["missing"] != [fault.rank]:
                wrong.append(f"missing are {said['missing']}: {said['reason']}")
        if said["ended"] - said["began"] > 2 * (DEADLINE + SOON) + 1:
            wrong.append(f"took {said['ended'] - said['began']:.2f} s to end")
        epoch = self.epoch if said["committed"] else before
        for rank in alive - {fault.rank}:
            state = states[rank]
            if said["committed"] is None:
                continue  # the trainer broke off
            if not state["may_serve"] or state["epoch"] != max(0, epoch):
                wrong.append(f"rank {rank} has no part in it and is {state}")
        return wrong

    def _judge_rank(self, rank: int, state: Facts) -> list[str]:
        if state["phase"] not in ("serving", "failed"):
            return [f"rank {rank} is stuck: {state}"]
        if state["addresses"] != self.addresses[rank]:
            return [f"storage of rank {rank} moved"]
        if state["may_serve"]:
            if self.versions[state["epoch"]] not in state["holds"]:
                return [f"rank {rank} serves bits of another version: {state}"]
            if not state["running"]:
                return [f"rank {rank} says that it serves, and its engine stands still: {state}"]
        elif not state["reason"]:
            return [f"rank {rank} is failed and says not why"]
        return []

    def _judge_engines(self, states: dict[int, Facts]) -> list[str]:
        wrong = []
        for engine in self.engines:
            epochs = {states[rank]["epoch"] for rank in engine if rank in states and states[rank]["may_serve"]}
            if len(epochs) > 1:
                wrong.append(f"engine {engine} would answer with versions {epochs}")
        return wrong

    def _settled(self, said: Facts | None) -> dict[int, Facts]:
        """States of the ranks that run, once nobody is in the middle of anything."""
        end = time.monotonic() + 3 * DEADLINE + 6
        while True:
            states = {}
            for rank, proc in self.ranks.items():
                if proc.state == "running":
                    found = self.state(rank)
                    if found is not None:
                        states[rank] = found
            if all(state["phase"] in ("serving", "failed") for state in states.values()):
                return states
            if time.monotonic() > end:
                return states
            time.sleep(0.03)

    def _recover(self, fault: Fault) -> list[str]:
        """What an operator does: start again what is gone or hangs, and update."""
        again = self.trainer.state != "running" or self.trainer.gone
        if again:
            self.trainer.end()
            self.trainer = Proc("trainer", self.name, self.layout)
        else:
            self.trainer.call("plant", "", 1, "")
        replaced = []
        for rank, proc in self.ranks.items():
            if proc.state != "running" or proc.gone:
                proc.end()
                self.ranks[rank] = Proc("receiver", rank, self.name, self.layout, -1)
                replaced.append(rank)
            else:
                proc.call("plant", "", 1, "")
        self._join(None if again else replaced)
        for rank in replaced:
            self.addresses[rank] = self.state(rank)["addresses"]
        said = self.update("shadow", 20.0)
        if said is None or not said["everywhere"]:
            return [f"the next good update did not succeed: {said}"]
        wrong = []
        for rank in self.members:
            state = self.state(rank)
            wrong += self._judge_rank(rank, state)
            if not state["may_serve"] or state["epoch"] != self.epoch:
                wrong.append(f"after the next good update rank {rank} is {state}")
        return wrong

    def _join(self, ranks: list[int] | None = None) -> None:
        port = self.trainer.call("port")
        for rank in self.members if ranks is None else ranks:
            self.ranks[rank].call("join", port)
