"""`ControlGuard`: control endpoints answer on loopback, or to whoever has the token; and take messages of bounded size.

    no token configured   requests that come from and to a loopback address pass, all others are refused
    token configured      requests with ``Authorization: Bearer <token>`` pass, also those from loopback need it

A proxy on the same machine makes everybody look like loopback: where there is one, configure a token. Requests that a
browser sends for a web page (they have an ``Origin``) need a token even on loopback: vLLM allows every origin. So do
those that call this machine by a name that a stranger can own (``Host``): a page may have its own name point here, and
then sends GET without an ``Origin``.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from hardpoint.control import Token, read_token
from hardpoint_vllm.control.paths import is_control

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_BYTES = 1 << 20  # what travels in a control call is a few names and numbers; weights take another way
_logger = logging.getLogger("vllm.hardpoint.control")


class ControlGuard:
    """ASGI middleware.

    Args:
        app: what it guards.
        token: for tests; by default what ``HARDPOINT_CONTROL_TOKEN_FILE`` or ``HARDPOINT_CONTROL_TOKEN`` give.

    Raises:
        BadToken: on construction, the token cannot be read: the server does not start.
    """

    def __init__(self, app: App, token: Token | None = None) -> None:
        self._app = app
        self._token = read_token() if token is None else token
        _logger.info(
            "hardpoint: control endpoints %s", "ask for the token" if self._token is not None else "answer on loopback"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if not is_control(_path(scope)):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal:
            await _answer(scope, send, 403, refusal)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        body, complaint = await _whole_body(scope, receive)
        if body is None and not complaint:
            return  # the client has gone in the middle of it: half a call is none
        if body is None:
            await _answer(scope, send, 413, complaint)
            return
        await self._app(scope, _replayed(body, receive), send)

    def _refusal(self, scope: Scope) -> str:
        """Why this request may not come in; empty if it may."""
        headers = _headers(scope)
        if self._token is not None:
            given = headers.get(b"authorization", [])
            # Two of them: whoever comes after us may take the other one.
            if len(given) == 1 and self._token.matches_header(given[0].decode("latin-1")):
                return ""
            return (
                f"{_path(scope)!a:.80} is a control endpoint and needs the token: send it as Authorization: Bearer, "
                "from the file that HARDPOINT_CONTROL_TOKEN_FILE names."
            )
        if b"origin" in headers:
            return (
                f"{_path(scope)!a:.80} is a control endpoint and was called by a web page. Set "
                "HARDPOINT_CONTROL_TOKEN_FILE on the server to let pages with the token in."
            )
        client = scope.get("client")
        if not (_is_loopback(client) and _is_loopback(scope.get("server"))):
            return (
                f"{_path(scope)!a:.80} is a control endpoint and answers on loopback only. Set "
                "HARDPOINT_CONTROL_TOKEN_FILE on the server to let others in who have the token."
            )
        by_socket = client is not None and client[1] is None  # where no page can call
        if by_socket or all(_names_this_machine(host.decode("latin-1")) for host in headers.get(b"host", [])):
            return ""
        return (
            f"{_path(scope)!a:.80} is a control endpoint and was called by a name that a web page may have. Call it "
            "by an address, as 127.0.0.1, or set HARDPOINT_CONTROL_TOKEN_FILE on the server."
        )


def _path(scope: Scope) -> str:
    path, root = str(scope.get("path", "")), str(scope.get("root_path", ""))
    return path.removeprefix(root)


def _headers(scope: Scope) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for name, value in scope.get("headers", ()):
        found.setdefault(name.lower(), []).append(value)
    return found


def _is_loopback(address: Any) -> bool:
    """Whether a (host, port) of ASGI is on loopback. A Unix socket (no host, or a path) is on this machine too."""
    if address is None:
        return False
    host, port = address[0], address[1]
    if port is None:
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def _names_this_machine(host: str) -> bool:
    """Whether a ``Host`` is an address, a name without a dot, or this machine's: none that a stranger can own."""
    name = host.strip().lower()
    if name.startswith("["):  # an address of IPv6
        return True
    name = name.rpartition(":")[0] or name
    if "." not in name or name.endswith(".localhost") or name == socket.gethostname().lower():
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _whole_body(scope: Scope, receive: Receive) -> tuple[bytes | None, str]:
    """The request's body if it is of a size that a control call can have; else None and why, "" if the client left."""
    declared = _headers(scope).get(b"content-length", [b""])[0]
    if declared.isdigit() and int(declared) > BODY_BYTES:
        return None, f"A control call takes at most {BODY_BYTES} bytes, this one announces {declared.decode()[:20]}."
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None, ""
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_BYTES:
            return None, f"A control call takes at most {BODY_BYTES} bytes, this one goes on."
        if not message.get("more_body", False):
            return b"".join(parts), ""


def _replayed(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _answer(scope: Scope, send: Send, status: int, sentence: str) -> None:
    _logger.warning("hardpoint: refused a request from %s: %s", scope.get("client"), sentence)
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = json.dumps({"error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
