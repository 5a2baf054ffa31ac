"""The rules of `TritonLauncher` on real Triton, without a GPU: loads and launches are recorded by a stand-in driver."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hardpoint.errors import CaptureRefused, DeviceError, LaunchRefused
from hardpoint.launcher import python_kernel
from hardpoint.launcher.triton import TritonLauncher, native, releases
from hardpoint.launcher.triton.cold_load import ColdLoad
from support.fake_triton import FakeGpu, fake_gpu, host_of, on
from support.threads_communicator import Hub, ThreadsCommunicator

triton = pytest.importorskip("triton", reason="needs Triton, which is installed on Linux only")
tl = pytest.importorskip("triton.language")
N = 1000


@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    tl.store(out + i, tl.load(x + i, mask=mask) + tl.load(y + i, mask=mask), mask=mask)


@triton.jit
def broken(x, n, BLOCK: tl.constexpr):
    tl.store(x + tl.arange(0, BLOCK), tl.no_such_thing(x))


@triton.jit
def with_bias(x, bias, n, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(bias + i) if HAS_BIAS else tl.load(x + i))


guessed = triton.heuristics({"HAS_BIAS": lambda a: a["bias"] is not None})(with_bias)


def odd_names(out, x, z, missed, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, x + z + missed)


def tuned_kernel():
    """A kernel of its own with two configurations, so that no test sees what another one tuned."""
    from triton.runtime.jit import JITFunction

    configs = [triton.Config({"BLOCK": 64}), triton.Config({"BLOCK": 128}, num_warps=8)]
    return triton.autotune(configs=configs, key=["n"])(JITFunction(add.fn))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.setenv("TRITON_CACHE_AUTOTUNING", "0")  # vLLM sets it on import; a choice would outlive its test


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    with fake_gpu() as gpu:
        for kernel in (add, broken, with_bias):
            kernel.device_caches.clear()
        yield gpu
        for kernel in (add, broken, with_bias):
            kernel.device_caches.clear()


@pytest.fixture(params=["in C", "in Python"])
def launcher(gpu: FakeGpu, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> TritonLauncher:
    """With the direct call in C, and with the generated one alone."""
    if request.param == "in Python":
        monkeypatch.setattr(native, "module", lambda: None)
    elif native.module() is None:
        pytest.skip("the direct call in C cannot be built here: there is no C compiler or no Python.h")
    return TritonLauncher("cuda", host_of(gpu))


def tensors(index: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    return tuple(on(index, torch.zeros(N, dtype=dtype)) for _ in range(3))


# -- where a launch runs ------------------------------------------------------------------------------------------


def test_the_device_comes_from_the_tensors_and_the_callers_is_as_before(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    for index in (1, 0, 1):
        for _ in range(2):  # through the slow path, then through the direct call
            launcher.launch(add, *tensors(index), N, BLOCK=128, grid=(8,))
            assert gpu.launches[-1].device == gpu.launches[-1].loaded_on == index
            assert gpu.current() == 0
    bound = launcher.bind(add, *tensors(1), N, BLOCK=128, grid=(8,))
    bound(*tensors(1), N)
    assert gpu.launches[-1].device == 1
    bound(*tensors(0), N)  # another device than bound: it goes to the form that is loaded there
    assert gpu.launches[-1].device == gpu.launches[-1].loaded_on == 0
    assert gpu.current() == 0


def test_a_direct_call_passes_what_the_kernel_takes(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    x, y, out = tensors(1)
    bound = launcher.bind(add, x, y, out, N, BLOCK=128, grid=(8,))
    assert not gpu.launches
    bound(x, y, out, N, grid=(7, 2))
    found = gpu.launches[-1]
    assert found.grid == (7, 2, 1)
    addresses = tuple(a if isinstance(a, int) else a.data_ptr() for a in found.arguments[:3])
    assert addresses == (x.data_ptr(), y.data_ptr(), out.data_ptr())
    assert found.arguments[3:] == (N, 128)


def test_the_call_in_c_answers_what_fits_and_hands_on_the_rest(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    if native.module() is None:
        pytest.skip("the direct call in C cannot be built here: there is no C compiler or no Python.h")
    handed: list[tuple[object, ...]] = []
    original = native.entry

    def watched(parameters, guards, fallbacks, device, grid, launch, host, hooks, otherwise):
        def otherwise_seen(*args, **kwargs):
            handed.append(args)
            return otherwise(*args, **kwargs)

        return original(parameters, guards, fallbacks, device, grid, launch, host, hooks, otherwise_seen)

    monkeypatch.setattr(native, "entry", watched)
    launcher = TritonLauncher("cuda", host_of(gpu))
    x, y, out = tensors(1)
    bound = launcher.bind(add, x, y, out, 4096, BLOCK=128, grid=(8,))
    assert type(bound).__name__ == "Entry"
    for call in (
        lambda: bound(x, y, out, 4096),
        lambda: bound(x, y, n=32, out=out),
        lambda: bound(x, y, out, **{"".join(["n"]): 32, "".join(["gr", "id"]): (5,)}),  # names that are not interned
        lambda: bound(x, y, out, 16, BLOCK=128),
        lambda: bound(x, y, out, 16, grid=(3, 4)),
        lambda: bound(x, y, out, 16, grid=(3, 4, 5)),
    ):
        call()
    assert not handed
    assert [launch.grid for launch in gpu.launches[-2:]] == [(3, 4, 1), (3, 4, 5)]
    assert {launch.device for launch in gpu.launches} == {1}
    shifted = on(1, torch.zeros(N + 1)[1:])
    for number, call in enumerate(
        [
            lambda: bound(x, y, out, 4095),  # no multiple of 16
            lambda: bound(x, y, out, True),
            lambda: bound(shifted, y, out, 16),
            lambda: bound(*tensors(0), 16),
            lambda: bound(x, y, on(1, torch.zeros(N, dtype=torch.float16)), 16),
            lambda: bound(x, y, out, 16, BLOCK=64),
            lambda: bound(x, y, out, 16, grid=lambda meta: (2,)),
        ],
        start=1,
    ):
        before = len(gpu.launches)
        call()
        assert len(handed) == number
        assert len(gpu.launches) == before + 1
    for wrong in (lambda: bound(x, y, torch.zeros(N), 16), lambda: bound(x, y), lambda: bound(x, y, None, 16)):
        with pytest.raises(LaunchRefused):
            wrong()
    for wrong in (lambda: bound(x, y, out, 16, 128, (1,), 7), lambda: bound(x, y, out, 16, surprise=1)):
        with pytest.raises(TypeError):
            wrong()
    assert gpu.current() == 0


def test_the_call_in_c_lets_go_of_what_it_is_called_with(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    bound = launcher.bind(add, *tensors(1), N, BLOCK=128, grid=(8,))
    arguments = [*tensors(1), N + 2**40]
    for _ in range(50):  # an integer of 64 bits goes all the way round
        bound(*arguments[:3], N)
    gpu.launches.clear()
    before = [sys.getrefcount(value) for value in arguments]
    for _ in range(50):
        bound(*arguments[:3], N)
        bound(*arguments)
    gpu.launches.clear()
    after = [sys.getrefcount(value) for value in arguments]
    assert after == before


def test_parameters_may_be_named_as_anything(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    from triton.runtime.jit import JITFunction

    named_like_a_grid = JITFunction(odd_names)
    for values in ((3, 4, 5), (6, 7, 8)):
        launcher.launch(named_like_a_grid, tensors()[0], *values, BLOCK=16, grid=(9, 9, 9))
        assert gpu.launches[-1].arguments[1:4] == values
    direct = launcher._last[id(named_like_a_grid)]
    assert "missed" in direct[0]


def test_the_current_device_is_as_before_when_a_launch_fails(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    bound = launcher.bind(add, *tensors(1), N, BLOCK=128, grid=(8,))

    def no_stream(device: int) -> int:
        raise RuntimeError("planted")

    launcher.host.__dict__["raw_stream"] = no_stream
    with pytest.raises(RuntimeError, match="planted"):
        launcher.launch(add, *tensors(1), N, BLOCK=128, grid=(8,))
    assert gpu.current() == 0
    del bound


# -- refusals -----------------------------------------------------------------------------------------------------


def test_a_host_tensor_is_refused_by_name(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    x, y, out = tensors()
    for _ in range(2):
        with pytest.raises(LaunchRefused, match="found y on cpu"):
            launcher.launch(add, x, torch.zeros(N), out, N, BLOCK=128, grid=(8,))
        launcher.launch(add, x, y, out, N, BLOCK=128, grid=(8,))  # the second time round there is a direct call
    assert len(gpu.launches) == 2


def test_two_devices_are_refused_by_name(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    x, y, out = tensors()
    other = tensors(1)[0]
    launcher.launch(add, x, y, out, N, BLOCK=128, grid=(8,))
    for step in (launcher.launch, launcher.bind, launcher.preload):
        with pytest.raises(LaunchRefused, match="x on cuda:0, y on cuda:1"):
            step(add, x, other, out, N, BLOCK=128, grid=(8,))
    assert "on one device" in (launcher.explain(add, x, other, out, N, BLOCK=128).refusal or "")
    assert len(gpu.launches) == 1


def test_a_dtype_that_the_kernel_does_not_declare_is_refused(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    from triton.runtime.jit import JITFunction

    kernel = python_kernel(dtypes={"x": ("float32",)})(JITFunction(add.fn))
    launcher.launch(kernel, *tensors(), N, BLOCK=128, grid=(8,))
    for step in (launcher.launch, launcher.bind, launcher.preload):
        with pytest.raises(LaunchRefused, match="argument x has dtype float16, and the kernel takes float32"):
            step(kernel, *tensors(0, torch.float16), N, BLOCK=128, grid=(8,))
    assert len(gpu.launches) == 1


def test_a_dtype_that_triton_lacks_is_refused_by_name(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    x, y, _ = tensors()
    with pytest.raises(LaunchRefused, match=r"cannot take out \(torch.complex64\)"):
        launcher.launch(add, x, y, on(0, torch.zeros(N, dtype=torch.complex64)), N, BLOCK=128, grid=(8,))
    assert not gpu.launches


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"BLOCK": 128, "surprise": 3}, "surprise"),
        ({}, "BLOCK"),
        ({"BLOCK": 128, "n": 3}, "both by position and by name"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    launcher: TritonLauncher, gpu: FakeGpu, arguments: dict[str, int], sentence: str
) -> None:
    with pytest.raises(LaunchRefused, match=sentence):
        launcher.launch(add, *tensors(), N, grid=(8,), **arguments)
    assert not gpu.launches


def test_a_kernel_that_does_not_compile_is_one_sentence(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    with pytest.raises(
        LaunchRefused, match=r"(?s)broken does not compile for \(x: \*fp32.*no_such_thing.*nothing was laun"
    ):
        launcher.launch(broken, tensors()[0], N, BLOCK=128, grid=(8,))
    assert not gpu.launches
    assert gpu.current() == 0


def test_a_cache_directory_that_cannot_be_used_is_named(
    launcher: TritonLauncher, gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("not a directory")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(occupied / "cache"))
    with pytest.raises(LaunchRefused, match=r"cache directory .*file/cache cannot be used.*set TRITON_CACHE_DIR"):
        launcher.launch(add, *tensors(), N, BLOCK=16, grid=(8,))
    assert not gpu.launches


def test_a_driver_that_refuses_the_kernel_is_one_sentence(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    gpu.refuse_loads = "Triton Error [CUDA]: no kernel image is available for execution on the device"
    with pytest.raises(LaunchRefused, match=r"add compiled for .* cannot be loaded on cuda:1: .*no kernel image"):
        launcher.launch(add, *tensors(1), N, BLOCK=128, grid=(8,))
    gpu.refuse_loads = ""
    launcher.launch(add, *tensors(1), N, BLOCK=128, grid=(8,))
    assert len(gpu.launches) == 1


def test_a_device_that_is_gone_is_named(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    def gone(index: int) -> int:
        raise RuntimeError("CUDA error: device lost")

    launcher.host.__dict__["exchange"] = gone
    with pytest.raises(DeviceError, match=r"cuda:1, where the tensors are, cannot be made current: CUDA error"):
        launcher.launch(add, *tensors(1), N, BLOCK=128, grid=(8,))
    assert "device lost" in (launcher.explain(add, *tensors(1), N, BLOCK=128).refusal or "")
    assert not gpu.launches


def test_preloading_on_a_device_that_is_not_there_loads_nothing(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    with pytest.raises(DeviceError, match="from 0 to 1, found 2"):
        launcher.preload(add, *tensors(), N, BLOCK=128, devices=[0, 2])
    assert not gpu.loads


# -- loading ------------------------------------------------------------------------------------------------------


def test_preload_loads_on_each_device_and_compiles_once(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    compiled: list[str] = []
    before = triton.knobs.runtime.jit_post_compile_hook
    triton.knobs.runtime.jit_post_compile_hook = lambda **facts: compiled.append(facts["fn"].name)
    try:
        launcher.preload(add, *tensors(0), N, BLOCK=128, devices=[0, 1])
    finally:
        triton.knobs.runtime.jit_post_compile_hook = before
    assert gpu.loads == [("add", 0), ("add", 1)]
    assert len(compiled) == 1
    assert add.device_caches[0][4] is add.device_caches[1][4]  # one binder; the caches of compiled forms are apart
    assert add.device_caches[0][0] is not add.device_caches[1][0]
    assert not gpu.launches
    add[(8,)](*tensors(0), N, BLOCK=128)  # Triton's own launch finds both
    gpu.exchange(1)
    add[(8,)](*tensors(1), N, BLOCK=128)
    gpu.exchange(0)
    assert gpu.loads == [("add", 0), ("add", 1)]
    assert [launch.loaded_on for launch in gpu.launches] == [0, 1]


def test_a_cold_launch_in_a_capture_names_kernel_specialisation_and_preload(
    launcher: TritonLauncher, gpu: FakeGpu
) -> None:
    launcher.preload(add, *tensors(0), N, BLOCK=128)
    gpu.capturing = True
    launcher.launch(add, *tensors(0), N, BLOCK=128, grid=(8,))
    cold = r"add is not loaded on cuda:1 for \(x: \*fp32.*launcher.preload\(add, <the same arguments>, devices=\[1\]\)"
    for step in (launcher.launch, launcher.bind, launcher.preload):
        with pytest.raises(CaptureRefused, match=cold):
            step(add, *tensors(1), N, BLOCK=128, grid=(8,))
    plan = launcher.explain(add, *tensors(1), N, BLOCK=128)
    assert plan.device is None
    assert "not loaded on cuda:1" in (plan.refusal or "")
    assert len(gpu.launches) == 1
    assert [device for _, device in gpu.loads] == [0]


def test_a_driver_that_is_known_to_accept_loads_in_a_capture(gpu: FakeGpu) -> None:
    relaxed: list[str] = []

    class Relaxed:
        def __enter__(self) -> None:
            relaxed.append("in")

        def __exit__(self, *_: object) -> None:
            relaxed.append(f"out after {len(gpu.loads)} load")

    knows = [True]
    launcher = TritonLauncher("cuda", host_of(gpu), cold_load=ColdLoad(lambda: knows[0], Relaxed))
    gpu.capturing = True
    launcher.launch(add, *tensors(0), N, BLOCK=128, grid=(8,))
    assert relaxed == ["in", "out after 1 load"]
    assert len(gpu.launches) == 1
    knows[0] = False
    with pytest.raises(CaptureRefused, match="not loaded"):
        launcher.launch(add, *tensors(1), N, BLOCK=128, grid=(8,))


def test_explain_says_what_a_launch_would_do_and_does_nothing(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    plan = launcher.explain(add, *tensors(1), N, BLOCK=128, num_warps=2)
    assert (plan.device, plan.loaded, plan.refusal) == ("cuda:1", False, None)
    assert "n: i32" in plan.specialisation
    assert "num_warps=2" in plan.specialisation
    assert not gpu.loads
    launcher.launch(add, *tensors(1), N, BLOCK=128, num_warps=2, grid=(8,))
    assert launcher.explain(add, *tensors(1), N, BLOCK=128, num_warps=2).loaded
    assert not launcher.explain(add, *tensors(0), N, BLOCK=128, num_warps=2).loaded


# -- decorated kernels, hooks, releases ---------------------------------------------------------------------------


def test_heuristics_are_computed_for_every_call(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    x, bias, _ = tensors()
    for value in (None, bias, None, bias):
        launcher.launch(guessed, x, value, N, BLOCK=128, grid=(8,))
        assert gpu.launches[-1].arguments[3] is (value is not None)


def test_a_grid_callable_may_change_its_arguments(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    x, y, out = tensors()
    other = tensors()[0]

    def grid(meta: dict[str, object]) -> tuple[int]:
        meta["out"] = other
        return (int(meta["BLOCK"]) // 64,)  # type: ignore[call-overload]

    for _ in range(2):
        launcher.launch(add, x, y, out, N, BLOCK=128, grid=grid)
        assert gpu.launches[-1].grid == (2, 1, 1)
        passed = gpu.launches[-1].arguments[2]
        assert (passed if isinstance(passed, int) else passed.data_ptr()) == other.data_ptr()


def test_while_a_launch_hook_is_installed_it_sees_every_launch(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    bound = launcher.bind(add, *tensors(1), N, BLOCK=128, grid=(8,))
    seen: list[object] = []
    triton.knobs.runtime.launch_enter_hook.add(seen.append)
    try:
        bound(*tensors(1), N)
        launcher.launch(add, *tensors(1), N, BLOCK=128, grid=(8,))
        gpu.capturing = True
        with pytest.raises(CaptureRefused):
            launcher.launch(add, *tensors(0), N, BLOCK=128, grid=(8,))
    finally:
        triton.knobs.runtime.launch_enter_hook.remove(seen.append)
        gpu.capturing = False
    bound(*tensors(1), N)
    assert len(seen) == 2
    assert [launch.device for launch in gpu.launches] == [1, 1, 1]


def test_an_unknown_release_goes_through_tritons_own_door_and_says_so(
    launcher: TritonLauncher, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(releases, "known", lambda version: False)
    with caplog.at_level(logging.WARNING, "hardpoint.launcher"):
        for index in (1, 0):
            launcher.launch(add, *tensors(index), N, BLOCK=128, grid=(8,))
    assert [launch.device for launch in gpu.launches] == [1, 0]
    assert gpu.current() == 0
    assert len([r for r in caplog.records if "right but slower" in r.getMessage()]) == 1
    launcher.preload(add, *tensors(1), N, BLOCK=64)
    assert len(gpu.loads) == 3
    gpu.capturing = True
    bound = launcher.bind(add, *tensors(1), N, BLOCK=64, grid=(8,))
    bound(*tensors(1), N)
    assert gpu.launches[-1].arguments[4] == 64
    with pytest.raises(CaptureRefused, match=r"preload\(add"):
        launcher.launch(add, *tensors(0), N, BLOCK=64, grid=(8,))
    assert launcher.explain(add, *tensors(1), N, BLOCK=64).loaded
    assert launcher.explain(add, *tensors(0), N, BLOCK=64).refusal
    with pytest.raises(LaunchRefused, match="y on cpu"):
        launcher.launch(add, tensors(1)[0], torch.zeros(N), tensors(1)[0], N, BLOCK=64, grid=(8,))
    assert len(gpu.launches) == 3


def test_the_releases_that_were_read_are_known_and_others_are_not() -> None:
    assert [v for v in ("3.5.1", "3.6.0", "3.7.1", "3.8.0", "3.9.0", "3.10.0", "4.0") if releases.known(v)] == [
        "3.6.0", "3.7.1", "3.8.0", "3.9.0",
    ]  # fmt: skip
    assert releases.known(triton.__version__), "the installed Triton is new: read its internals, then extend the range"


# -- what autotuning chose ----------------------------------------------------------------------------------------


def test_tuning_happens_once_and_never_in_a_capture(launcher: TritonLauncher, gpu: FakeGpu) -> None:
    kernel = tuned_kernel()
    gpu.capturing = True
    with pytest.raises(CaptureRefused, match="has not been autotuned"):
        launcher.launch(kernel, *tensors(1), N, grid=(8,))
    gpu.capturing = False
    with pytest.raises(LaunchRefused, match="none is chosen"):
        launcher.preload(kernel, *tensors(1), N)
    launcher.launch(kernel, *tensors(1), N, grid=(8,))
    tuned = len(gpu.launches)
    assert tuned >= 3  # two trials and the launch
    launcher.launch(kernel, *tensors(1), N, grid=(8,))
    launcher.launch(kernel, *tensors(1), N, grid=(8,))
    assert len(gpu.launches) == tuned + 2
    assert {launch.device for launch in gpu.launches} == {1}


def test_choices_are_stored_and_taken_elsewhere(launcher: TritonLauncher, gpu: FakeGpu, tmp_path: Path) -> None:
    here, there, path = tuned_kernel(), tuned_kernel(), tmp_path / "choices.json"
    launcher.launch(here, *tensors(), N, grid=(8,))
    (key,) = here.cache
    here.cache[key] = here.configs[1]
    launcher.save_tuning(path, [here])
    assert launcher.load_tuning(path, [there]) == 1
    launcher.launch(there, *tensors(1), N, grid=(8,))
    assert gpu.launches[-1].arguments[4] == 128
    assert there.cache == {key: there.configs[1]}


def test_choices_for_something_else_are_refused(launcher: TritonLauncher, gpu: FakeGpu, tmp_path: Path) -> None:
    from triton.runtime.jit import JITFunction

    kernel, path = tuned_kernel(), tmp_path / "choices.json"
    launcher.launch(kernel, *tensors(), N, grid=(8,))
    launcher.save_tuning(path, [kernel])
    other = triton.autotune(configs=[triton.Config({"BLOCK": 32}), triton.Config({"BLOCK": 64})], key=["n"])(
        JITFunction(add.fn)
    )
    with pytest.raises(LaunchRefused, match="source and configurations"):
        launcher.load_tuning(path, [other])
    assert not other.cache
    path.write_text(path.read_text().replace("cuda:90", "cuda:80"))
    with pytest.raises(LaunchRefused, match=r"device target cuda:90 .* found them for cuda:80"):
        launcher.load_tuning(path, [tuned_kernel()])
    for text in ("no json", "[]", '{"format": 99}'):
        path.write_text(text)
        with pytest.raises(LaunchRefused, match="no file of autotuning choices"):
            launcher.load_tuning(path, [kernel])
    with pytest.raises(LaunchRefused, match="cannot be read"):
        launcher.load_tuning(tmp_path / "absent.json", [kernel])
    with pytest.raises(LaunchRefused, match="no autotuning choice to make"):
        launcher.save_tuning(path, [add])


@pytest.mark.parametrize("willing", [True, False])
def test_ranks_choose_alike_or_nobody_changes(gpu: FakeGpu, willing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from hardpoint.launcher.triton import tuning

    kernels = [tuned_kernel() for _ in range(2)]
    for number, kernel in enumerate(kernels):
        kernel.cache[(N, "torch.float32")] = kernel.configs[number]
    if not willing:
        kernels[1].configs.append(triton.Config({"BLOCK": 256}))
    hub, said = Hub(2), {}

    def rank(number: int) -> None:
        try:
            tuning.share([kernels[number]], ThreadsCommunicator(hub, number), torch.device("cpu"), src=0)
        except LaunchRefused as error:
            said[number] = str(error)

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    chosen = [str(kernel.cache[(N, "torch.float32")]) for kernel in kernels]
    if willing:
        assert said == {}
        assert chosen == [str(kernels[0].configs[0])] * 2
    else:
        assert set(said) == {0, 1}
        assert "rank 1" in said[0]
        assert chosen == [str(kernels[0].configs[0]), str(kernels[1].configs[1])]
