"""`ControlGuard` by itself: who is let in, what is said to the others, and that the body arrives as it was sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from hardpoint.control import BadToken, Token
from hardpoint_vllm.control import ControlGuard
from hardpoint_vllm.control.guard import BODY_BYTES
from support.asgi import request

SECRET = "0123456789abcdef0123456789abcdef"
BEARER = (b"Authorization", f"Bearer {SECRET}".encode())
FAR, FAR_SERVER = ("10.0.0.7", 50000), ("10.0.0.1", 8000)


class App:
    """Answers 200 and remembers what it got."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", scope["type"] == "http"
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.got.append((scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARDPOINT_CONTROL_TOKEN", raising=False)
    monkeypatch.delenv("HARDPOINT_CONTROL_TOKEN_FILE", raising=False)


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (("127.0.0.1", 1), ("127.0.0.1", 8000)),
        (("127.0.9.1", 1), ("127.0.0.1", 8000)),
        (("::1", 1), ("::1", 8000)),
        (("::ffff:127.0.0.1", 1), ("::ffff:127.0.0.1", 8000)),
        (("", None), ("/run/vllm.sock", None)),
    ],
)
def test_without_a_token_loopback_is_let_in(client: Any, server: Any) -> None:
    app = App()
    assert request(ControlGuard(app), "/update_weights", body=b"{}", client=client, server=server).status == 200
    assert app.got == [("/update_weights", b"{}")]


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (FAR, FAR_SERVER),
        (FAR, ("127.0.0.1", 8000)),
        (("127.0.0.1", 1), FAR_SERVER),  # from here, over the network's address: the server listens on it
        (("::ffff:10.0.0.7", 1), ("::1", 8000)),
        (None, None),
        (("localhost", 1), ("localhost", 8000)),  # a name says nothing
    ],
)
def test_without_a_token_nobody_else_is(client: Any, server: Any) -> None:
    app = App()
    answer = request(ControlGuard(app), "/update_weights", body=b"{}", client=client, server=server)
    assert answer.status == 403
    assert "answers on loopback only. Set HARDPOINT_CONTROL_TOKEN_FILE" in answer.json()["error"]
    assert app.got == []


def test_a_web_page_is_not_let_in_without_the_token() -> None:
    app = App()
    answer = request(ControlGuard(app), "/pause", headers=[(b"origin", b"http://evil.example")])
    assert answer.status == 403
    assert "was called by a web page" in answer.json()["error"]
    assert app.got == []


@pytest.mark.parametrize("host", [b"evil.example", b"evil.example:8000", b"127.0.0.1.evil.example", b"Localhost.Evil"])
def test_a_page_whose_own_name_points_here_is_not_let_in_without_the_token(host: bytes) -> None:
    app = App()
    answer = request(ControlGuard(app), "/server_info", method="GET", headers=[(b"host", host)])
    assert answer.status == 403
    assert "by a name that a web page may have. Call it by an address" in answer.json()["error"]
    assert request(ControlGuard(app, Token(SECRET)), "/pause", headers=[(b"host", host), BEARER]).status == 200
    assert len(app.got) == 1


@pytest.mark.parametrize(
    "host",
    [b"127.0.0.1:8000", b"0.0.0.0:8000", b"[::1]:8000", b"LOCALHOST:1", b"node7:8000", b"a.localhost"],
)
def test_addresses_and_names_that_no_stranger_can_own_are_let_in(host: bytes) -> None:
    assert request(ControlGuard(App()), "/pause", headers=[(b"host", host)]).status == 200


def test_a_call_that_breaks_off_is_no_call() -> None:
    app, sent = App(), list[Any]()
    messages = [{"type": "http.request", "body": b'{"level', "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    address = ("127.0.0.1", 1)
    scope = {"type": "http", "path": "/sleep", "headers": [], "client": address, "server": address}
    asyncio.run(ControlGuard(app)(scope, receive, send))
    assert app.got == [] and sent == [] and messages == []


@pytest.mark.parametrize("client", [("127.0.0.1", 1), FAR])
def test_with_a_token_everybody_needs_it(client: Any) -> None:
    app = App()
    guard = ControlGuard(app, Token(SECRET))
    server = FAR_SERVER
    assert request(guard, "/sleep", headers=[BEARER], client=client, server=server).status == 200
    wrong: list[list[tuple[bytes, bytes]]] = [
        [],
        [(b"authorization", b"Bearer wrong")],
        [(b"authorization", SECRET.encode())],
        [(b"authorization", f"Bearer {SECRET}x".encode())],
        [(b"authorization", b"Bearer \xff\xfe")],
        [BEARER, BEARER],
        [BEARER, (b"authorization", b"Bearer other")],
    ]
    for headers in wrong:
        answer = request(guard, "/sleep", headers=headers, client=client, server=server)
        assert answer.status == 403
        assert "needs the token" in answer.json()["error"]
        assert SECRET not in answer.body.decode()
    assert len(app.got) == 1


def test_the_token_is_in_no_log(heard: Callable[[str], list[str]]) -> None:
    said = heard("vllm.hardpoint.control")
    guard = ControlGuard(App(), Token(SECRET))
    request(guard, "/sleep", headers=[BEARER])
    request(guard, "/sleep", headers=[(b"authorization", b"Bearer guess-guess-guess")])
    assert any("refused a request" in line for line in said)
    assert not any(SECRET in line or "guess-guess" in line for line in said)


@pytest.mark.parametrize(
    "path", ["/health", "/metrics", "/v1/completions", "/v1/models", "/inference/v1/generate", "/"]
)
def test_serving_and_liveness_pass_by(path: str) -> None:
    app = App()
    assert request(ControlGuard(app, Token(SECRET)), path, client=FAR, server=FAR_SERVER).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/update_weights",
        "/update_weights/",
        "//update_weights",
        "/v1/load_lora_adapter",
        "/v1x",
        "/collective_rpc",
        "/health/../update_weights",
        "/something_new",
        "",
    ],
)
def test_everything_else_is_control(path: str) -> None:
    app = App()
    status = request(ControlGuard(app), path, client=FAR, server=FAR_SERVER).status
    assert status == (200 if path == "" else 403)


def test_a_root_path_is_taken_off() -> None:
    app = App()
    guard = ControlGuard(app)
    far = {"client": FAR, "server": FAR_SERVER, "root_path": "/engine"}
    assert request(guard, "/engine/v1/completions", **far).status == 200  # type: ignore[arg-type]
    assert request(guard, "/engine/update_weights", **far).status == 403  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"x" * (BODY_BYTES + 1), []),
        ([b"x" * BODY_BYTES, b"x"], []),
        (b"{}", [(b"content-length", str(BODY_BYTES + 1).encode())]),
    ],
)
def test_oversized_calls_never_reach_the_engine(body: bytes | Iterable[bytes], headers: Any) -> None:
    app = App()
    answer = request(ControlGuard(app), "/update_weights", body=body, headers=headers)
    assert answer.status == 413
    assert f"at most {BODY_BYTES} bytes" in answer.json()["error"]
    assert app.got == []


def test_a_body_in_parts_arrives_whole() -> None:
    app = App()
    parts = [b'{"update', b'_info"', b":{}}"]
    assert request(ControlGuard(app), "/update_weights", body=parts).status == 200
    assert json.loads(app.got[0][1]) == {"update_info": {}}


def test_a_token_that_cannot_be_read_keeps_the_server_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDPOINT_CONTROL_TOKEN", "short")
    with pytest.raises(BadToken):
        ControlGuard(App())
