"""A patch is made once, can be told, and can be taken out."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hardpoint_vllm.patching import is_wrapped, unwrap, wrap


def _double(original):  # type: ignore[no-untyped-def]
    return lambda value: 2 * original(value)


def test_wrapping_twice_is_wrapping_once() -> None:
    host = SimpleNamespace(function=lambda value: value + 1)
    assert wrap(host, "function", _double)
    assert not wrap(host, "function", _double)
    assert host.function(1) == 4
    assert is_wrapped(host, "function")


def test_unwrapping_gives_the_original_back() -> None:
    original = lambda value: value + 1  # noqa: E731
    host = SimpleNamespace(function=original)
    wrap(host, "function", _double)
    unwrap(host, "function")
    unwrap(host, "function")
    assert host.function is original
    assert not is_wrapped(host, "function")


def test_a_name_that_the_host_lost_is_an_error() -> None:
    with pytest.raises(AttributeError):
        wrap(SimpleNamespace(), "function", _double)
