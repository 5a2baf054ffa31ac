"""One child process of the demo: started in a session of its own, asked with deadlines, ended by its pid."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from hardpoint.errors import HardpointError
from hardpoint_vllm.demo.channel import MESSAGE_BYTES

_TAIL_LINES = 15


class DemoFailed(HardpointError):
    """A step of the demo could not be made."""


@dataclass(frozen=True)
class Asked:
    """A request under way."""

    number: int
    name: str
    started: float


class Child:
    """A child that runs ``python -m module`` and answers requests (see `hardpoint_vllm.demo.channel`)."""

    def __init__(self, name: str, module: str, log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._buffer = b""
        self._number = 0
        self._answers: dict[int, dict[str, Any]] = {}
        with log.open("wb") as output:
            # Its own session: Ctrl-C reaches the demo alone, which then ends its children in order.
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, name: str, **fields: Any) -> Asked:
        """Send a request and go on; `wait` for its answer."""
        self._number += 1
        self._socket.settimeout(30)
        try:
            self._socket.sendall(json.dumps({"id": self._number, "do": name, **fields}).encode() + b"\n")
        except OSError as error:
            raise DemoFailed(f"The {self.name} process is gone ({error}). {self._tail()}") from error
        return Asked(self._number, name, time.monotonic())

    def wait(self, asked: Asked, deadline: float, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """The answer to `asked`.

        Raises:
            DemoFailed: an error in the child, its death, or no answer within `deadline` seconds of the request;
                with the end of its log.
        """
        while asked.number not in self._answers:
            left = asked.started + deadline - time.monotonic()
            if left <= 0:
                raise DemoFailed(
                    f"The {self.name} process did not answer {asked.name!r} in {deadline:g} s. {self._tail()}"
                )
            for message in self._receive(left, asked):
                if "done" not in message:
                    self._answers[message["id"]] = message
                elif progress is not None and message["id"] == asked.number:
                    progress(message["done"], message["total"])
        answer = self._answers.pop(asked.number)
        if "error" in answer:
            raise DemoFailed(
                f"The {self.name} process failed at {asked.name!r}: {answer['type']}: {answer['error']} {self._tail()}"
            )
        result: dict[str, Any] = answer["result"]
        return result

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.end()

    def end(self) -> None:
        """End the process and whatever it started. Idempotent."""
        self._socket.close()
        for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            if self._process.poll() is not None:
                break
            # The child leads its own process group, so this reaches its children and nobody else's.
            os.killpg(self._process.pid, number)
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                continue

    def _receive(self, seconds: float, asked: Asked) -> list[dict[str, Any]]:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            if not selector.select(min(seconds, 1.0)):
                return []
        data = self._socket.recv(1 << 16)
        if not data:
            code = self._process.wait(10)
            raise DemoFailed(
                f"The {self.name} process ended during {asked.name!r} (exit status {code}). {self._tail()}"
            )
        self._buffer += data
        if len(self._buffer) > MESSAGE_BYTES:
            raise DemoFailed(f"The {self.name} process sent a message of more than {MESSAGE_BYTES} bytes.")
        *lines, self._buffer = self._buffer.split(b"\n")
        return [json.loads(line) for line in lines]

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return f"The end of its log, {self.log}:\n" + "\n".join(f"  | {line}" for line in lines)
