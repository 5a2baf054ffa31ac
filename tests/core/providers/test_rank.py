"""Ranking offers by measured tables: a pure function of offers and table."""

from __future__ import annotations

import json

import pytest

from hardpoint.launcher import KernelOffer, Refusal
from hardpoint.providers import Measurement, Table, rank, shipped
from hardpoint.providers.measured import parse

DEVICE = "Chip 9"


def offer(provider: str, note: str = "") -> KernelOffer:
    return KernelOffer("op", provider, lambda: provider, note)


def table(*rows: tuple[str, dict[str, int], float, float | None]) -> Table:
    return Table(tuple(Measurement("op", provider, DEVICE, shape, us, error) for provider, shape, us, error in rows))


def states(ranking: object) -> list[tuple[str, str]]:
    return [(row.provider, row.state) for row in ranking.rows]  # type: ignore[attr-defined]


def test_the_quickest_measured_offer_is_chosen() -> None:
    found = rank("op", {"H": 4}, DEVICE, [offer("slow"), offer("quick")],
                 table(("slow", {"H": 4}, 20.0, 1e-3), ("quick", {"H": 4}, 10.0, 1e-3)))  # fmt: skip
    assert states(found) == [("quick", "chosen"), ("slow", "offered")]
    assert found.chosen is not None and found.chosen.provider == "quick"
    assert "2.00 times as quick as slow" in found.why


@pytest.mark.parametrize("error", [1.1e-2, float("nan")])
def test_one_that_is_too_inexact_is_never_chosen(error: float) -> None:
    found = rank("op", {"H": 4}, DEVICE, [offer("quick"), offer("right")],
                 table(("quick", {"H": 4}, 1.0, error), ("right", {"H": 4}, 10.0, 1e-2)))  # fmt: skip
    assert states(found) == [("right", "chosen"), ("quick", "too inexact")]


def test_who_is_refused_or_not_here_still_shows_what_it_would_cost() -> None:
    answers = [offer("ours"), Refusal("op", "theirs", "requires head size 128, got 64")]
    times = [(name, {"H": 4}, us, None) for name, us in (("ours", 9.0), ("theirs", 3.0), ("absent", 4.0))]
    found = rank("op", {"H": 4}, DEVICE, answers, table(*times))
    assert states(found) == [("ours", "chosen"), ("theirs", "refused"), ("absent", "not offered")]
    assert [row.us for row in found.rows] == [9.0, 3.0, 4.0]
    assert "requires head size 128, got 64" in found.rows[1].reason


def test_a_batch_is_stood_for_by_the_nearest_but_a_model_must_agree() -> None:
    rows = table(
        ("a", {"H": 4, "tokens": 1000}, 1.0, None), ("a", {"H": 4, "tokens": 8000}, 8.0, None),
        ("b", {"H": 4, "tokens": 8000}, 7.0, None), ("b", {"H": 4, "tokens": 1000}, 2.0, None),
    )  # fmt: skip
    small = rank("op", {"H": 4, "tokens": 1500}, DEVICE, [offer("a"), offer("b")], rows)
    large = rank("op", {"H": 4, "tokens": 100000}, DEVICE, [offer("a"), offer("b")], rows)
    assert (small.rows[0].provider, large.rows[0].provider) == ("a", "b")
    assert dict(small.measured) == {"H": 4, "tokens": 1000}
    other = rank("op", {"H": 8, "tokens": 1000}, DEVICE, [offer("b"), offer("a")], rows)
    assert not other.measured and other.rows[0].us is None and other.rows[0].provider == "b"
    assert "never" not in other.why and "no offer for op was measured" in other.why


def test_an_unmeasured_offer_comes_after_a_measured_one() -> None:
    found = rank("op", {"H": 4}, DEVICE, [offer("new"), offer("old")], table(("old", {"H": 4}, 5.0, None)))
    assert states(found) == [("old", "chosen"), ("new", "offered")]


def test_nothing_offered_is_said() -> None:
    found = rank("op", {"H": 4}, DEVICE, [Refusal("op", "x", "no")], Table())
    assert found.chosen is None and "nothing that is offered" in found.why


def test_the_shipped_tables_are_whole() -> None:
    measurements = shipped().measurements
    assert measurements
    for m in measurements:
        assert m.us > 0 and m.date and m.device and (m.error is None or 0 < m.error < 1)
        assert set(m.shape) == set(shipped().names(m.op)), "one op has one set of sizes"
    assert {"gdn_chunk_rule", "gdn_decode"} <= set(shipped().ops())


def test_a_table_as_the_benchmark_writes_it() -> None:
    text = json.dumps({"device": DEVICE, "date": "2026-01-01",
                       "entries": [{"op": "op", "provider": "a", "shape": {"H": 4}, "us": 3.5}]})  # fmt: skip
    (found,) = parse(text)
    assert (found.device, found.us, found.error, found.date) == (DEVICE, 3.5, None, "2026-01-01")
