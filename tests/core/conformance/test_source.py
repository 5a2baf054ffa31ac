"""`BackendSource`: what a worker builds again after a law has failed."""

from __future__ import annotations

from hardpoint.conformance.source import BackendSource
from hardpoint.selection import get_backend, rebuild_backend


def test_a_source_keeps_the_selections_backend_unless_it_is_built_anew() -> None:
    source = BackendSource("sim")
    first = source.build().backend
    assert source.build().backend is first
    second = source.build(anew=True).backend
    assert second is not first
    assert source.build().backend is second, "the selection still hands out the one that a failed law has spoilt"


def test_a_backend_built_anew_takes_the_place_of_the_one_before() -> None:
    before = get_backend("cpu")
    after = rebuild_backend("cpu")
    assert after is not before
    assert get_backend("cpu") is after
