"""The guard and the GDN layers inside vLLM, as far as a host without a GPU shows them."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch

from hardpoint import guard as core_guard
from hardpoint_vllm.triton import gdn, guard
from hardpoint_vllm.triton.on_import import after_import


def test_a_cpu_platform_is_not_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(core_guard, "install", lambda kind: asked.append(kind) or core_guard.GuardStatus(True, kind))
    platforms = types.ModuleType("vllm.platforms")
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    for kind, expected in (("cpu", False), ("", False), ("cuda", True), ("xpu", True)):
        platforms.current_platform = types.SimpleNamespace(device_type=kind)  # type: ignore[attr-defined]
        assert guard.install() is expected
    assert asked == ["cuda", "xpu"]


def test_an_action_comes_after_the_import_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_late.py").write_text("value = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    seen: list[int] = []
    after_import("imported_late", lambda module: seen.append(module.value))
    assert seen == []
    import imported_late  # type: ignore[import-not-found]

    assert seen == [3]
    assert type(imported_late.__spec__.loader).__name__ == "SourceFileLoader"
    after_import("imported_late", lambda module: seen.append(module.value + 1))
    assert seen == [3, 4]
    monkeypatch.delitem(sys.modules, "imported_late")
    assert not [
        finder for finder in sys.meta_path if type(finder).__name__ == "_Finder" and finder._name == "imported_late"
    ]


def test_the_table_lists_them_where_kernels_are_tritons(monkeypatch: pytest.MonkeyPatch) -> None:
    from hardpoint_vllm import overrides

    platforms = types.ModuleType("vllm.platforms")
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    for kind, expected in (("cpu", 0), ("cuda", 1 + len(gdn.LAYERS))):
        in_tree = type("Platform", (), {"device_type": kind, "__module__": "vllm.platforms.made_up"})
        platforms._current_platform = in_tree()  # type: ignore[attr-defined]
        rows = [row for row in overrides.table() if row.owner.startswith("hardpoint_vllm.triton.")]
        assert len(rows) == expected
        assert not any(row.installed for row in rows)


class Layer(torch.nn.Module):
    """Stands for a GDN layer."""

    def _forward_core(self, x: torch.Tensor, out: torch.Tensor) -> int:
        return torch.accelerator.current_device_index()

    def forward(self, x: torch.Tensor) -> int:
        return -1


def test_methods_that_launch_run_under_their_tensors_device(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]

    class Under:
        def __init__(self, index: int) -> None:
            self.index = index

        def __enter__(self) -> None:
            self.before, current[0] = current[0], self.index

        def __exit__(self, *_: object) -> None:
            current[0] = self.before

    monkeypatch.setattr(torch.accelerator, "device_index", Under)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: current[0])
    from support.fake_triton import on

    layer = gdn.under_device(Layer)()
    assert isinstance(layer, Layer)
    there = on(1, torch.zeros(2))
    assert layer._forward_core(there, out=there) == 1
    assert layer._forward_core(x=there, out=there) == 1
    assert layer._forward_core(torch.zeros(2), torch.zeros(2)) == 0
    assert current == [0]
    assert type(layer).forward is Layer.forward  # traced by torch.compile: left alone


@pytest.mark.vllm
def test_the_layers_are_registered_when_vllm_imports_them() -> None:
    """In a process of its own: importing vLLM's layers and registering are for good."""
    import subprocess

    code = (
        "import sys; from hardpoint_vllm.triton import gdn; gdn.install(); gdn.install()\n"
        "assert not [m for m in gdn.LAYERS if m in sys.modules]\n"
        "import importlib\n"
        "for m in gdn.LAYERS: importlib.import_module(m)\n"
        "from vllm.model_executor.custom_op import op_registry_oot as found\n"
        "for m, name in gdn.LAYERS.items():\n"
        "    assert issubclass(found[name], getattr(sys.modules[m], name)), name\n"
        "    wrapped = [n for n in (*gdn.METHODS, '_forward') if n in vars(found[name])]\n"
        "    assert wrapped, name\n"
        "print('registered', len(gdn.LAYERS))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert run.stdout.strip().endswith("registered 3"), run.stderr[-2000:]
