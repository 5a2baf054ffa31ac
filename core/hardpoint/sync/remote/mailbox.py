"""`Mailbox`: messages between processes through queues of a torch.distributed store, on whatever hosts they are.

Each process has a queue of its own, under a name that no process had before it: what was meant for one that died is
never read by the one that took its place. Threads wait for the store, which may hang with the process that serves it:
whoever drives a protocol waits on a local queue, with its own deadlines, and never for a send.
"""

from __future__ import annotations

import queue
import secrets
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hardpoint.communicator.store import connection_of_its_own
from hardpoint.errors import SyncError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch._C._distributed_c10d import Store

_FOREVER = timedelta(hours=24)
_END = b""  # not messages: the one ends the reading thread, the other is for the writing one
_FORGET = b"forget"


class Mailbox:
    """Of the process at `address` of the group `name`.

    Args:
        store: that all processes of the group reach. It must not be used by another thread meanwhile: connections of
            its own are made of it.
        arrived: called by the reading thread with each message.
        lost: called by the reading thread, once, when the store cannot be reached any more.

    Raises:
        SyncError: the store cannot be reached, or has no queues (a FileStore).
    """

    def __init__(
        self,
        store: Store,
        name: str,
        address: int,
        arrived: Callable[[bytes], None],
        lost: Callable[[str], None],
    ) -> None:
        from torch._C._distributed_c10d import PrefixStore

        self.address = address
        self._arrived, self._lost = arrived, lost
        self._box = f"box/{address}/{secrets.token_hex(8)}"
        try:
            self._writing: Any = PrefixStore(f"hardpoint/{name}", connection_of_its_own(store))
            self._asking: Any = PrefixStore(f"hardpoint/{name}", connection_of_its_own(store))
            self._reading: Any = PrefixStore(f"hardpoint/{name}", connection_of_its_own(store))
            self._reading.set_timeout(_FOREVER)
            self._asking.queue_len(self._box)  # a store without queues says so here, and not to the threads
            self._writing.set(f"at/{address}", self._box)
        except NotImplementedError as error:
            raise SyncError(f"The store of {name!r} has no queues, use a TCPStore: {_line(error)}") from error
        except RuntimeError as error:
            raise SyncError(f"The rendezvous of {name!r} cannot be reached: {_line(error)}.") from error
        self._known: dict[int, str] = {}  # of the writing thread
        self._out: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._closed = False
        for work in (self._read, self._write):
            threading.Thread(target=work, name=f"hardpoint-mail-{address}", daemon=True).start()

    def send(self, to: int, data: bytes) -> None:
        """Post a message, after those before it. Waits for nobody, not even for the store; if nobody has that address,
        or the store is lost, the votes tell who is missing."""
        self._out.put((to, data))

    def forget(self) -> None:
        """Look addresses up anew for what is sent from now on: processes may have started again."""
        self._out.put((self.address, _FORGET))

    def whereabouts(self, addresses: Iterable[int]) -> dict[int, str]:
        """The queue of each of `addresses` that somebody has; another one than before is another process. Asks the
        store, so it is for the process that serves it."""
        try:
            return {one: box for one in addresses if (box := _look_up(self._asking, one)) is not None}
        except RuntimeError:
            return {}

    def close(self) -> None:
        """End the threads. Waits for nobody."""
        self._closed = True
        self._out.put(None)

    def _write(self) -> None:
        from torch.distributed import DistNetworkError

        while (item := self._out.get()) is not None:
            to, data = item
            if data == _FORGET:
                self._known.clear()
                continue
            try:
                box = self._known.get(to) or _look_up(self._writing, to)
                if box is not None:
                    self._known[to] = box
                    self._writing.queue_push(box, data)
            except DistNetworkError:
                return  # the reading thread says so
            except RuntimeError:
                continue  # the store did not answer in time
        try:
            if _look_up(self._writing, self.address) == self._box:
                self._writing.delete_key(f"at/{self.address}")
            self._writing.queue_push(self._box, _END)
        except RuntimeError:
            pass  # the store is gone, and the reading thread with it

    def _read(self) -> None:
        from torch.distributed import DistNetworkError

        while not self._closed:
            try:
                data = bytes(self._reading.queue_pop(self._box))
            except DistNetworkError as error:
                if not self._closed:
                    self._lost(f"the rendezvous is gone ({_line(error)}): the process that serves it has ended")
                return
            except RuntimeError:
                continue  # a day without a message
            if data != _END:
                self._arrived(data)


def _look_up(store: Any, address: int) -> str | None:
    if not store.check([f"at/{address}"]):
        return None
    return bytes(store.get(f"at/{address}")).decode()


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
