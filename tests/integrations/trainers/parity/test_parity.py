"""The parity probe on real models: quiet for the same weights, loud and precise for others."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from hardpoint.errors import HardpointError
from hardpoint_trainers.parity import Limit, ParityExceeded, ParityProbe, TrainerSide, limit_for
from hardpoint_trainers.parity.probe import compare
from support.trainer_models import tiny_trainer_moe

PROMPTS = ([5, 9, 33, 20, 11, 8, 1, 2], [40, 3, 7, 7, 7])


def _wide() -> Any:
    """A model whose experts matter."""
    model = tiny_trainer_moe()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    return model


def _swapped(model: Any) -> Any:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for layer in other.model.layers:
            weight = layer.mlp.experts.gate_up_proj
            weight.copy_(weight.roll(1, 0))
    return other


def test_the_same_weights_pass_in_another_dtype() -> None:
    model = _wide()
    probe = ParityProbe(
        TrainerSide(model), TrainerSide(copy.deepcopy(model).float()), PROMPTS, limit_for(torch.bfloat16)
    )
    parity = probe(epoch=3)
    assert parity
    assert 0 < parity.rms < 0.15
    assert parity.tokens == 11
    assert probe.history == [parity]


def test_swapped_experts_are_a_sentence_with_place_and_numbers() -> None:
    model = _wide()
    probe = ParityProbe(TrainerSide(model), TrainerSide(_swapped(model)), PROMPTS, limit_for(torch.bfloat16))
    with pytest.raises(ParityExceeded, match=r"After epoch 4 log-probs .* differ by .* limit 0\.15.*") as excess:
        probe(epoch=4)
    parity = excess.value.parity
    prompt, position, token, trainer, rollout = parity.where
    assert PROMPTS[prompt][position] == token
    assert math.isclose(abs(trainer - rollout), parity.largest)
    assert parity.largest >= parity.mean
    assert f"token {position} of prompt {prompt} (id {token})" in str(excess.value)


def test_lenient_probe_answers_instead() -> None:
    model = _wide()
    sides = TrainerSide(model), TrainerSide(_swapped(model))
    assert not ParityProbe(*sides, PROMPTS, limit_for(torch.bfloat16), strict=False)()


def test_the_trainer_keeps_its_mode_and_its_gradients() -> None:
    model = tiny_trainer_moe().train()
    TrainerSide(model).logprobs(PROMPTS)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_one_token_that_goes_elsewhere_is_reported_and_not_judged() -> None:
    prompt = [list(range(21))]
    ours = [[-1.0] * 20]
    theirs = [[-1.0] * 19 + [-3.0]]
    parity = compare(prompt, ours, theirs, Limit(0.01, "here"))
    assert parity
    assert parity.largest == 2.0
    assert parity.where[:3] == (0, 20, 20)
    assert not compare(prompt, ours, [[-1.0] * 15 + [-3.0] * 5], Limit(0.01, "here"))


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_what_is_no_number_is_never_within_a_limit(bad: float) -> None:
    parity = compare([[1, 2, 3]], [[-1.0, -1.0]], [[-1.0, bad]], Limit(0.01, "here"))
    assert not parity
    assert parity.where[:3] == (0, 2, 3)


def test_equal_infinities_are_no_difference() -> None:
    assert compare([[1, 2]], [[-math.inf]], [[-math.inf]], Limit(0.01, "here")).rms == 0


def test_a_side_that_says_too_little_is_refused() -> None:
    with pytest.raises(HardpointError, match=r"Expected \[2\] log-probs from the rollout, found \[1\]"):
        compare([[1, 2, 3]], [[-1.0, -1.0]], [[-1.0]], Limit(0.01, "here"))


@pytest.mark.parametrize("prompts", [[], [[1, 2], [3]]])
def test_prompts_with_nothing_to_compare_are_refused(prompts: list[list[int]]) -> None:
    side = TrainerSide(None)
    with pytest.raises(HardpointError, match="at least two tokens each"):
        ParityProbe(side, side, prompts, limit_for(torch.bfloat16))


def test_limits_are_known_by_dtype_and_tell_their_source() -> None:
    limits = [limit_for(dtype).rms for dtype in (torch.float32, torch.float16, torch.bfloat16)]
    assert limits == sorted(limits)
    assert "Fast-LLM 525" in limit_for(torch.bfloat16).source
    with pytest.raises(HardpointError, match=r"No parity limit is known for float8_e4m3fn.*Limit\(rms, source\)"):
        limit_for(torch.float8_e4m3fn)
