"""The guard around vLLM's own app: every route of the installed vLLM, and garbage at its control endpoints."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardpoint_vllm.control import ControlGuard, install
from hardpoint_vllm.control.paths import INFERENCE, OPEN, SERVING, is_control
from support.asgi import request

FAR, FAR_SERVER = ("10.0.0.7", 50000), ("10.0.0.1", 8000)
# What an attacker must not reach, by name: vLLM 0.31 and 0.32 in development mode.
DANGEROUS = {
    "/init_weight_transfer_engine",
    "/start_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/pause",
    "/resume",
    "/collective_rpc",
    "/sleep",
    "/wake_up",
    "/reset_prefix_cache",
}


class Engine:
    """Stands for the engine client; remembers what reached it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.vllm_config = SimpleNamespace()

    def __getattr__(self, name: str) -> Any:
        async def call(*_args: Any, **_kwargs: Any) -> Any:
            self.calls.append(name)
            return {}

        if name.startswith("__"):
            raise AttributeError(name)
        return call


@lru_cache(maxsize=1)
def _app() -> Any:
    """vLLM's app as ``vllm serve`` makes it, in development mode, with hardpoint's weight transfer."""
    patch = pytest.MonkeyPatch()
    patch.setenv("VLLM_SERVER_DEV_MODE", "1")
    patch.delenv("HARDPOINT_CONTROL_TOKEN", raising=False)
    patch.delenv("HARDPOINT_CONTROL_TOKEN_FILE", raising=False)
    from vllm.entrypoints.launchers import app as launcher
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from hardpoint_vllm.patching import unwrap

    arguments: Namespace = make_arg_parser(FlexibleArgumentParser()).parse_args(
        ["--weight-transfer-config", '{"backend": "hardpoint"}', "--model", "none"]
    )
    install.install()
    try:
        return launcher.build_app(arguments, ("generate",))
    finally:
        unwrap(launcher, "init_entrypoints_middleware")
        install._asked = False
        patch.undo()


@pytest.fixture
def engine() -> Iterator[Engine]:
    app, made = _app(), Engine()
    app.state.engine_client = made
    yield made


def _routes() -> list[tuple[str, str]]:
    """Method and path of every route, mounts left out."""
    found = []
    for route in _walk(_app().router.routes):
        for method in sorted(getattr(route, "methods", None) or ()):
            found.append((method, route.path))
    return found


def _walk(routes: Any) -> Iterator[Any]:
    for route in routes:
        inner = getattr(route, "routes", None)
        if inner is None:
            inner = getattr(getattr(route, "original_router", None) or getattr(route, "router", None), "routes", None)
        if inner:
            yield from _walk(inner)
        elif hasattr(route, "path"):
            yield route


def test_the_guard_is_there_without_being_asked_for_and_is_the_first() -> None:
    assert _app().user_middleware[0].cls is ControlGuard


def test_servers_with_other_weight_transfer_are_left_alone() -> None:
    assert not install.guards(Namespace(weight_transfer_config=None))
    assert not install.guards(Namespace())
    assert not install.guards(Namespace(weight_transfer_config={"backend": "nccl"}))
    assert install.guards(Namespace(weight_transfer_config=SimpleNamespace(backend="hardpoint")))


def test_the_dangerous_routes_are_there_and_guarded_by_nothing_of_vllms() -> None:
    paths = {path for _, path in _routes()}
    assert paths >= DANGEROUS, sorted(DANGEROUS - paths)
    assert all(is_control(path) for path in DANGEROUS)


def test_every_route_is_serving_or_open_or_refused_from_afar(engine: Engine) -> None:
    for method, path in _routes():
        plain = path.replace("{", "x").replace("}", "x")
        if not is_control(plain):
            assert plain in OPEN | INFERENCE or plain.startswith(SERVING), plain
            continue
        answer = request(_app(), plain, method=method, body=b"{}", client=FAR, server=FAR_SERVER)
        assert answer.status == 403, (method, plain, answer)
    assert engine.calls == []


def test_from_loopback_a_good_call_reaches_the_engine(engine: Engine) -> None:
    answer = request(
        _app(),
        "/update_weights",
        body=b'{"update_info": {"epoch": 1}}',
        headers=[(b"content-type", b"application/json")],
    )
    assert answer.status == 200, answer
    assert engine.calls == ["update_weights"]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(DANGEROUS)),
    st.one_of(st.binary(max_size=200), st.just(b"[" * 5000), st.just(b'{"update_info": 1}'), st.just(b"null")),
    st.sampled_from([b"application/json", b"text/plain", b"application/octet-stream", b"\xff"]),
)
def test_garbage_from_afar_never_reaches_the_engine(engine: Engine, path: str, body: bytes, kind: bytes) -> None:
    engine.calls.clear()
    answer = request(_app(), path, body=body, headers=[(b"content-type", kind)], client=FAR, server=FAR_SERVER)
    assert answer.status == 403
    assert "control endpoint" in answer.json()["error"]
    assert engine.calls == []


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["/update_weights", "/init_weight_transfer_engine"]),
    st.one_of(
        st.binary(max_size=200),
        st.just(b"[" * 5000),
        st.sampled_from([b"null", b"{}", b'{"update_info": 1}', b'{"init_info": []}', b'{"update_info": "x"}']),
    ),
)
def test_garbage_with_the_right_to_call_is_refused_before_the_engine(engine: Engine, path: str, body: bytes) -> None:
    engine.calls.clear()
    answer = request(_app(), path, body=body, headers=[(b"content-type", b"application/json")])
    assert 400 <= answer.status < 500, answer
    assert engine.calls == []
