"""`PythonLauncher` over devices that only remember: where it runs, what it refuses, what counts as loaded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from hardpoint.errors import CaptureRefused, DeviceError, LaunchRefused
from hardpoint.launcher import KernelLauncher, PythonLauncher, python_kernel
from support.fake_triton import on


@dataclass
class Devices:
    """Three devices; what is current, and which one is being captured."""

    type: str = "cuda"
    current: int = 0
    captured: int | None = None
    used: list[int] = field(default_factory=list)

    def count(self) -> int:
        return 3

    @contextmanager
    def use(self, index: int) -> Iterator[None]:
        before, self.current = self.current, index
        self.used.append(index)
        try:
            yield
        finally:
            self.current = before

    def capturing(self) -> bool:
        return self.current == self.captured


@pytest.fixture
def devices() -> Devices:
    return Devices()


@pytest.fixture
def launcher(devices: Devices) -> PythonLauncher:
    return PythonLauncher(devices, devices.capturing)


@dataclass
class Seen:
    """A kernel that notes each run: device that was current, arguments."""

    devices: Devices
    runs: list[tuple[int, tuple[Any, ...]]] = field(default_factory=list)

    def kernel(self) -> Any:
        def add(out: torch.Tensor, x: torch.Tensor | None, n: int = 17) -> None:
            self.runs.append((self.devices.current, (out, x, n)))

        return add


@pytest.fixture
def seen(devices: Devices) -> Seen:
    return Seen(devices)


def pair(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    return on(index, torch.zeros(8)), on(index, torch.zeros(8))


def test_it_conforms_to_the_protocol(launcher: PythonLauncher) -> None:
    assert isinstance(launcher, KernelLauncher)


def test_without_a_device_it_launches_on_the_host() -> None:
    out = torch.zeros(2)
    PythonLauncher().launch(lambda out: out.fill_(3.0), out)
    assert out.tolist() == [3.0, 3.0]
    assert PythonLauncher().explain(lambda out: None, out).device == "cpu:0"


def test_a_launch_runs_once_under_the_tensors_device_with_the_arguments_as_given(
    launcher: PythonLauncher, devices: Devices, seen: Seen
) -> None:
    kernel, (out, x) = seen.kernel(), pair(2)
    launcher.launch(kernel, out, n=5, x=x)
    ((index, (found_out, found_x, n)),) = seen.runs
    assert (index, n, devices.current) == (2, 5, 0)
    assert found_out is out
    assert found_x is x


def test_the_current_device_is_as_before_when_the_kernel_raises(launcher: PythonLauncher, devices: Devices) -> None:
    def failing(out: torch.Tensor) -> None:
        raise ArithmeticError("planted")

    with pytest.raises(ArithmeticError, match="planted"):
        launcher.launch(failing, pair(1)[0])
    assert (devices.current, devices.used) == (0, [1])


def test_a_refusal_comes_before_any_device_is_touched(launcher: PythonLauncher, devices: Devices, seen: Seen) -> None:
    out, _ = pair(1)

    @python_kernel(dtypes={"out": ("bfloat16",)})
    def typed(out: torch.Tensor) -> None:
        seen.runs.append((devices.current, (out,)))

    for step in (launcher.launch, launcher.bind, launcher.preload):
        for kernel, args in ((seen.kernel(), (out, torch.zeros(1))), (typed, (out,)), (seen.kernel(), ())):
            with pytest.raises(LaunchRefused):
                step(kernel, *args)
    assert not devices.used
    assert not seen.runs


def test_preload_loads_where_it_is_told_and_runs_nothing(
    launcher: PythonLauncher, devices: Devices, seen: Seen
) -> None:
    kernel = seen.kernel()

    def loaded() -> list[int]:
        return [index for index in range(3) if launcher.explain(kernel, *pair(index)).loaded]

    launcher.preload(kernel, *pair(1))
    assert loaded() == [1]
    launcher.preload(kernel, *pair(1), devices=[0, 2])
    assert loaded() == [0, 1, 2]
    assert not launcher.explain(kernel, *pair(1), n=1).loaded
    assert not launcher.explain(kernel, pair(1)[0], None).loaded
    assert not seen.runs
    assert devices.current == 0


@pytest.mark.parametrize("missing", [3, -1])
def test_preload_on_a_device_that_is_not_there_loads_on_none(
    launcher: PythonLauncher, seen: Seen, missing: int
) -> None:
    kernel = seen.kernel()
    with pytest.raises(
        DeviceError, match=rf"add cannot be preloaded on cuda:{missing}: there are 3 devices, cuda:0 to cuda:2"
    ):
        launcher.preload(kernel, *pair(0), devices=[0, missing])
    assert not launcher.explain(kernel, *pair(0)).loaded


def test_a_cold_launch_in_a_capture_names_kernel_form_device_and_the_way_out(
    launcher: PythonLauncher, devices: Devices, seen: Seen
) -> None:
    kernel, args = seen.kernel(), pair(1)
    launcher.preload(kernel, *args, devices=[0])
    launcher.preload(kernel, *args, n=1)
    devices.captured = 1
    expected = (
        r"kernel add is not loaded on cuda:1 for \[out: \*float32.*n: i32\].*"
        r"launcher\.preload\(add, <the same arguments>, devices=\[1\]\)"
    )
    for step in (launcher.launch, launcher.bind, launcher.preload):
        with pytest.raises(CaptureRefused, match=expected):
            step(kernel, *args)
    plan = launcher.explain(kernel, *args)
    assert (plan.device, plan.loaded) == (None, False)
    assert plan.refusal is not None
    assert "preload" in plan.refusal
    assert not seen.runs
    launcher.launch(kernel, *args, n=1)  # loaded before
    launcher.launch(kernel, *pair(2))  # a capture on another device is nobody's business here
    devices.captured = None
    launcher.launch(kernel, *args)
    devices.captured = 1
    launcher.launch(kernel, *args)
    assert [index for index, _ in seen.runs] == [1, 2, 1, 1]


def test_a_bound_call_launches_what_it_is_given_and_refuses_other_kinds(
    launcher: PythonLauncher, devices: Devices, seen: Seen
) -> None:
    kernel, (out, x) = seen.kernel(), pair(1)
    bound = launcher.bind(kernel, out, x)
    assert not seen.runs
    other, _ = pair(1)
    bound(other, x=x, n=18)
    assert seen.runs == [(1, (other, x, 18))]
    for wrong in ((out, None), (out, x, 16), (on(1, torch.zeros(8).bfloat16()), x), pair(2)):
        with pytest.raises(LaunchRefused, match=r"add is bound to device 1 for \[.*bind it for those as well"):
            bound(*wrong)
    with pytest.raises(LaunchRefused, match="argument x is elsewhere"):
        bound(out, torch.zeros(8))
    assert len(seen.runs) == 1
    devices.captured = 1
    bound(out, x)
    assert len(seen.runs) == 2


def test_constants_are_forms_of_their_own(launcher: PythonLauncher) -> None:
    @python_kernel(constants=("block",))
    def blocked(out: torch.Tensor, block: int) -> None: ...

    out, _ = pair(0)
    launcher.preload(blocked, out, 32)
    assert launcher.explain(blocked, out, 32).loaded
    assert not launcher.explain(blocked, out, 64).loaded
    assert not launcher.explain(blocked, out, 32.0).loaded


def test_explain_says_why_a_launch_would_be_refused_and_what_it_would_be(launcher: PythonLauncher, seen: Seen) -> None:
    kernel, (out, x) = seen.kernel(), pair(1)
    plan = launcher.explain(kernel, out, x)
    assert (plan.kernel, plan.device, plan.loaded, plan.refusal) == ("add", "cuda:1", False, None)
    assert plan.specialisation.startswith("out: *float32")
    refused = launcher.explain(kernel, out, pair(0)[0])
    assert (refused.device, refused.specialisation) == (None, "")
    assert refused.refusal is not None
    assert "out on cuda:1, x on cuda:0" in refused.refusal
    assert not seen.runs


def test_threads_that_launch_at_once_lose_nothing(seen: Seen) -> None:
    launcher, kernel = PythonLauncher(), seen.kernel()
    out, x = torch.zeros(8), torch.zeros(8)
    starts = [
        threading.Thread(target=lambda n=n: [launcher.launch(kernel, out, x, n) for _ in range(50)]) for n in range(8)
    ]
    for thread in starts:
        thread.start()
    for thread in starts:
        thread.join(20)
    assert sorted(n for _, (_, _, n) in seen.runs) == sorted(list(range(8)) * 50)
