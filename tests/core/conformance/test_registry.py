"""The registry finds laws by file, refuses misplaced and doubled ones, and suggests names."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import pytest

from hardpoint.conformance import LawContext, law, registry


def holds(context: LawContext) -> None:
    """It holds."""


def module(**values: object) -> ModuleType:
    made = ModuleType("laws")
    vars(made).update(values)
    return made


def find(monkeypatch: pytest.MonkeyPatch, *modules: tuple[str, ModuleType]) -> list[str]:
    """Ids that `laws` finds in these modules, past its cache."""
    monkeypatch.setattr(registry, "_modules", lambda package: iter(modules))
    return list(registry.laws.__wrapped__())


def test_laws_of_a_tuple_are_found_as_well_as_single_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = (law(part="device", id=f"device.{name}")(holds) for name in ("one", "two", "three"))
    found = find(monkeypatch, ("device", module(one=one, generated=(two, three), other=SimpleNamespace())))
    assert found == ["device.one", "device.two", "device.three"]


def test_a_law_in_the_wrong_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stray = law(part="device", id="device.stray")(holds)
    with pytest.raises(ValueError, match=r"device\.stray says part 'device' but lives in laws/streams\.py"):
        find(monkeypatch, ("streams", module(stray=stray)))


def test_two_laws_of_one_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (law(part="device", id="device.twice")(holds) for _ in range(2))
    with pytest.raises(ValueError, match=r"two laws are called device\.twice"):
        find(monkeypatch, ("device", module(first=first, second=second)))
    assert find(monkeypatch, ("device", module(first=first, again=first))) == ["device.twice"]


def test_an_unknown_name_gets_a_suggestion_or_the_list() -> None:
    with pytest.raises(registry.UnknownLaw, match=r"did you mean dp_rule\.plans-are-pure\?"):
        registry.find_law("dp_rule.plan-are-pure")
    with pytest.raises(registry.UnknownLaw, match=r"names begin with one of these: device\., streams\."):
        registry.find_law("zzz")
    with pytest.raises(registry.UnknownLaw, match=r"known of dp_rule: dp_rule\.same-count-on-all-ranks, dp_rule\."):
        registry.find_law("dp_rule.qqq")
    with pytest.raises(registry.UnknownLaw, match=r"no mutant or legal variant 'device\.nope'"):
        registry.find_change("device.nope")


def test_every_change_names_a_law_that_exists_and_parts_come_in_order() -> None:
    assert [mutant.name for mutant in registry.mutants() if mutant.law not in registry.laws()] == []
    parts = list(dict.fromkeys(law.part for law in registry.laws().values()))
    assert parts == sorted(parts, key=registry.part_rank)
    assert registry.part_rank("a-vendors-own") > registry.part_rank(registry.PART_ORDER[-1])
