"""What the cuda backend says of GPUs, from facts alone. On GPUs: tests/gpu and the conformance kit."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from hardpoint.device.protocol import DeviceIdentity
from hardpoint.errors import CaptureRefused
from hardpoint_cuda import nvml
from hardpoint_cuda.capabilities import claimed
from hardpoint_cuda.device import named
from hardpoint_cuda.graphs import CudaGraph, CudaGraphs
from hardpoint_cuda.nvml import Gpu

BARE = ["8932f937-d72c-4106-c12f-20bd9faed9f6", "11111111-d72c-4106-c12f-20bd9faed9f6", "22222222-d72c-4106-c12f-20bd"]
WHOLE = [Gpu(0, f"GPU-{BARE[0]}", (9, 0)), Gpu(1, f"GPU-{BARE[1]}", (8, 0))]
SPLIT = [Gpu(0, f"GPU-{BARE[0]}", (9, 0), (f"MIG-{BARE[1]}", f"MIG-{BARE[2]}"))]


def identity(physical: str | None, uuid: str | None, value: str | None) -> DeviceIdentity:
    return DeviceIdentity(0, physical, uuid, "CUDA_VISIBLE_DEVICES", value)


@pytest.mark.parametrize(
    ("every", "physical", "uuid", "value", "expected"),
    [
        (WHOLE, "0", BARE[1], None, ("1", f"GPU-{BARE[1]}")),  # fastest first: CUDA's 0 is nvidia-smi's 1
        (WHOLE, "1", BARE[1], "1", ("1", f"GPU-{BARE[1]}")),
        (WHOLE, "GPU-8932", BARE[0], "GPU-8932", ("0", f"GPU-{BARE[0]}")),
        (SPLIT, f"MIG-{BARE[2]}", BARE[2], f"MIG-{BARE[2]}", (f"MIG-{BARE[2]}", f"MIG-{BARE[2]}")),
        (SPLIT, f"MIG-GPU-{BARE[0]}/1/0", BARE[1], f"MIG-GPU-{BARE[0]}/1/0", (f"MIG-{BARE[1]}", f"MIG-{BARE[1]}")),
        ([], "3", BARE[0], "3", ("3", BARE[0])),  # NVML says nothing: what is known stays
        (WHOLE, "0", None, None, ("0", None)),
    ],
)
def test_a_device_is_named_by_its_uuid(every, physical, uuid, value, expected) -> None:
    found = named(identity(physical, uuid, value), every)
    assert (found.physical, found.uuid) == expected
    assert (found.logical, found.visibility_value) == (0, value)


def test_claims_follow_the_oldest_gpu_and_nccl() -> None:
    new = claimed(WHOLE, (2, 27, 3))
    assert "bfloat16" in new.dtypes
    assert "bfloat16" in new.communication_dtypes
    assert "avg" in new.reduce_ops
    turing = claimed([*WHOLE, Gpu(2, "GPU-x", (7, 5))], (2, 27, 3))
    assert "bfloat16" not in turing.dtypes
    old = claimed(WHOLE, (2, 9, 8))
    assert "avg" not in old.reduce_ops
    assert "bfloat16" not in old.communication_dtypes
    assert "bfloat16" not in claimed([], ()).dtypes
    assert not new.sleep


def test_nvml_that_is_not_there_gives_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "_LIBRARY", "libno-such-thing.so.1")
    assert nvml.gpus.__wrapped__() == ()


def test_a_graph_that_was_not_captured_refuses_to_replay() -> None:
    graph = CudaGraph(object(), 1)  # type: ignore[arg-type]
    with pytest.raises(CaptureRefused, match="graph of cuda:1 cannot be replayed: its capture has not ended yet"):
        graph.replay()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_gpu_a_capture_is_refused() -> None:
    with pytest.raises(CaptureRefused, match="there is no device cuda:0"), CudaGraphs().capture(0):
        pass


def test_building_touches_no_device() -> None:
    code = (
        "import torch, hardpoint_cuda.backend as b; "
        "backend = b.build({}); print(torch.cuda.is_initialized(), backend.device.type)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.split() == ["False", "cuda"]
