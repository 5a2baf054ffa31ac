"""`TritonLauncher` and the guard on a real GPU. Run with: pytest -m gpu tests/gpu"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator

import pytest
import torch

pytestmark = pytest.mark.gpu
if not torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
    pytest.skip("needs a CUDA GPU and Triton: run where there is one", allow_module_level=True)

import triton  # noqa: E402
import triton.language as tl  # noqa: E402

from hardpoint import guard  # noqa: E402
from hardpoint.errors import CaptureRefused, LaunchRefused  # noqa: E402
from hardpoint.launcher.triton import TritonLauncher  # noqa: E402

two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs: the wrong-device cases")
N = 1000


@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    tl.store(out + i, tl.load(x + i, mask=mask) + tl.load(y + i, mask=mask), mask=mask)


@triton.jit
def scale(x, out, factor, n, bias, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    value = tl.load(x + i, mask=mask) * factor
    if HAS_BIAS:
        value += tl.load(bias + i, mask=mask)
    tl.store(out + i, value, mask=mask)


heuristic_scale = triton.heuristics({"HAS_BIAS": lambda a: a["bias"] is not None})(scale)


@triton.autotune(configs=[triton.Config({"BLOCK": 128}), triton.Config({"BLOCK": 256}, num_warps=8)], key=["n"])
@triton.jit
def tuned_add(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    tl.store(out + i, tl.load(x + i, mask=mask) + tl.load(y + i, mask=mask), mask=mask)


def tensors(n: int = N, dtype: torch.dtype = torch.float32, device: int = 0) -> tuple[torch.Tensor, ...]:
    where = torch.device("cuda", device)
    return (
        torch.randn(n, device=where).to(dtype),
        torch.randn(n, device=where).to(dtype),
        torch.full((n,), float("nan"), device=where).to(dtype),
    )


@pytest.fixture
def launcher() -> TritonLauncher:
    return TritonLauncher("cuda")


@pytest.fixture(autouse=True)
def unguarded() -> Iterator[None]:
    guard.remove()
    yield
    guard.remove()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
def test_launch_computes_what_the_kernel_says(launcher: TritonLauncher, dtype: torch.dtype) -> None:
    for n in (1, 16, 1000, 4096):  # the value 1, a multiple of 16, neither, and both again through the direct call
        x, y = (torch.randint(0, 100, (n,), device="cuda").to(dtype) for _ in range(2))
        for _ in range(3):
            out = torch.zeros_like(x)
            launcher.launch(add, x, y, out, n, BLOCK=128, grid=(triton.cdiv(n, 128),))
            assert torch.equal(out, x + y)


def test_an_unaligned_pointer_after_an_aligned_one_is_right(launcher: TritonLauncher) -> None:
    x, y, out = tensors(N + 1)
    bound = launcher.bind(add, x, y, out, N, BLOCK=128, grid=(8,))
    bound(x, y, out, N)
    assert torch.equal(out[:N], (x + y)[:N])
    shifted = out.clone().fill_(0)
    bound(x[1:], y[1:], shifted[1:], N)
    assert torch.equal(shifted[1:], (x + y)[1:])


def test_a_bound_call_with_another_dtype_or_integer_class_is_right(launcher: TritonLauncher) -> None:
    x, y, out = tensors(4096)
    bound = launcher.bind(add, x, y, out, 4096, BLOCK=128, grid=(32,))
    for n in (4096, 4095, 1):
        out.zero_()
        bound(x, y, out, n)
        assert torch.equal(out[:n], (x + y)[:n])
        assert not out[n:].any()
    a, b, c = tensors(4096, torch.float16)
    bound(a, b, c, 4096)
    assert torch.equal(c, a + b)


def test_an_integer_that_needs_64_bits_after_one_of_32_is_right(launcher: TritonLauncher) -> None:
    x, y, out = tensors()
    bound = launcher.bind(add, x, y, out, N, BLOCK=128, grid=(8,))
    bound(x, y, out, N)
    out.zero_()
    bound(x, y, out, 2**40, grid=(7,))  # 7 * 128 of the 1000 elements: all inside the tensors
    assert torch.equal(out[:896], (x + y)[:896])
    assert not out[896:].any()


def test_bound_constants_may_be_left_out_of_a_bind_but_not_of_a_launch(launcher: TritonLauncher) -> None:
    x, y, out = tensors()
    launcher.bind(add, x, y, out, N, BLOCK=128, grid=(8,))(x, y, out, N)
    launcher.launch(add, x, y, out, N, BLOCK=128, grid=(8,))
    with pytest.raises(LaunchRefused, match="BLOCK"):
        launcher.launch(add, x, y, out, N, grid=(8,))


def test_heuristics_are_computed_at_each_call(launcher: TritonLauncher) -> None:
    x, bias, out = tensors()
    for _ in range(2):
        launcher.launch(heuristic_scale, x, out, 2.0, N, None, BLOCK=128, grid=(8,))
        assert torch.equal(out, x * 2)
        launcher.launch(heuristic_scale, x, out, 2.0, N, bias, BLOCK=128, grid=(8,))
        assert torch.equal(out, x * 2 + bias)


def test_autotuned_kernels_are_tuned_once_and_then_launched_directly(launcher: TritonLauncher) -> None:
    x, y, out = tensors(4096)

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(meta["n"], meta["BLOCK"]),)

    with pytest.raises(LaunchRefused, match="none is chosen"):
        launcher.bind(tuned_add, x, y, out, 4096, grid=(32,))
    for n in (4096, 1000, 4096, 1000):
        out.zero_()
        launcher.launch(tuned_add, x, y, out, n, grid=grid)
        assert torch.equal(out[:n], (x + y)[:n])
        out.zero_()
        launcher.launch(tuned_add, x, y, out, n, grid=(32,))
        assert torch.equal(out[:n], (x + y)[:n])


def test_a_grid_callable_may_replace_arguments(launcher: TritonLauncher) -> None:
    x, y, out = tensors()
    other = torch.zeros_like(out)

    def grid(meta: dict[str, object]) -> tuple[int]:
        meta["out"] = other
        return (8,)

    launcher.launch(add, x, y, out, N, BLOCK=128, grid=grid)
    assert torch.equal(other, x + y)
    assert out.isnan().all()


def test_launch_options_are_part_of_the_form(launcher: TritonLauncher) -> None:
    x, y, out = tensors()
    launcher.launch(add, x, y, out, N, BLOCK=128, grid=(8,))
    launcher.launch(add, x, y, out, N, BLOCK=128, num_warps=8, grid=(8,))
    assert torch.equal(out, x + y)
    assert launcher.explain(add, x, y, out, N, BLOCK=128, num_warps=8).loaded
    assert not launcher.explain(add, x, y, out, N, BLOCK=128, num_warps=2).loaded


def test_refusals_name_the_argument_and_launch_nothing(launcher: TritonLauncher) -> None:
    x, y, out = tensors()
    launcher.launch(add, x, y, out, N, BLOCK=128, grid=(8,))
    out.fill_(7)
    with pytest.raises(LaunchRefused, match="y on cpu"):
        launcher.launch(add, x, y.cpu(), out, N, BLOCK=128, grid=(8,))
    with pytest.raises(LaunchRefused, match="none"):
        launcher.launch(add, None, None, None, N, BLOCK=128, grid=(8,))
    with pytest.raises(LaunchRefused, match="takes 5 arguments"):
        launcher.launch(add, x, y, out, N, 128, 1, grid=(8,))
    with pytest.raises(LaunchRefused, match="Triton kernel"):
        launcher.launch(print, x, grid=(8,))
    assert (out == 7).all()


def test_explain_compiles_nothing_and_preload_loads(launcher: TritonLauncher) -> None:
    x, y, out = tensors(N, torch.float64)
    before = launcher.explain(add, x, y, out, N, BLOCK=64)
    assert before.refusal is None
    assert not before.loaded
    launcher.preload(add, x, y, out, N, BLOCK=64)
    assert launcher.explain(add, x, y, out, N, BLOCK=64).loaded
    assert out.isnan().all()


def test_a_cold_launch_in_a_capture_is_an_error_and_a_preloaded_one_is_recorded(launcher: TritonLauncher) -> None:
    x, y, out = tensors()
    with pytest.raises(CaptureRefused, match=r"add.*preload\(add"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        launcher.launch(add, x, y, out, N, BLOCK=32, grid=(32,))
    torch.cuda.synchronize()
    launcher.preload(add, x, y, out, N, BLOCK=32)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launcher.launch(add, x, y, out, N, BLOCK=32, grid=(32,))
    assert out.isnan().all()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, x + y)


def test_launch_hooks_see_every_launch(launcher: TritonLauncher) -> None:
    from triton import knobs

    x, y, out = tensors()
    launcher.launch(add, x, y, out, N, BLOCK=128, grid=(8,))
    seen: list[str] = []

    def hook(metadata: object) -> None:
        seen.append(str(metadata.get()["name"]))  # type: ignore[attr-defined]

    knobs.runtime.launch_enter_hook.add(hook)
    try:
        launcher.launch(add, x, y, out, N, BLOCK=128, grid=(8,))
    finally:
        knobs.runtime.launch_enter_hook.remove(hook)
    launcher.launch(add, x, y, out, N, BLOCK=128, grid=(8,))
    assert seen == ["add"]


def test_many_threads_launch_at_once(launcher: TritonLauncher) -> None:
    failures: list[str] = []

    def work(seed: int) -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for round_ in range(50):
                n = 64 + (seed * 37 + round_) % 512
                x, y, out = tensors(n)
                launcher.launch(add, x, y, out, n, BLOCK=64, grid=(triton.cdiv(n, 64),))
                if not torch.equal(out, x + y):
                    failures.append(f"thread {seed}, round {round_}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures


def test_the_current_stream_is_used(launcher: TritonLauncher) -> None:
    x, y, out = tensors()
    launcher.launch(add, x, y, out, N, BLOCK=128, grid=(8,))
    torch.cuda.synchronize()
    out.fill_(0)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)
        launcher.launch(add, x, y, out, N, BLOCK=128, grid=(8,))
    assert not side.query()
    side.synchronize()
    assert torch.equal(out, x + y)


@two_gpus
def test_the_device_comes_from_the_tensors(launcher: TritonLauncher) -> None:
    for device in (1, 0, 1):
        x, y, out = tensors(device=device)
        torch.cuda.set_device(0)
        launcher.launch(add, x, y, out, N, BLOCK=128, grid=(8,))
        assert torch.cuda.current_device() == 0
        assert torch.equal(out, x + y)


@two_gpus
def test_tensors_on_two_devices_are_refused(launcher: TritonLauncher) -> None:
    x, _, out = tensors(device=0)
    y = tensors(device=1)[1]
    with pytest.raises(LaunchRefused, match="x on cuda:0, y on cuda:1"):
        launcher.launch(add, x, y, out, N, BLOCK=128, grid=(8,))


@two_gpus
def test_the_guard_moves_other_peoples_launches(launcher: TritonLauncher) -> None:
    x, y, out = tensors(device=1)
    torch.cuda.set_device(0)
    guard.install("cuda")
    for kernel in (add, tuned_add):
        out.fill_(0)
        kernel[(32,)](x, y, out, N, **({"BLOCK": 128} if kernel is add else {}))
        assert torch.cuda.current_device() == 0
        torch.cuda.synchronize(1)
        assert torch.equal(out, x + y)


def test_the_guard_refuses_a_first_load_in_a_capture_where_the_driver_would() -> None:
    x, y, out = tensors()
    guard.install("cuda", strict=True)  # strict stands for a driver that refuses
    refused = pytest.raises(CaptureRefused, match=r"add.*first time inside a graph capture")
    with refused, torch.cuda.graph(torch.cuda.CUDAGraph()):
        add[(63,)](x, y, out, N, BLOCK=16)
    torch.cuda.synchronize()
    add[(63,)](x, y, out, N, BLOCK=16)
    assert torch.equal(out, x + y)


def test_the_guard_refuses_a_host_tensor_by_name_and_can_be_removed() -> None:
    x, y, out = tensors()
    original = triton.runtime.jit.JITFunction.run
    guard.install("cuda", strict=True)
    with pytest.raises(LaunchRefused, match="y on the host"):
        add[(8,)](x, y.cpu(), out, N, BLOCK=128)
    guard.remove()
    assert triton.runtime.jit.JITFunction.run is original


def test_torch_compile_over_a_users_kernel_gives_the_same_with_the_guard() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        add[(8,)](x, y, out, N, BLOCK=128)
        return out.sin()

    x, y, _ = tensors()
    expected = function(x, y)
    guard.install("cuda")
    assert torch.equal(torch.compile(function)(x, y), expected)
