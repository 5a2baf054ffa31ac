"""`LauncherByKind`: compiled kernels to one launcher, Python functions to the other, in every call."""

from __future__ import annotations

from typing import Any

import pytest

from hardpoint.launcher import KernelLauncher, LauncherByKind, LaunchPlan


class Noting:
    def __init__(self, name: str, calls: list[Any]) -> None:
        self.name, self.calls = name, calls

    def bind(self, kernel: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((self.name, "bind", args, kwargs))
        return self

    def launch(self, kernel: Any, *args: Any, **kwargs: Any) -> None:
        self.calls.append((self.name, "launch", args, kwargs))

    def preload(self, kernel: Any, *args: Any, devices: Any = None, **kwargs: Any) -> None:
        self.calls.append((self.name, "preload", args, {"devices": devices, **kwargs}))

    def explain(self, kernel: Any, *args: Any, **kwargs: Any) -> LaunchPlan:
        self.calls.append((self.name, "explain", args, kwargs))
        return LaunchPlan(self.name, None, "", False, None)

    def __call__(self) -> None: ...


class Compiled:
    def run(self) -> None: ...


@pytest.mark.parametrize(("kernel", "name"), [(Compiled(), "compiled"), (lambda x: None, "python")])
def test_each_call_goes_to_the_launcher_of_its_kind_unchanged(kernel: Any, name: str) -> None:
    calls: list[Any] = []
    launcher = LauncherByKind(compiled=Noting("compiled", calls), python=Noting("python", calls))
    assert isinstance(launcher, KernelLauncher)
    launcher.launch(kernel, 1, n=2)
    launcher.preload(kernel, 1, devices=[0, 1], n=2)
    assert launcher.explain(kernel, 1, n=2).kernel == name
    bound: Any = launcher.bind(kernel, 1, n=2)
    assert bound.name == name
    assert calls == [
        (name, "launch", (1,), {"n": 2}),
        (name, "preload", (1,), {"devices": [0, 1], "n": 2}),
        (name, "explain", (1,), {"n": 2}),
        (name, "bind", (1,), {"n": 2}),
    ]
