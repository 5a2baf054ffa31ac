"""`Gathered`: what a trainer hands over by runtime name comes out as the checkpoint."""

from __future__ import annotations

import pytest
import torch

from hardpoint.errors import SyncError
from hardpoint_trainers import checkpoint_tensors
from hardpoint_trainers.adapters.gathered import Gathered
from support.trainer_models import tiny_trainer_moe


@pytest.mark.parametrize("tied", [False, True])
def test_it_is_the_checkpoint(tied: bool) -> None:
    model = tiny_trainer_moe(tie_word_embeddings=tied)
    gathered = Gathered(model, ((name, tensor.detach()) for name, tensor in model.named_parameters()))
    found = dict(gathered)
    expected = checkpoint_tensors(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert list(found) == [spec.name for spec in gathered.specs]


def test_wrappers_names_are_made_plain() -> None:
    model = tiny_trainer_moe()
    pairs = ((f"base_model.model.{name}", tensor.detach()) for name, tensor in model.named_parameters())
    assert dict(Gathered(model, pairs)).keys() == checkpoint_tensors(model).keys()


def test_what_is_left_out_or_unknown_or_doubled_is_named() -> None:
    model = tiny_trainer_moe()
    pairs = [(name, tensor.detach()) for name, tensor in model.named_parameters()]
    with pytest.raises(SyncError, match=r"ended without handing over lm_head.weight"):
        dict(Gathered(model, [pair for pair in pairs if pair[0] != "lm_head.weight"]))
    with pytest.raises(SyncError, match=r"hands over model.layers.9.x, which its model does not have"):
        dict(Gathered(model, [("model.layers.9.x", torch.ones(1)), *pairs]))
    with pytest.raises(SyncError, match=r"hands over model.embed_tokens.weight, .* a second time"):
        dict(Gathered(model, [pairs[0], *pairs]))
