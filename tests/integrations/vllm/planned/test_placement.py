"""What loaders do to a parameter, watched: boxes of checkpoint tensors, or a reason why not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hardpoint.errors import SyncError
from hardpoint.sync.plan import Offer, Receiver, Sources, Storages, make_plan
from hardpoint.sync.plan.execute import new_buffer
from hardpoint_vllm.weight_transfer.placement import Watch, destinations

Loader = Callable[[dict[str, torch.Tensor], dict[str, torch.Tensor]], None]


def qkv(p: dict[str, torch.Tensor], t: dict[str, torch.Tensor]) -> None:
    p["w"].data[:4].copy_(t["q"])
    p["w"].data.narrow(0, 4, 2).copy_(t["k"].narrow(0, 2, 2))  # a tensor parallel slice
    p["w"].data[6:] = t["v"][:2]


def columns(p: dict[str, torch.Tensor], t: dict[str, torch.Tensor]) -> None:
    p["w"].data.copy_(t["q2"][:, 6:12])


def experts(p: dict[str, torch.Tensor], t: dict[str, torch.Tensor]) -> None:
    for local, name in enumerate(("e2", "e5", "e7")):
        p["x"].data[local][:2].copy_(t[name])
        p["x"].data[local].narrow(0, 2, 2).copy_(t[name])


def padded(p: dict[str, torch.Tensor], t: dict[str, torch.Tensor]) -> None:
    p["w"].data[:4].copy_(t["q"])
    p["w"].data[4:].fill_(0)


def transposed(p: dict[str, torch.Tensor], t: dict[str, torch.Tensor]) -> None:
    p["w"].data.copy_(t["wt"].t())


def flat(p: dict[str, torch.Tensor], t: dict[str, torch.Tensor]) -> None:
    p["w"].data.view(-1)[: 4 * 6].copy_(t["q"].view(-1))
    p["w"].data.view(-1)[4 * 6 :].copy_(t["q"].view(-1))


def twice(p: dict[str, torch.Tensor], t: dict[str, torch.Tensor]) -> None:
    p["w"].data[:4].copy_(t["k"][:4])
    qkv(p, t)


def scalar(p: dict[str, torch.Tensor], t: dict[str, torch.Tensor]) -> None:
    p["s"].data.copy_(t["s"])


def given() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def make(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    tensors = {"q": make(4, 6), "k": make(4, 6), "v": make(4, 6), "q2": make(8, 12), "wt": make(6, 8), "s": make()}
    tensors |= {name: make(2, 5) for name in ("e2", "e5", "e7")}
    parameters = {"w": torch.full((8, 6), 7.0), "x": torch.full((3, 4, 5), 7.0), "s": torch.tensor(7.0)}
    return parameters, tensors


def watched(load: Loader) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Watch]:
    parameters, tensors = given()
    watch = Watch(parameters)
    with watch:
        for name, tensor in tensors.items():
            watch.give(name, tensor)
        load(parameters, tensors)
    return parameters, tensors, watch


@pytest.mark.parametrize("load", [qkv, columns, experts, padded, transposed, flat, scalar])
def test_a_plan_from_what_was_seen_gives_what_was_loaded(load: Loader) -> None:
    parameters, tensors, watch = watched(load)
    declared = destinations(watch.placed)
    used = {name for of in declared for part in of.parts for name in part.tensors}
    offered = {name: tensor for name, tensor in tensors.items() if name in used}
    plan = make_plan(Offer.of(offered), [Receiver(1, declared)], bucket_bytes=128)
    storages = Storages(plan, 1, {of.parameter: torch.full(of.shape, float("nan")) for of in declared})
    storages.clear_padding()
    sources = Sources(plan, offered)
    for bucket in plan.buckets:
        buffer = new_buffer(bucket)
        sources.pack(bucket, buffer)
        storages.land(bucket, buffer)
    assert storages.named, "nothing was seen"
    for name, found in storages.named.items():
        assert torch.equal(found, parameters[name])


def test_equal_boxes_of_experts_are_one_part() -> None:
    _, _, watch = watched(experts)
    (of,) = destinations(watch.placed)
    assert sorted(part.tensors for part in of.parts) == [("e2",)] * 2 + [("e5",)] * 2 + [("e7",)] * 2 or all(
        part.tensors == ("e2", "e5", "e7") for part in of.parts
    )
    assert len(of.parts) == 2


def test_the_last_of_two_copies_into_a_box_counts() -> None:
    _, _, watch = watched(twice)
    (of,) = destinations(watch.placed)
    assert {part.tensors for part in of.parts} == {("q",), ("k",), ("v",)}


def test_tensors_of_one_mapped_file_are_told_apart() -> None:
    """They share a storage, and a loader may keep them until all are there."""
    parameters = {"w": torch.zeros(6, 4)}
    file = torch.arange(24.0)
    tensors = {"a": file[:8].view(2, 4), "b": file[8:].view(4, 4)}
    watch = Watch(parameters)
    with watch:
        for name, tensor in tensors.items():
            watch.give(name, tensor)
        parameters["w"].data[4:].copy_(tensors["a"])
        parameters["w"].data[:3].copy_(tensors["b"][1:])
        parameters["w"].data[3:4].copy_(tensors["b"][:1])
    (of,) = destinations(watch.placed)
    assert [(part.tensors, part.offset, part.lows, part.sizes) for part in of.parts] == [
        (("a",), 0, (4, 0), (2, 4)),
        (("b",), 4, (0, 0), (3, 4)),
        (("b",), 0, (3, 0), (1, 4)),
    ]


def summed(p: dict[str, torch.Tensor], t: dict[str, torch.Tensor]) -> None:
    p["w"].data[:4].copy_(t["q"])
    p["w"].data[:4].add_(1)


def computed(p: dict[str, torch.Tensor], t: dict[str, torch.Tensor]) -> None:
    p["w"].data[:4].copy_(t["q"] * 2)


def broadcast(p: dict[str, torch.Tensor], t: dict[str, torch.Tensor]) -> None:
    p["w"].data.copy_(t["q"][0])


def every_other_row(p: dict[str, torch.Tensor], t: dict[str, torch.Tensor]) -> None:
    p["w"].data[::2].copy_(t["q"])


@pytest.mark.parametrize(
    ("load", "why"),
    [
        (summed, "aten::add_ was done to it"),
        (computed, "computed"),
        (broadcast, "broadcast"),
        (every_other_row, "no box"),
    ],
)
def test_what_is_more_than_placing_is_refused_by_name(load: Loader, why: str) -> None:
    _, _, watch = watched(load)
    with pytest.raises(SyncError, match=f"w \\(.*{why}.*path 'whole'"):
        destinations(watch.placed)


def test_a_rank_that_is_filled_in_part_only_is_no_plan() -> None:
    def half(p: dict[str, torch.Tensor], t: dict[str, torch.Tensor]) -> None:
        p["w"].data[:4].copy_(t["q"])

    _, tensors, watch = watched(half)
    with pytest.raises(SyncError, match="w"):
        make_plan(Offer.of({"q": tensors["q"]}), [Receiver(1, destinations(watch.placed))])
