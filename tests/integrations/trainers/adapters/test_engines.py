"""`HttpEngine` against a real HTTP server: what it sends, what it says when refused, and what it never says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from hardpoint.control import Token
from hardpoint.errors import SyncError
from hardpoint_trainers.adapters.engines import HttpEngine

SECRET = "0123456789abcdef0123456789abcdef"


class _Server(BaseHTTPRequestHandler):
    seen: ClassVar[list[tuple[str, str | None, Any]]] = []
    answer: ClassVar[tuple[int, bytes, dict[str, str]]] = (200, b"{}", {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, self.headers.get("Authorization"), body))
        code, data, headers = self.answer
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    _Server.seen.clear()
    _Server.answer = (200, b"{}", {})
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_the_calls_of_one_update(url: str) -> None:
    engine = HttpEngine(url, token=Token(SECRET))
    engine.join({"host": "h", "port": 1})
    engine.start()
    engine.update({"epoch": 2})
    engine.finish()
    assert [(path, body) for path, _, body in _Server.seen] == [
        ("/init_weight_transfer_engine", {"init_info": {"host": "h", "port": 1}}),
        ("/start_weight_update", {}),
        ("/update_weights", {"update_info": {"epoch": 2}}),
        ("/finish_weight_update", {}),
    ]
    assert {authorization for _, authorization, _ in _Server.seen} == {f"Bearer {SECRET}"}


def test_no_token_no_header(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARDPOINT_CONTROL_TOKEN", raising=False)
    monkeypatch.delenv("HARDPOINT_CONTROL_TOKEN_FILE", raising=False)
    HttpEngine(url).start()
    assert _Server.seen == [("/start_weight_update", None, {})]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((500, b"epoch 3 refused:\n no w1", {}), r"answered 500: epoch 3 refused: no w1"),
        ((404, b"", {}), r"The server has no /start_weight_update: start it with VLLM_SERVER_DEV_MODE=1"),
        ((403, b"token", {}), r"Give this process the server's token in HARDPOINT_CONTROL_TOKEN_FILE"),
        ((302, b"", {"Location": "http://127.0.0.1:9/"}), r"answered 302"),
        ((200, b"<html>", {}), r"no JSON object: b'<html>'"),
        ((200, b"[1]", {}), r"no JSON object"),
    ],
)
def test_refusals_are_sentences_without_the_token(url: str, answer: Any, said: str) -> None:
    _Server.answer = answer
    with pytest.raises(SyncError, match=said) as refusal:
        HttpEngine(url, token=Token(SECRET)).start()
    assert SECRET not in str(refusal.value)
    assert len(_Server.seen) == 1


def test_nobody_there() -> None:
    with pytest.raises(SyncError, match=r"cannot be reached.*Is the vLLM server up"):
        HttpEngine("http://127.0.0.1:9", deadline=2).start()


@pytest.mark.parametrize("bad", ["127.0.0.1:8000", "ftp://host", "http://", "http://user:pass@host"])
def test_addresses_that_are_none(bad: str) -> None:
    with pytest.raises(SyncError, match="An engine's address"):
        HttpEngine(bad)
