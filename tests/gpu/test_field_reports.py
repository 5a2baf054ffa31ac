"""Field reports 1 and 2 on real GPUs. Run with: pytest -m gpu tests/gpu"""

from __future__ import annotations

import gc
import importlib.util
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
    pytest.skip("needs a CUDA GPU and Triton: run where there is one", allow_module_level=True)

import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from hardpoint import guard  # noqa: E402
from hardpoint.errors import CaptureRefused  # noqa: E402
from hardpoint.launcher.triton import TritonLauncher, cold_load  # noqa: E402
from hardpoint.launcher.triton.cold_load import cuda_cold_load, driver_loads_in_capture  # noqa: E402

two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs: the wrong-device cases")
N = 4096


@triton.jit
def double(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) * 2, mask=i < n)


def fresh() -> JITFunction:
    """The kernel, known to nobody and loaded nowhere in this process."""
    return JITFunction(double.fn)


@pytest.fixture(autouse=True)
def unguarded() -> Iterator[None]:
    guard.remove()
    gc.collect()  # what an earlier test left; destroying a graph inside a capture ends the capture
    yield
    guard.remove()
    torch.cuda.set_device(0)


def in_thread(work: Callable[[], object]) -> object:
    """What `work` returned or raised in a thread of its own, whose current device is 0."""
    found: list[object] = []

    def run() -> None:
        assert torch.cuda.current_device() == 0
        try:
            found.append(work())
        except Exception as error:  # noqa: BLE001 - is what the test asks for
            found.append(error)
        assert torch.cuda.current_device() == 0

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(120)
    return found[0]


def pair(device: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(N, device=f"cuda:{device}"), torch.full((N,), float("nan"), device=f"cuda:{device}")


@two_gpus
def test_fr1_stock_triton_fails_and_guard_and_launcher_are_right() -> None:
    """A worker thread's current device is cuda:0, the model's tensors are on cuda:1."""
    x, out = pair(1)
    stock = in_thread(lambda: fresh()[(32,)](x, out, N, BLOCK=128))
    torch.cuda.synchronize(1)
    assert isinstance(stock, ValueError) or not torch.equal(out, x * 2)
    launcher = TritonLauncher("cuda")
    for how in ("guard", "launch", "bound"):
        out.fill_(float("nan"))
        kernel = fresh()
        if how == "guard":
            guard.install("cuda")
            found = in_thread(lambda: kernel[(32,)](x, out, N, BLOCK=128))  # noqa: B023
            assert not isinstance(found, Exception), found
            guard.remove()
        elif how == "launch":
            assert in_thread(lambda: launcher.launch(kernel, x, out, N, BLOCK=128, grid=(32,))) is None  # noqa: B023
        else:
            bound = launcher.bind(kernel, x, out, N, BLOCK=128, grid=(32,))
            assert in_thread(lambda: bound(x, out, N)) is None  # noqa: B023
        torch.cuda.synchronize(1)
        assert torch.equal(out, x * 2), how


@pytest.mark.parametrize("device", range(torch.cuda.device_count()))
def test_fr2_preloaded_kernels_are_in_the_graph(device: int) -> None:
    """Compiled and loaded before the capture, from a device that may not be current; the replay does the work."""
    x, out = pair(device)
    launcher, kernel = TritonLauncher("cuda"), fresh()
    launcher.preload(kernel, x, out, N, BLOCK=64)
    graph = torch.cuda.CUDAGraph()
    # torch's default stream for captures is made once, on the device that is current then
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):
        launcher.launch(kernel, x, out, N, BLOCK=64, grid=(64,))
    torch.cuda.synchronize(device)
    assert out.isnan().all()
    graph.replay()
    torch.cuda.synchronize(device)
    assert torch.equal(out, x * 2)


@pytest.mark.parametrize("mode", ["global", "thread_local", "relaxed"])
def test_fr2_a_cold_launch_in_a_capture_is_an_error_in_every_mode(mode: str) -> None:
    x, out = pair(0)
    launcher, kernel = TritonLauncher("cuda"), fresh()
    graph = torch.cuda.CUDAGraph()
    cold = pytest.raises(CaptureRefused, match=r"double is not loaded on cuda:0 for \(x: \*fp32.*preload\(double")
    with cold, torch.cuda.graph(graph, capture_error_mode=mode):
        launcher.launch(kernel, x, out, N, BLOCK=64, grid=(64,))
    torch.cuda.synchronize()
    assert out.isnan().all()
    launcher.launch(kernel, x, out, N, BLOCK=64, grid=(64,))
    assert torch.equal(out, x * 2)


@pytest.mark.skipif(not driver_loads_in_capture(), reason="this driver is not known to accept loads in a capture")
@pytest.mark.parametrize("mode", ["global", "thread_local", "relaxed"])
def test_fr2_a_cold_load_is_right_where_it_is_allowed(mode: str) -> None:
    """With permission, and with the guard: loaded in the capture, recorded, and right in the replay."""
    x, out = pair(0)
    launcher, ours, theirs = TritonLauncher("cuda", cold_load=cuda_cold_load()), fresh(), fresh()
    guard.install("cuda")
    again = torch.full_like(out, float("nan"))
    graph = torch.cuda.CUDAGraph()
    gc.collect()
    with torch.cuda.graph(graph, capture_error_mode=mode):
        launcher.launch(ours, x, out, N, BLOCK=64, grid=(64,))
        theirs[(64,)](x, again, N, BLOCK=64)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, x * 2)
    assert torch.equal(again, x * 2)


def test_fr2_with_a_driver_that_refuses_the_guard_names_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is simulated by its version; nothing is loaded, and the kernel is not left half loaded."""
    monkeypatch.setattr(cold_load, "driver_version", lambda: 12040)
    x, out = pair(0)
    kernel = fresh()
    guard.install("cuda")
    named = pytest.raises(CaptureRefused, match=r"double .*loaded for the first time inside a graph capture.*preload")
    with named, torch.cuda.graph(torch.cuda.CUDAGraph()):
        kernel[(64,)](x, out, N, BLOCK=64)
    torch.cuda.synchronize()
    kernel[(64,)](x, out, N, BLOCK=64)
    assert torch.equal(out, x * 2)
