"""The layout kernels on a real GPU. Run with: pytest -m gpu tests/gpu/test_layout_kernels.py"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest
import torch

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
    pytest.skip("needs a CUDA GPU and Triton: run where there is one", allow_module_level=True)

from hardpoint.launcher.triton import TritonLauncher  # noqa: E402
from hardpoint_cuda.box_kernels import CudaBoxKernels  # noqa: E402
from support.layout_cases import CASES, boxes  # noqa: E402


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_case(case: Callable[[str], None]) -> None:
    case("cuda")


def test_bound_launches_can_be_repeated_on_another_stream_of_another_device_than_the_current() -> None:
    device = f"cuda:{torch.cuda.device_count() - 1}"
    kernels = CudaBoxKernels(TritonLauncher("cuda"))
    cases = boxes(device)
    launch = kernels.copy([(box, source) for _, box, source in cases])
    for _ in range(2):
        for storage, _, _ in cases:
            storage.zero_()
        torch.cuda.synchronize(device)
        with torch.cuda.stream(torch.cuda.Stream(device)):
            launch()
        torch.cuda.synchronize(device)
        assert all(torch.equal(box, source) for _, box, source in cases)
