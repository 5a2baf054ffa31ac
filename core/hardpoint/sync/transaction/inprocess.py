"""An in-process transport under a virtual clock: the protocol objects themselves, and whatever can go wrong between
them. Deterministic: the same faults give the same run."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from hardpoint.sync.transaction.messages import Message, Outgoing


class Node(Protocol):
    """A participant or a coordinator."""

    def receive(self, message: Message, now: float) -> list[Outgoing]: ...

    def tick(self, now: float) -> list[Outgoing]: ...

    @property
    def wake_at(self) -> float | None: ...


Fate = Callable[[int, int, Message], Iterable[tuple[float, Message]] | None]


@dataclass
class InProcess:
    """Nodes by address, and the messages between them.

    Attributes:
        latency: seconds of each message on its way.
        handling: seconds that a node takes for each message that comes, and for each that leaves, one after the other.
        fate: asked for each message ``(from, to, message)``: None delivers it; else what arrives instead, as pairs of
            extra delay and message (none: it is lost).
        after: called with ``(address, message or None for a tick)`` when a node has handled something, before what it
            sends leaves.
    """

    latency: float = 1e-4
    handling: float = 0.0
    fate: Fate | None = None
    after: Callable[[int, Message | None], None] | None = None
    now: float = 0.0
    nodes: dict[int, Node] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)
    frozen: dict[int, list[Message]] = field(default_factory=dict)
    sent: int = 0
    by_node: dict[int, int] = field(default_factory=dict)
    _queue: list[tuple[float, int, int, Message | None]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)
    _waking: dict[int, float] = field(default_factory=dict)
    _busy: dict[int, float] = field(default_factory=dict)
    _thawing: dict[int, float] = field(default_factory=dict)

    def post(self, source: int, outgoing: Iterable[Outgoing]) -> None:
        """Send what a node returned."""
        leaves = max(self.now, self._busy.get(source, 0.0))
        for to, message in outgoing:
            leaves += self.handling
            self.sent += 1
            self.by_node[source] = self.by_node.get(source, 0) + 1
            arrivals = None if self.fate is None else self.fate(source, to, message)
            for delay, arriving in [(0.0, message)] if arrivals is None else arrivals:
                self._push(leaves + self.latency + delay, to, arriving)
        self._busy[source] = leaves
        self._wake(source)

    def kill(self, address: int) -> None:
        """The process is gone, and what was on its way to it."""
        self.dead.add(address)
        self.frozen.pop(address, None)

    def freeze(self, address: int) -> None:
        """The process hangs: what comes waits, its clock stands still."""
        self.frozen.setdefault(address, [])

    def thaw(self, address: int) -> None:
        """It goes on, with everything that came meanwhile, in order."""
        for message in self.frozen.pop(address, []):
            self._push(self.now, address, message)
        self._wake(address)

    def thaw_at(self, address: int, at: float) -> None:
        """`thaw` at a later time."""
        self._thawing[address] = at
        self._push(at, address, None)

    def replace(self, address: int, node: Node) -> None:
        """A process that started again at this address, or the first one."""
        self.dead.discard(address)
        self.frozen.pop(address, None)
        self._waking.pop(address, None)
        self.nodes[address] = node
        self._wake(address)

    def run(self, until: Callable[[], bool], limit: float) -> bool:
        """Let it happen until `until()`, at most up to `limit` on the clock. True if it came."""
        while not until():
            if not self._queue or self._queue[0][0] > limit:
                self.now = max(self.now, limit)
                return until()
            at, _, address, message = heapq.heappop(self._queue)
            self.now = max(self.now, at)
            self._handle(address, message)
        return True

    def _handle(self, address: int, message: Message | None) -> None:
        node = self.nodes.get(address)
        if message is None:
            self._waking.pop(address, None)
            if self._thawing.get(address, self.now + 1) <= self.now:
                del self._thawing[address]
                self.thaw(address)
        if node is None or address in self.dead:
            return
        if address in self.frozen:
            if message is not None:
                self.frozen[address].append(message)
            return
        if self._busy.get(address, 0.0) > self.now:
            self._push(self._busy[address], address, message)  # it waits for its turn
            return
        self._busy[address] = self.now + self.handling
        if message is None:
            due = node.wake_at
            out = node.tick(self.now) if due is not None and due <= self.now else []
        else:
            out = node.receive(message, self.now)
        if self.after is not None:
            self.after(address, message)
        if address in self.dead:
            return  # it died with the answer in its hands
        self.post(address, out)

    def _wake(self, address: int) -> None:
        node = self.nodes.get(address)
        due = None if node is None else node.wake_at
        if due is None or address in self.dead or address in self.frozen:
            return
        due = max(due, self.now)
        known = self._waking.get(address)
        if known is None or due < known:
            self._waking[address] = due
            self._push(due, address, None)

    def _push(self, at: float, address: int, message: Message | None) -> None:
        heapq.heappush(self._queue, (at, next(self._order), address, message))
