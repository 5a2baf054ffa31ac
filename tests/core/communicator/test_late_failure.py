"""A failure that the watching thread finds is told once by its own error, and as a broken communicator afterwards."""

from __future__ import annotations

import pytest
import torch

from hardpoint.communicator import Rendezvous
from hardpoint.communicator.torch_communicator import TorchCommunicator
from hardpoint.errors import CommunicatorError, DeadlineExceeded


def test_the_first_call_after_it_gets_the_error_itself() -> None:
    alone = TorchCommunicator(
        Rendezvous(torch.distributed.HashStore(), 0, 1),
        device_type="cpu",
        library="gloo",
        carried=frozenset({"float32"}),
        reduce_ops=frozenset({"sum"}),
    )
    error = DeadlineExceeded("rank 1 did not come", op="broadcast", sequence=4, missing=(1,), deadline=0.4)
    alone._session._unreported = error
    alone._session._break(error)
    with pytest.raises(DeadlineExceeded, match="rank 1 did not come") as caught:
        alone.barrier()
    assert caught.value is error
    for _ in range(2):
        with pytest.raises(
            CommunicatorError, match="broken since an earlier call failed: rank 1 did not come"
        ) as again:
            alone.all_reduce(torch.ones(1))
        assert not isinstance(again.value, DeadlineExceeded)
