"""One HTTP request to an ASGI app, without a server: client and server address as the test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

LOOPBACK = ("127.0.0.1", 50000)
SERVER = ("127.0.0.1", 8000)


@dataclass
class Answer:
    """`status` is 0 if the app sent nothing."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


def request(
    app: Any,
    path: str,
    *,
    method: str = "POST",
    body: bytes | Iterable[bytes] = b"",
    headers: Iterable[tuple[bytes, bytes]] = (),
    client: tuple[str, int | None] | None = LOOPBACK,
    server: tuple[str, int | None] | None = SERVER,
    query: bytes = b"",
    root_path: str = "",
) -> Answer:
    """Send it and return the answer. `body` in parts is sent in parts."""
    parts = [body] if isinstance(body, bytes) else list(body)
    answer = Answer()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": query,
        "root_path": root_path,
        "headers": list(headers),
        "client": client,
        "server": server,
        "state": {},
    }

    async def receive() -> dict[str, Any]:
        if parts:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = dict(message["headers"])
        elif message["type"] == "http.response.body":
            answer.body += message.get("body", b"")

    asyncio.run(app(scope, receive, send))
    return answer
