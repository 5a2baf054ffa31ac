"""A worker process: builds backends and runs laws one at a time, each in a thread of its own.

Started as ``python -m hardpoint.conformance.worker FD``. Standard output and error belong to the backend under test;
the kit speaks over the inherited file descriptor alone, so that a backend may print what it likes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import gc
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from hardpoint.conformance.channel import SECRET_BYTES, Channel
from hardpoint.conformance.messages import Describe, Done, Dying, FromWorker, Hello, Ready, Run, Started, ToWorker
from hardpoint.conformance.source import BackendSource, Subject
from hardpoint.errors import BackendUnavailable

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

BUILD_DEADLINE = 120.0


class Worker:
    """State of one worker: the channel, the store of all ranks, and the backend built last."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._subjects: dict[BackendSource, Subject] = {}
        self._spoilt = False
        self._store: Store | None = None
        self._address = ("", 0)

    def serve(self) -> None:
        """Answer messages until the channel closes."""
        while True:
            try:
                message: ToWorker = self._channel.receive()
            except EOFError:
                return
            if isinstance(message, Hello):
                self._greet(message)
            elif isinstance(message, Describe):
                self._answer(functools.partial(self._describe, message))
            else:
                self._answer(functools.partial(self._run, message))

    def _greet(self, message: Hello) -> None:
        sys.path[:] = list(message.path)
        self._address = (message.store_host, message.store_port)
        # Import now what every law needs, while nobody waits.
        import hypothesis  # noqa: F401
        import torch.distributed  # noqa: F401

        from hardpoint.conformance import context, registry  # noqa: F401

        # The objects of torch never go: collecting after a failed law need not look at them.
        gc.freeze()
        self._send(Ready(os.getpid()))

    def _answer(self, work: Callable[[], Done]) -> None:
        answers: list[Done] = []
        # A thread of its own: current device and stream are per thread, so that no law sees what one before it left.
        thread = threading.Thread(target=lambda: answers.append(_guarded(work)), name="law", daemon=True)
        thread.start()
        thread.join()
        faulthandler.cancel_dump_traceback_later()
        answer = answers[0]
        if answer.failure is not None:
            # Whatever a failed law left in the backend must not reach the next one.
            self._subjects.clear()
            self._spoilt = True
            gc.collect()
        sys.stdout.flush()
        sys.stderr.flush()
        self._send(answer)

    def _subject(self, source: BackendSource) -> Subject:
        # One at a time: the simulator and its like have one active engine per process, the one built last.
        if source not in self._subjects:
            self._subjects.clear()
            self._subjects[source] = source.build(anew=self._spoilt)
            self._spoilt = False
        return self._subjects[source]

    def _describe(self, message: Describe) -> Done:
        from hardpoint.conformance.describe import describe

        return Done(None, description=describe(self._subject(message.source)))

    def _run(self, message: Run) -> Done:
        from hardpoint.conformance.context import LawContext
        from hardpoint.conformance.registry import find_law

        subject = self._subject(message.source)
        # Shortly before the kit ends this process: the stacks are the reason it can print for a hang.
        faulthandler.dump_traceback_later(max(message.deadline - 0.5, message.deadline * 0.8), exit=False, file=2)
        self._send(Started())
        extra = next((case for case in subject.extra_cases if case.id == message.law), None)
        function = extra.function if extra else find_law(message.law).function
        context = LawContext(
            subject.backend,
            law_id=message.law,
            seed=message.seed,
            rank=message.rank,
            world_size=message.world_size,
            store=self._run_store(message),
            tolerances=subject.tolerances,
            extra_cases=subject.extra_cases,
            before_death=lambda: self._send(Dying()),
            effort=message.effort,
        )
        try:
            if message.world_size > 1:
                context.meet(deadline=BUILD_DEADLINE)
            function(context)
        except BaseException:
            # The law's own error is the one to report; one while closing is its consequence.
            with contextlib.suppress(Exception):
                context.tell_failure()
            context.finish(quiet=True)
            raise
        context.finish()
        return Done(None, notes=tuple(context.notes))

    def _run_store(self, message: Run) -> Store | None:
        if message.world_size == 1:
            return None
        import torch.distributed as dist

        if self._store is None:
            self._store = dist.TCPStore(*self._address, is_master=False, timeout=timedelta(seconds=60))  # type: ignore[attr-defined]
        prefixed: Store = dist.PrefixStore(f"run/{message.run}", self._store)  # type: ignore[attr-defined]
        return prefixed

    def _send(self, message: FromWorker) -> None:
        self._channel.send(message)


def _guarded(work: Callable[[], Done]) -> Done:
    from hardpoint.conformance.failure import LawFailed

    begin = time.monotonic()
    try:
        done = work()
    except LawFailed as error:
        return Done(str(error), traceback.format_exc(), seconds=time.monotonic() - begin)
    except BackendUnavailable as error:
        return Done(str(error), traceback.format_exc(), seconds=time.monotonic() - begin, unavailable=True)
    except BaseException as error:  # noqa: BLE001 - a backend may raise anything, SystemExit included; all of it fails the law
        sentence = f"{type(error).__name__}: {error}".strip().removesuffix(":")
        return Done(sentence, traceback.format_exc(), seconds=time.monotonic() - begin)
    return Done(None, "", done.notes, time.monotonic() - begin, done.description)


def _leave_with(parent: int) -> None:
    # If the kit itself is killed nobody closes the channel of a law that hangs: leave on our own.
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main() -> None:
    faulthandler.enable()
    threading.Thread(target=_leave_with, args=(os.getppid(),), name="parent watch", daemon=True).start()
    secret = sys.stdin.buffer.read(SECRET_BYTES)
    Worker(Channel(socket.socket(fileno=int(sys.argv[1])), secret)).serve()
    # Threads of the backend must not keep the process: the kit is done with it.
    os._exit(0)


if __name__ == "__main__":
    main()
