"""One worker process as the kit sees it: start, speak, read what the backend printed, end by its own id."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from hardpoint.conformance.channel import Channel, new_secret
from hardpoint.conformance.messages import FromWorker, Hello, ToWorker

PRINTED_LIMIT = 8 << 20


class WorkerProcess:
    """A child process that runs laws. Its session is its own, so that whatever the backend started ends with it."""

    def __init__(self, output: Path, store: tuple[str, int]) -> None:
        ours, theirs = socket.socketpair()
        self.output = output
        self.ready = False
        self.began = time.monotonic()
        self._mark = 0
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONUNBUFFERED": "1"}
        secret = new_secret()
        with output.open("ab") as sink, theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hardpoint.conformance.worker", str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=sink,
                pass_fds=(theirs.fileno(),),
                env=environment,
                start_new_session=True,
            )
        self.channel = Channel(ours, secret)
        with contextlib.suppress(OSError):  # dead on arrival: the next look at it says so
            assert self.process.stdin is not None
            self.process.stdin.write(secret)  # not on the command line, where everybody can read it
            self.process.stdin.close()
            self.channel.send(Hello(tuple(sys.path), *store))

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, message: ToWorker) -> None:
        """Send, and begin to count what the backend prints from here."""
        self._mark = self.printed_size()
        with contextlib.suppress(OSError):  # it died meanwhile: `receive` or `death` tells
            self.channel.send(message)

    def receive(self) -> FromWorker | None:
        """Next message if one is there; None if there is none. EOFError if it cannot speak any more."""
        message: FromWorker | None = self.channel.poll()
        return message

    def death(self) -> str | None:
        """How the process ended, as a sentence; None while it lives."""
        code = self.process.poll()
        if code is None:
            return None
        if code < 0:
            return f"the process was killed by {signal.Signals(-code).name}"
        return f"the process ended with exit code {code}"

    def printed_size(self) -> int:
        return self.output.stat().st_size

    def printed(self) -> bytes:
        """What the backend printed since the last message was sent, at most `PRINTED_LIMIT` bytes."""
        with self.output.open("rb") as file:
            file.seek(self._mark)
            return file.read(PRINTED_LIMIT)

    def flooding(self) -> bool:
        return self.printed_size() - self._mark > PRINTED_LIMIT

    def kill(self) -> None:
        """End it and all that it started, by id, and wait."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        self.channel.close()
        self.output.unlink(missing_ok=True)
