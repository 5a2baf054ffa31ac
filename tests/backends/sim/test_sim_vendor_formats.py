"""The private format of the NPU profile: every element moves, padding is NaN, and nothing else reads it by mistake."""

from __future__ import annotations

import pytest
import torch

from hardpoint.errors import DeviceError
from hardpoint_sim.backend import build
from hardpoint_sim.engine import Engine
from hardpoint_sim.vendor import SimRuntime, limits_of
from hardpoint_sim.vendor.formats import PLAIN

NZ = 29


@pytest.fixture
def runtime() -> SimRuntime:
    engine: Engine = build({}).device.engine  # type: ignore[attr-defined]
    return SimRuntime(engine, limits_of("npu"))


@pytest.mark.parametrize("shape", [(32, 32), (2, 24, 40), (3, 1, 5), (0, 16, 16), (2, 2, 17, 33)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_there_and_back_gives_every_element(runtime: SimRuntime, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    host = (torch.arange(torch.Size(shape).numel()) % 113).to(dtype).reshape(shape)
    private = runtime.format_cast(host.to("sim"), NZ)
    assert private.shape == host.shape
    assert runtime.format_of(private) == NZ
    back = runtime.format_cast(private, PLAIN)
    assert runtime.format_of(back) == PLAIN
    assert torch.equal(back.cpu(), host)


def test_the_storage_is_in_the_order_of_fractals(runtime: SimRuntime) -> None:
    host = torch.arange(32 * 32).reshape(32, 32).half()
    raw = runtime.format_cast(host.to("sim"), NZ).cpu()  # read as if it were plain
    expected = torch.cat([host[:, :16], host[:, 16:]])  # columns 0 to 15 of all rows, then the others
    assert torch.equal(raw.flatten(), expected.flatten())


def test_padding_decodes_as_nan(runtime: SimRuntime) -> None:
    private = runtime.format_cast(torch.zeros(3, 20, dtype=torch.bfloat16, device="sim"), NZ)
    cell = private.cell  # type: ignore[attr-defined]
    assert private.cpu().isnan().any()
    assert cell.flat.numel() == 16 * 32


def test_a_cast_to_what_it_is_gives_the_tensor_itself(runtime: SimRuntime) -> None:
    plain = torch.zeros(16, 16, dtype=torch.half, device="sim")
    private = runtime.format_cast(plain, NZ)
    assert runtime.format_cast(plain, PLAIN) is plain
    assert runtime.format_cast(private, NZ) is private


def test_a_copy_keeps_the_format_and_takes_the_padding_along(runtime: SimRuntime) -> None:
    host = torch.randn(20, 40).half()
    private = runtime.format_cast(host.to("sim"), NZ)
    target = runtime.format_cast(torch.zeros(20, 40, dtype=torch.half, device="sim"), NZ)
    target.copy_(private)
    assert torch.equal(runtime.format_cast(target, PLAIN).cpu(), host)
    with pytest.raises(DeviceError, match="two formats"):
        target.copy_(host.to("sim"))


def test_what_cannot_be_cast_is_refused(runtime: SimRuntime) -> None:
    private = runtime.format_cast(torch.zeros(16, 16, dtype=torch.half, device="sim"), NZ)
    with pytest.raises(DeviceError, match="is a view of a NZ storage"):
        runtime.format_cast(private[:8], PLAIN)
    with pytest.raises(DeviceError, match="a matrix has two axes"):
        runtime.format_cast(torch.zeros(16, dtype=torch.half, device="sim"), NZ)
    with pytest.raises(DeviceError, match="format 4 is not known"):
        runtime.format_cast(torch.zeros(16, 16, dtype=torch.half, device="sim"), 4)
    with pytest.raises(DeviceError, match="has no device format"):
        runtime.format_of(torch.zeros(16, 16))
