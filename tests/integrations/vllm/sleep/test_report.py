"""`report`: what the answers of the workers of an engine amount to."""

from __future__ import annotations

import pytest

pytest.importorskip("vllm", reason="the integration is tested beside vLLM")

from hardpoint.lifecycle import Account
from hardpoint_vllm.sleep.report import Report, report
from hardpoint_vllm.sleep.seat import Answer


def answer(unmap: float, vote: float, failed: str = "", sentence: str = "") -> Answer:
    steps = {"drain": 0.25, "unmap": unmap, "vote": vote}
    return Answer(sentence, {}, Account("sleep", 1, 0.25 + unmap + vote + 0.125, steps, 100, failed))


def test_memory_is_the_slowest_and_protocol_that_of_who_waits_least() -> None:
    found = report(1, "sleep", [answer(unmap=2.0, vote=0.25), answer(unmap=0.5, vote=1.75)])
    assert found == Report(1, "sleep", "", memory=2.0, protocol=0.375, nbytes=200)


def test_the_step_that_failed_is_found_on_whichever_worker_it_failed() -> None:
    assert report(1, "wake", [answer(1, 1, "", "no"), answer(1, 1, "check digest", "no")]).failed == "check_digest"


def test_a_worker_that_could_not_begin_is_a_refusal() -> None:
    assert report(1, "sleep", [Answer("the store cannot be reached", {}, None)]).failed == "refused"
