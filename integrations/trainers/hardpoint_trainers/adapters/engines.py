"""The engines that take the weights, wherever they run: in this process, or behind vLLM's HTTP server."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Protocol, cast

from hardpoint.control import Token, read_token
from hardpoint.errors import SyncError

_ANSWER_BYTES = 1 << 20  # of an engine's answer that is read: it ends in an error message


class ServingEngine(Protocol):
    """vLLM's calls around one update. Each blocks until the engine has done it, and raises what the engine says."""

    def join(self, init_info: Mapping[str, Any]) -> None:
        """Meet the trainer (``init_weight_transfer_engine``)."""
        ...

    def start(self) -> None: ...

    def update(self, update_info: Mapping[str, Any]) -> None:
        """Receive one update; returns when it is verified on every worker."""
        ...

    def finish(self) -> None:
        """Put it live."""
        ...


class LocalEngine:
    """A ``vllm.LLM`` in this process, as TRL and ms-swift have it in colocate mode."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def join(self, init_info: Mapping[str, Any]) -> None:
        self._llm.init_weight_transfer_engine({"init_info": dict(init_info)})

    def start(self) -> None:
        self._llm.start_weight_update()

    def update(self, update_info: Mapping[str, Any]) -> None:
        self._llm.update_weights({"update_info": dict(update_info)})

    def finish(self) -> None:
        self._llm.finish_weight_update()


class RpcEngine:
    """A vLLM ``LLMEngine`` in this process, without ``vllm.LLM`` around it, as ms-swift has it in colocate mode."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def join(self, init_info: Mapping[str, Any]) -> None:
        self._engine.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": dict(init_info)})

    def start(self) -> None:
        self._engine.collective_rpc("start_weight_update")

    def update(self, update_info: Mapping[str, Any]) -> None:
        self._engine.collective_rpc("update_weights", kwargs={"update_info": dict(update_info)})

    def finish(self) -> None:
        self._engine.collective_rpc("finish_weight_update")


class HttpEngine:
    """``vllm serve`` with ``VLLM_SERVER_DEV_MODE=1``, by its weight-transfer endpoints.

    Args:
        url: of the server, for example ``http://127.0.0.1:8000``.
        deadline: seconds for each call; `update` gets this on top of the publisher's own deadlines.
        token: None for the one in the file that ``HARDPOINT_CONTROL_TOKEN_FILE`` names, or in
            ``HARDPOINT_CONTROL_TOKEN``. It is never part of an error or of a log line.

    Raises:
        SyncError: the address is no HTTP address, or holds a password.
        BadToken: see `read_token`.
    """

    def __init__(self, url: str, *, deadline: float = 120.0, token: Token | None = None) -> None:
        self._url = url.rstrip("/")
        self._deadline = deadline
        self._token = token if token is not None else read_token()
        scheme, _, rest = self._url.partition("://")
        if scheme not in ("http", "https") or not rest:
            raise SyncError(f"An engine's address starts with http:// or https://, found {url!r}.")
        if "@" in rest.split("/")[0]:
            raise SyncError("An engine's address holds no user or password: it would end in logs.")

    @property
    def url(self) -> str:
        return self._url

    def join(self, init_info: Mapping[str, Any]) -> None:
        self.post("/init_weight_transfer_engine", {"init_info": dict(init_info)})

    def start(self) -> None:
        self.post("/start_weight_update", {})

    def update(self, update_info: Mapping[str, Any]) -> None:
        self.post("/update_weights", {"update_info": dict(update_info)})

    def finish(self) -> None:
        self.post("/finish_weight_update", {})

    def post(self, path: str, body: Mapping[str, Any], *, deadline: float | None = None) -> dict[str, Any]:
        """POST `body` as JSON and return the JSON object of the answer.

        Raises:
            SyncError: the server is not there, or answers with an error, which is quoted.
        """
        request = urllib.request.Request(
            f"{self._url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        if self._token is not None:
            request.add_unredirected_header("Authorization", f"Bearer {self._token.secret}")
        try:
            # No proxy: an environment's proxy would see the token, and loopback is not behind one.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
            with opener.open(request, timeout=self._deadline if deadline is None else deadline) as answer:
                data = answer.read(_ANSWER_BYTES)
        except urllib.error.HTTPError as error:
            said = " ".join(error.read(_ANSWER_BYTES).decode(errors="replace").split())
            hint = _hint(error.code, path)
            raise SyncError(f"{self._url}{path} answered {error.code}: {said[:1000]}{hint}") from None
        except (urllib.error.URLError, TimeoutError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise SyncError(f"{self._url}{path} cannot be reached: {reason}. Is the vLLM server up?") from None
        try:
            found = json.loads(data) if data else {}
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise SyncError(f"{self._url}{path} answered with something that is no JSON object: {data[:80]!r}.")
        return cast("dict[str, Any]", found)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect of a control call is an error: it would be repeated somewhere else, as a GET."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def _hint(code: int, path: str) -> str:
    if code == 404:
        return f" The server has no {path}: start it with VLLM_SERVER_DEV_MODE=1."
    if code in (401, 403):
        return " Give this process the server's token in HARDPOINT_CONTROL_TOKEN_FILE or HARDPOINT_CONTROL_TOKEN."
    return ""
