"""The rule of a backend inside vLLM's exchange of token counts, on vLLM's own types."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hardpoint.dp import DpRule
from hardpoint_vllm.parallel import padding
from hardpoint_vllm.patching import is_wrapped, unwrap

UNIFORM, LEFT_ALONE, BY_TP = DpRule(), DpRule("none", 1, "graph"), DpRule("max", "tp", "ep")


@pytest.fixture(autouse=True)
def group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padding, "_group", lambda: (4, True))


def counts(*tokens: int) -> torch.Tensor:
    return torch.tensor(tokens, dtype=torch.int32)


def using(monkeypatch: pytest.MonkeyPatch, rule: DpRule) -> None:
    monkeypatch.setattr(padding, "rule", lambda: rule)


@pytest.mark.parametrize(("rule", "expected"), [(UNIFORM, [30, 30]), (LEFT_ALONE, [26, 30]), (BY_TP, [32, 32])])
def test_an_eager_step_of_the_first_runner(monkeypatch: pytest.MonkeyPatch, rule: DpRule, expected: list[int]) -> None:
    using(monkeypatch, rule)
    seen = padding._v1(lambda *args, **kwargs: (False, counts(26, 30), 0))(26, 26, False, 0, None)
    assert seen[0] is False
    assert seen[1].tolist() == expected
    assert seen[1].dtype == torch.int32
    assert seen[2] == 0


@pytest.mark.parametrize("answer", [(False, counts(32, 32), 2), (True, counts(26, 30), 0), (False, None, 0)])
def test_what_stock_has_made_equal_stays(monkeypatch: pytest.MonkeyPatch, answer: tuple[Any, ...]) -> None:
    using(monkeypatch, BY_TP)
    assert padding._v1(lambda: answer)() is not None
    same = padding._v1(lambda: answer)()
    assert all(left is right for left, right in zip(same, answer, strict=True))


class Mode(Enum):
    NONE = 0
    FULL = 2


@dataclass(frozen=True)
class Described:
    cg_mode: Mode
    num_tokens: int
    num_ubatches: int = 1


@pytest.mark.parametrize("wrapped", [True, False], ids=["0.32: a state", "0.26: a tensor"])
def test_an_eager_step_of_the_newer_runner(monkeypatch: pytest.MonkeyPatch, wrapped: bool) -> None:
    using(monkeypatch, UNIFORM)
    tokens = counts(26, 30)
    answer = (Described(Mode.NONE, 26), SimpleNamespace(num_tokens_across_dp=tokens) if wrapped else tokens)
    described, synced = padding._v2(lambda *args: answer)(None, None, 26, 4, None, 2, 0)
    assert described == Described(Mode.NONE, 30)
    assert synced is answer[1]
    assert tokens.tolist() == [30, 30]


@pytest.mark.parametrize(
    "answer",
    [
        (Described(Mode.FULL, 32), counts(32, 32)),
        (Described(Mode.NONE, 26, num_ubatches=2), counts(26, 30)),
        (Described(Mode.NONE, 0), None),
    ],
)
def test_a_graph_step_or_no_step_of_the_newer_runner_stays(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    using(monkeypatch, BY_TP)
    before = None if answer[1] is None else answer[1].tolist()
    described, synced = padding._v2(lambda **kwargs: answer)(dp_rank=1)
    assert described is answer[0]
    assert before == (None if synced is None else synced.tolist())


@pytest.fixture
def installed() -> Iterator[Any]:
    module = importlib.import_module(padding.V1)
    fresh = not is_wrapped(module, padding.V1_NAME)
    padding.install()
    yield module
    if fresh:
        unwrap(module, padding.V1_NAME)


def test_it_is_the_function_that_vllm_calls(installed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through `coordinate_batch_across_dp`, with the exchange itself replaced: 26 and 30 tokens, eager."""
    using(monkeypatch, UNIFORM)
    exchanged = torch.tensor([[26, 30], [26, 30], [0, 0], [0, 0]], dtype=torch.int32)
    monkeypatch.setattr(installed, "_run_ar", lambda **kwargs: exchanged)
    config = SimpleNamespace(data_parallel_size=2, num_ubatches=1, disable_nccl_for_dp_synchronization=True)
    _, padded, mode = installed.coordinate_batch_across_dp(26, False, config, num_tokens_padded=26)
    assert (padded.tolist(), mode) == ([30, 30], 0)
    unwrap(installed, padding.V1_NAME)
    _, stock, _ = installed.coordinate_batch_across_dp(26, False, config, num_tokens_padded=26)
    assert stock.tolist() == [26, 30], "stock leaves the ranks apart, and their collectives hang on some devices"
