"""Lines of JSON between the demo and its child processes, on a socket: stdout belongs to libraries."""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

MESSAGE_BYTES = 16 << 20

Report = Callable[[int, int], None]
Handler = Callable[..., Any]


def serve(handlers: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """The child's main loop: answer requests on the socket named by ``argv[1]`` until the parent is gone.

    A handler gets the request's fields and `report(done, total)`. The process ends at once when the parent closes the
    socket or dies, whatever it is doing: nothing outlives the demo.
    """
    connection = socket.socket(fileno=int(sys.argv[1]))
    requests: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read, args=(connection, requests), daemon=True).start()
    while True:
        request = requests.get()
        number = request.pop("id")
        name = request.pop("do")

        def report(done: int, total: int, number: int = number) -> None:
            _write(connection, {"id": number, "done": done, "total": total})

        try:
            result = handlers[name](report, **request)
        except Exception as error:  # noqa: BLE001 - it travels to the parent, which shows it
            traceback.print_exc()
            _write(connection, {"id": number, "error": str(error), "type": type(error).__name__})
        else:
            _write(connection, {"id": number, "result": result})


def _read(connection: socket.socket, requests: queue.Queue[dict[str, Any]]) -> None:
    with connection.makefile("rb") as lines:
        for line in lines:
            requests.put(json.loads(line))
    os._exit(0)


def _write(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")
