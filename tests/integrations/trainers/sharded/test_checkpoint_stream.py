"""`CheckpointStream` in one process: names, order, values, merged adapters, refusals."""

from __future__ import annotations

import pytest
import torch

from hardpoint.errors import SyncError
from hardpoint.sync import Manifest
from hardpoint_trainers import checkpoint_tensors
from hardpoint_trainers.sharded import CheckpointStream
from support.trainer_models import tiny_trainer_moe


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bucket_bytes", [1 << 30, 1 << 14, 1 << 13])
def test_it_is_the_checkpoint_in_the_order_of_its_manifest(tied: bool, bucket_bytes: int) -> None:
    model = tiny_trainer_moe(tie_word_embeddings=tied)
    expected = checkpoint_tensors(model)
    stream = CheckpointStream(model, bucket_bytes=bucket_bytes)
    found = dict(stream)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert Manifest(1, stream.specs) == Manifest.of(1, found)


def test_weights_are_read_anew() -> None:
    model = tiny_trainer_moe()
    stream = CheckpointStream(model)
    before = {name: tensor.clone() for name, tensor in stream}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    after = dict(stream)
    assert all(torch.equal(after[name], before[name] + 1) for name in before)


def test_dtype_is_that_of_the_manifest() -> None:
    model = tiny_trainer_moe().float()
    stream = CheckpointStream(model, torch.bfloat16)
    assert {spec.dtype for spec in stream.specs} == {"bfloat16"}
    assert all(tensor.dtype is torch.bfloat16 for _, tensor in stream)


def test_a_plain_module_passes_as_it_is() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    found = dict(CheckpointStream(module))
    assert {name: id(tensor) for name, tensor in found.items()}.keys() == module.state_dict().keys()
    assert found["1.num_batches_tracked"].shape == ()


def test_what_does_not_fit_is_named() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(2, 2))
    assert CheckpointStream(module, bucket_bytes=1 << 14).oversize == ("0.weight",)
    assert CheckpointStream(module, bucket_bytes=1 << 15).oversize == ()


def test_emptied_parameters_are_refused_by_name() -> None:
    module = torch.nn.Linear(2, 2)
    module.weight = torch.nn.Parameter(torch.empty(0))
    module.weight.ds_id = 1  # type: ignore[attr-defined]
    # state_dict gives tensors without attributes: what ZeRO-3 left there is found on the parameters
    with pytest.raises(SyncError, match=r"weight is partitioned by DeepSpeed ZeRO-3"):
        CheckpointStream(module)
