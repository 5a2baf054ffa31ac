"""Which device a guarded launch belongs to, and what is refused before it, from the arguments alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from hardpoint.errors import LaunchRefused
from hardpoint.guard.device import check_all, first_device
from support.fake_triton import on

HOST = torch.zeros(2)


@dataclass
class Descriptor:
    """What Triton's tensor descriptors look like from here."""

    base: Any


@pytest.mark.parametrize(
    ("args", "kwargs", "index"),
    [
        ((on(2, HOST), on(1, HOST)), {}, 2),
        ((3, None, on(1, HOST)), {}, 1),
        ((3,), {"n": 1, "x": on(1, HOST)}, 1),
        ((HOST, on(1, HOST)), {}, 1),
        (((HOST, on(2, HOST)),), {}, 2),
        ((), {"x": [on(2, HOST)]}, 2),
        ((Descriptor(on(1, HOST)),), {}, 1),
        (((on(2, HOST),), on(1, HOST)), {}, 1),
        ((HOST, 3), {"x": (HOST,)}, -1),
        ((), {}, -1),
    ],
)
def test_the_first_device_tensor_decides_and_one_in_the_open_before_one_in_a_tuple(
    args: Any, kwargs: Any, index: int
) -> None:
    assert first_device(args, kwargs) == index


def test_a_launch_that_one_device_can_read_passes() -> None:
    check_all("k", [("x", on(1, HOST)), ("y", (on(1, HOST), 3)), ("n", 3), ("nothing", None)], "cuda")
    check_all("k", [("x", on(1, HOST)), ("empty", torch.zeros(0))], "cuda")
    check_all("k", [], "cuda")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([("x", on(0, HOST)), ("y", on(1, HOST))], "all tensors of k on one device, found x on cuda:0, y on cuda:1"),
        ([("x", on(0, HOST)), ("pair", (3, on(1, HOST)))], r"x on cuda:0, pair\[1\] on cuda:1"),
        ([("x", on(0, HOST)), ("d", Descriptor(on(1, HOST)))], r"x on cuda:0, d\.base on cuda:1"),
        ([("x", on(0, HOST)), ("y", HOST)], "found y on the host and not pinned"),
        ([("x", on(0, HOST)), ("pair", [HOST])], r"found pair\[0\] on the host and not pinned"),
    ],
)
def test_a_launch_that_no_device_can_read_is_refused_by_label(arguments: Any, sentence: str) -> None:
    with pytest.raises(LaunchRefused, match=rf"{sentence}.*nothing was launched"):
        check_all("k", arguments, "cuda")
