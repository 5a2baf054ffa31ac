"""Options and environment of the simulator."""

from __future__ import annotations

import pytest

from hardpoint_sim.settings import Rules, Settings, read_settings


def test_options_win_over_the_environment_and_that_over_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEVICES", "SEED", "MEMORY"):
        monkeypatch.delenv(f"HARDPOINT_SIM_{name}", raising=False)
    assert read_settings({}) == Settings()
    monkeypatch.setenv("HARDPOINT_SIM_DEVICES", "4")
    monkeypatch.setenv("HARDPOINT_SIM_SEED", "9")
    monkeypatch.setenv("HARDPOINT_SIM_MEMORY", "4096")
    assert read_settings({}) == Settings(devices=4, seed=9, memory=4096)
    rules = Rules(execute_late=False)
    assert read_settings({"devices": 3, "rules": rules}) == Settings(devices=3, seed=9, memory=4096, rules=rules)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"devices": 0}, "at least 1 device, got 0"),
        ({"devices": "many"}, "option 'devices' has to be a whole number, got 'many'"),
        ({"memory": -1}, "at least 1, got -1"),
        ({"device": 2}, "no option device; it knows devices"),
        ({"rules": {"execute_late": False}}, "has to be a hardpoint_sim.settings.Rules, got dict"),
    ],
)
def test_what_is_not_understood_is_refused_in_a_sentence(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        read_settings(options)


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDPOINT_SIM_DEVICES", "two")
    with pytest.raises(ValueError, match="HARDPOINT_SIM_DEVICES has to be a whole number, got 'two'"):
        read_settings({})
