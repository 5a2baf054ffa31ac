"""torch's one PrivateUse1 slot: the hook is still there, and whoever holds the slot is named."""

from __future__ import annotations

import subprocess
import sys

import pytest
from torch.utils import backend_registration

import hardpoint_sim

PROBE = "import hardpoint_sim; print(hardpoint_sim.hardpoint_probe())"


def probe_after(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{PROBE}"], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def test_the_torch_in_use_still_has_the_experimental_hook() -> None:
    assert callable(backend_registration._setup_privateuseone_for_python_backend)


def test_the_plugin_module_imports_no_torch() -> None:
    code = "import sys, hardpoint_sim; hardpoint_sim.hardpoint_info(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_the_info_never_lets_auto_choose_it() -> None:
    info = hardpoint_sim.hardpoint_info()
    assert (info.name, info.device_type) == ("sim", "sim")
    assert info.priority < 0


def test_the_probe_is_available_and_creates_nothing() -> None:
    text = probe_after("import torch")
    assert "available=True" in text
    code = f"{PROBE}; import torch; print(torch._C._get_privateuse1_backend_name())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "privateuseone"


def test_another_holder_of_the_slot_is_named() -> None:
    text = probe_after("import torch; torch.utils.rename_privateuse1_backend('npu')")
    assert "available=False" in text
    assert "held by 'npu'" in text


def test_another_package_called_sim_is_named() -> None:
    text = probe_after("import torch; torch.utils.rename_privateuse1_backend('sim')")
    assert "another package has registered a torch device type called 'sim'" in text


def test_a_torch_without_the_hook_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(backend_registration, "_setup_privateuseone_for_python_backend")
    probe = hardpoint_sim.hardpoint_probe()
    assert not probe.available
    assert "lacks torch.utils.backend_registration._setup_privateuseone_for_python_backend" in probe.reason


def test_a_bad_setting_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARDPOINT_SIM_DEVICES", "none")
    probe = hardpoint_sim.hardpoint_probe()
    assert not probe.available
    assert "HARDPOINT_SIM_DEVICES" in probe.reason
