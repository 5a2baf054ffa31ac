"""The commit of mode shadow as one launch leaves what copying parameter by parameter leaves, at the same addresses."""

from __future__ import annotations

from hardpoint.sync.stream import TorchBoxes, bind_commit
from support.stream_ranks import Case, bits, live_storages, plan_of


def test_it_copies_every_parameter_in_place() -> None:
    plan = plan_of(Case("one receiver", axes="[E,K,N]", padded=6))
    live = live_storages(plan, 1)
    staged = live.like()
    for number, tensor in enumerate(staged.tensors):
        tensor.fill_(number + 1)
    addresses = {name: tensor.data_ptr() for name, tensor in live.named.items()}
    launch = bind_commit(TorchBoxes(), live, staged)
    assert {name: bits(of) for name, of in live.named.items()} != {name: bits(of) for name, of in staged.named.items()}
    launch()
    assert {name: bits(of) for name, of in live.named.items()} == {name: bits(of) for name, of in staged.named.items()}
    assert {name: tensor.data_ptr() for name, tensor in live.named.items()} == addresses
