"""Who has arrived where: each rank's progress, published through the store by a thread of its own.

A call costs one tuple write. The thread, with its own connection to the store (a blocking wait on a shared one would
hold up the caller), publishes what changed every `INTERVAL` and a heartbeat when nothing did; a dead process simply
stops. Messages per rank and second are bounded, whatever the number of calls.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hardpoint.communicator.store import connection_of_its_own

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

INTERVAL = 0.03
_RECENT = 8


@dataclass(frozen=True)
class Progress:
    """What a rank last published.

    Attributes:
        beat: grows with every publication; one that stops growing belongs to a dead or frozen process.
        sequence: number of the last call it entered, -1 before the first.
        call: description of that call.
        inside: True while it is in that call.
        recent: sequence -> description of its last calls.
        broken: why it gave the communicator up, None if it did not.
        closed: it closed the communicator.
    """

    beat: int
    sequence: int
    call: str
    inside: bool
    recent: dict[int, str]
    broken: str | None
    closed: bool


@dataclass(frozen=True)
class Identity:
    """Process of a rank; `host` also tells apart pid namespaces, so that equal hosts may compare pids."""

    pid: int
    host: str
    hostname: str

    @classmethod
    def here(cls) -> Identity:
        return cls(os.getpid(), _host_id(), socket.gethostname())

    def ended(self) -> bool:
        """True if this is known: same host, and no such process (or only its zombie) any more."""
        if self.host != _host_id():
            return False
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:  # noqa: PTH123 - hot in a failure, no Path needed
                return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
        except FileNotFoundError:
            return os.path.isdir("/proc/self")  # noqa: PTH112
        except OSError:
            return False


def _host_id() -> str:
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(path) if path.endswith("pid") else _read(path))  # noqa: PTH115
        except OSError:
            parts.append("")
    return "/".join(parts)


def _read(path: str) -> str:
    with open(path) as file:  # noqa: PTH123
        return file.read().strip()


class Ledger:
    """Publishes this rank's progress and reads the others'. One thread; `close` ends it."""

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        on_tick: Callable[[], None] | None = None,
        record: Callable[[str], object] | None = None,
    ) -> None:
        self._writer = connection_of_its_own(store)
        self._reader = connection_of_its_own(store)
        for connection in (self._writer, self._reader):
            connection.set_timeout(timedelta(seconds=5))
        self._rank = rank
        self._world_size = world_size
        self._on_tick = on_tick
        self._record = record
        # More ranks on one store beat more slowly: the sum stays at some 2,000 messages per second.
        self.heartbeat = max(0.25, world_size / 2000)
        self._now: tuple[int, object, bool] = (-1, "", False)
        self._recent: deque[tuple[int, object]] = deque(maxlen=_RECENT)
        self._broken: str | None = None
        self._closed = False
        self._beat = 0
        self._published: tuple[Any, ...] = ()
        self._wake = threading.Event()
        self._end = False
        self.store_lost: str | None = None
        self._reading = threading.Lock()
        self._publish()
        self._thread = threading.Thread(target=self._run, name=f"hardpoint-ledger-{rank}", daemon=True)
        self._thread.start()

    def enter(self, sequence: int, call: object) -> None:
        """This rank is in `call` now: a text, or what becomes one by `str` when it is published."""
        self._recent.append((sequence, call))
        self._now = (sequence, call, True)

    def leave(self, sequence: int, call: object) -> None:
        """The call came back."""
        self._now = (sequence, call, False)

    def give_up(self, reason: str) -> None:
        """This rank will not take part in anything more; published at once."""
        self._broken = reason[:500]
        self._wake.set()

    def flush(self) -> None:
        """Have the thread publish now instead of at the next interval."""
        self._wake.set()

    def read(self) -> dict[int, Progress]:
        """Every rank's last publication.

        Raises:
            RuntimeError: the store cannot be reached (torch.distributed.DistNetworkError).
        """
        with self._reading:
            raw = self._reader.multi_get([f"p/{rank}" for rank in range(self._world_size)])
        return {rank: _decode(text) for rank, text in enumerate(raw)}

    def close(self) -> None:
        """Publish the end and stop the thread, within a few seconds at most."""
        self._closed = True
        self._end = True
        self._wake.set()
        if self._thread is not threading.current_thread():
            self._thread.join(6)

    def _run(self) -> None:
        last = time.monotonic()
        while True:
            self._wake.wait(INTERVAL)
            self._wake.clear()
            ending = self._end
            if self._on_tick is not None:
                self._on_tick()
            state = (self._now, self._broken, self._closed)
            if self.store_lost is None and (state != self._published or time.monotonic() - last >= self.heartbeat):
                last = time.monotonic()
                try:
                    self._publish()
                    self._ask_for_records()
                except RuntimeError as error:  # DistNetworkError: said by every call that needs the store
                    self.store_lost = str(error).strip().splitlines()[0]
            if ending:
                return

    def _ask_for_records(self) -> None:
        """Where records are wanted: a rank that gave up asks all others for theirs, once; they look at each beat."""
        if self._record is None:
            return
        if self._broken is not None:
            self._writer.set("records", f"rank {self._rank} gave up: {self._broken}")
            self._record = None
        elif self._writer.check(["records"]):
            self._record(self._writer.get("records").decode())
            self._record = None

    def _publish(self) -> None:
        state = (self._now, self._broken, self._closed)
        (sequence, call, inside), broken, closed = state
        self._beat += 1
        record = {
            "beat": self._beat,
            "sequence": sequence,
            "call": str(call),
            "inside": inside,
            "recent": [(number, str(each)) for number, each in self._recent.copy()],
            "broken": broken,
            "closed": closed,
        }
        self._writer.set(f"p/{self._rank}", json.dumps(record))
        self._published = state


def _decode(text: bytes) -> Progress:
    record = json.loads(text)
    record["recent"] = {int(sequence): str(call) for sequence, call in record["recent"]}
    return Progress(**record)
