"""The guard on real Triton, without a GPU: a stand-in driver records which device was current at each launch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hardpoint import guard
from hardpoint.errors import CaptureRefused, LaunchRefused
from hardpoint.launcher.triton import cold_load, host
from support.fake_triton import FakeGpu, fake_gpu, host_of, on

triton = pytest.importorskip("triton", reason="needs Triton, which is installed on Linux only")
tl = pytest.importorskip("triton.language")
N = 1000


@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    tl.store(out + i, tl.load(x + i, mask=mask) + tl.load(y + i, mask=mask), mask=mask)


@triton.jit
def first_of(pair, n, BLOCK: tl.constexpr):
    tl.store(pair[0] + tl.arange(0, BLOCK), n)


guessed = triton.heuristics({"BLOCK": lambda a: 128})(add)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    monkeypatch.delenv("HARDPOINT_GUARD", raising=False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    guard.remove()
    with fake_gpu() as gpu:
        calls = host_of(gpu)
        monkeypatch.setattr(host, "runtime_calls", lambda kind: (calls.current, calls.exchange, calls.capturing))
        yield gpu
        guard.remove()
        for kernel in (add, first_of):
            kernel.device_caches.clear()


def tensors(index: int = 0) -> tuple[torch.Tensor, ...]:
    return tuple(on(index, torch.zeros(N)) for _ in range(3))


def test_without_the_guard_a_launch_goes_to_the_current_device(gpu: FakeGpu) -> None:
    add[(8,)](*tensors(1), N, BLOCK=128)
    assert gpu.launches[-1].device == 0  # the fault of field report 1


@pytest.mark.parametrize("kernel", [add, guessed])
def test_with_the_guard_it_goes_to_the_tensors_device(gpu: FakeGpu, kernel) -> None:
    constants = {"BLOCK": 128} if kernel is add else {}
    guard.install("cuda")
    for index in (1, 0, 1):
        kernel[(8,)](*tensors(index), N, **constants)
        x, y, out = tensors(index)
        kernel[(8,)](n=N, out=out, x=x, y=y, **constants)
        assert [launch.device for launch in gpu.launches[-2:]] == [index, index]
        assert gpu.current() == 0
    assert gpu.loads == [("add", 1), ("add", 0)]


def test_autotuning_trials_run_on_the_tensors_device_too(gpu: FakeGpu) -> None:
    from triton.runtime.jit import JITFunction

    configs = [triton.Config({"BLOCK": 64}), triton.Config({"BLOCK": 128})]
    kernel = triton.autotune(configs=configs, key=["n"])(JITFunction(add.fn))
    guard.install("cuda")
    kernel[(8,)](*tensors(1), N)
    assert len(gpu.launches) >= 3
    assert {launch.device for launch in gpu.launches} == {1}


def test_tensors_in_a_tuple_count(gpu: FakeGpu) -> None:
    guard.install("cuda")
    first_of[(1,)]((tensors(1)[0], tensors(1)[1]), 5, BLOCK=16)
    assert gpu.launches[-1].device == 1


def test_the_device_is_as_before_after_an_error(gpu: FakeGpu) -> None:
    guard.install("cuda")
    with pytest.raises(Exception, match="surprise"):
        add[(8,)](*tensors(1), N, BLOCK=128, surprise=1)
    assert gpu.current() == 0


def test_a_forms_first_launch_checks_every_argument(gpu: FakeGpu) -> None:
    guard.install("cuda")
    x, y, out = tensors(1)
    for wrong, sentence in ((tensors(0)[1], "y on cuda:0"), (torch.zeros(N), "found y on the host")):
        with pytest.raises(LaunchRefused, match=sentence):
            add[(8,)](x, wrong, out, N, BLOCK=128)
    assert not gpu.launches
    assert not gpu.loads
    add[(8,)](x, y, out, N, BLOCK=128)
    assert gpu.current() == 0


def test_strict_checks_every_launch(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, out = tensors(1)
    guard.install("cuda")
    add[(8,)](x, y, out, N, BLOCK=128)
    add[(8,)](x, tensors(0)[1], out, N, BLOCK=128)  # loaded already: only the first tensor is looked at
    assert len(gpu.launches) == 2
    guard.remove()
    monkeypatch.setenv("HARDPOINT_GUARD", "strict")
    assert guard.install("cuda").strict
    with pytest.raises(LaunchRefused, match=r"add on one device, found x on cuda:1, y on cuda:0"):
        add[(8,)](x, tensors(0)[1], out, N, BLOCK=128)
    assert len(gpu.launches) == 2


@pytest.mark.parametrize(("driver", "refused"), [(13000, False), (12080, True)])
def test_a_first_load_in_a_capture_is_named_where_the_driver_would_refuse_it(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, driver: int, refused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cold_load, "driver_version", lambda: driver)
    guard.install("cuda")
    gpu.capturing = True
    if refused:
        with pytest.raises(CaptureRefused, match=r"add .*loaded for the first time inside a graph capture.*preload"):
            add[(8,)](*tensors(1), N, BLOCK=128)
        assert not gpu.launches
        gpu.capturing = False
        add[(8,)](*tensors(1), N, BLOCK=128)  # nothing was left half loaded
        gpu.capturing = True
    else:
        add[(8,)](*tensors(1), N, BLOCK=128)
        assert "first time inside a graph capture; this driver allows it" in caplog.text
    add[(8,)](*tensors(1), N, BLOCK=128)
    assert {launch.loaded_on for launch in gpu.launches} == {1}


def test_installing_twice_and_removing_twice(gpu: FakeGpu) -> None:
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import JITFunction

    before = (JITFunction.run, Autotuner.run, list(triton.knobs.runtime.kernel_load_start_hook.calls))
    first = guard.install("cuda")
    assert guard.install("cuda", strict=True) == first == guard.status()
    assert first.installed
    for _ in range(2):
        guard.remove()
        assert (JITFunction.run, Autotuner.run, triton.knobs.runtime.kernel_load_start_hook.calls) == before
        assert not guard.status().installed


def test_what_others_wrapped_after_it_stays(
    gpu: FakeGpu, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton.runtime.jit import JITFunction

    monkeypatch.setattr(JITFunction, "run", JITFunction.run)  # puts Triton's own back when the test ends
    guard.install("cuda")
    inner = JITFunction.run

    def theirs(self, *args, **kwargs):
        return inner(self, *args, **kwargs)

    JITFunction.run = theirs
    guard.remove()
    assert JITFunction.run is theirs
    assert "JITFunction.run was wrapped by" in caplog.text


def test_off_installs_nothing_and_a_wrong_word_is_said(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDPOINT_GUARD", "off")
    assert guard.install("cuda") == guard.GuardStatus(False, reason="HARDPOINT_GUARD=off")
    monkeypatch.setenv("HARDPOINT_GUARD", "maybe")
    with pytest.raises(ValueError, match="on, off or strict, found 'maybe'"):
        guard.install("cuda")


def test_a_torch_without_the_calls_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(kind: str) -> None:
        raise AttributeError("module 'torch.odd' has no attribute '_exchange_device'")

    monkeypatch.setattr(host, "runtime_calls", lacking)
    found = guard.install("odd")
    assert not found.installed
    assert "_exchange_device" in found.reason
