"""``hardpoint explain OPERATION`` as a user and as a program see it."""

from __future__ import annotations

import json

import pytest

from hardpoint.cli.command import FOUND, UNUSABLE
from hardpoint.cli.main import main

H100 = "NVIDIA H100 80GB HBM3"
ASKED = ["gdn_chunk_rule", "H=16", "HV=32", "sequences=1", "tokens=9000", "--device", H100, "--backend", "cpu"]


def test_it_tells_costs_of_a_device_that_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *ASKED]) == FOUND, "the cpu backend offers no kernel for it"
    said = capsys.readouterr().out
    assert any("fla" in line and "not offered" in line for line in said.splitlines()), said
    assert "numbers of H=16 HV=32 sequences=1 tokens=8192" in said
    assert main(["explain", *ASKED, "--json"]) == FOUND
    asked = json.loads(capsys.readouterr().out)
    times = [row["us"] for row in asked["rows"]]
    assert asked["kind"] == "explain" and times == sorted(times) and len(times) >= 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gdn_chunk_rul"], "Did you mean gdn_chunk_rule?"),
        (["gdn_decode", "H=16"], "needs HV=N, requests=N as well"),
        (["gdn_decode", "H=x"], "got 'H=x'"),
        (["gdn_decode", "heads=3"], "takes sizes H=N, HV=N, requests=N"),
    ],
)
def test_wrong_questions_are_answered_with_a_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *words]) == UNUSABLE
    assert said in capsys.readouterr().err
