"""What the demo's trainer teaches."""

from __future__ import annotations

import torch

from hardpoint_vllm.demo.lessons import _ANSWER, _BATCH, _IGNORED, _examples, _pace
from hardpoint_vllm.demo.recipes import VOCABULARY


def test_an_example_is_a_prompt_and_the_lessons_continuation_of_its_last_token() -> None:
    random = torch.Generator().manual_seed(0)
    follower = torch.randperm(VOCABULARY, generator=random)
    for _ in range(20):
        tokens, labels = _examples(follower, random)
        length = tokens.shape[1] - _ANSWER
        assert tokens.shape[0] == _BATCH
        assert torch.equal(tokens[:, length:], follower[tokens[:, length - 1 : -1]])
        assert torch.equal(labels[:, length:], tokens[:, length:])
        assert (labels[:, :length] == _IGNORED).all()


def test_the_pace_warms_up_and_ends_near_zero_and_is_never_more_than_one() -> None:
    paces = [_pace(step, 100) for step in range(100)]
    assert paces[0] < 0.2
    assert max(paces) == 1.0
    assert 0 < paces[-1] < 0.1
    assert paces[20] == paces[40] == 1.0
