"""The backend as it is handed over: built from options, made of parts that can be exchanged, laid under profiles."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, replace
from importlib.metadata import EntryPoint

import pytest
import torch

import hardpoint_sim
from hardpoint import Backend
from hardpoint.device import Device
from hardpoint.graphs import Graphs
from hardpoint.launcher import KernelLauncher
from hardpoint.lifecycle.protocol import MemoryMap
from hardpoint_sim import profiles
from hardpoint_sim.backend import build
from hardpoint_sim.device import SimDevice
from hardpoint_sim.settings import Rules


def test_the_parts_conform_to_their_protocols() -> None:
    backend = hardpoint_sim.hardpoint_backend({})
    assert isinstance(backend, Backend)
    assert isinstance(backend.device, Device)
    assert isinstance(backend.launcher, KernelLauncher)
    assert isinstance(backend.graphs, Graphs)
    assert isinstance(backend.memory_map, MemoryMap)


def test_options_reach_the_engine() -> None:
    backend = build({"devices": 4, "memory": 1 << 20, "rules": Rules(poison_empty=False)})
    assert backend.device.count() == 4
    assert backend.device.memory(3).total == 1 << 20
    assert torch.empty(2, device="sim:3").tolist() == [0.0, 0.0]


def test_a_new_simulator_takes_over_and_the_old_one_keeps_its_tensors() -> None:
    old = build({"devices": 3})
    x = torch.ones(2, device="sim:2")
    build({"devices": 1})
    assert (x + 1).tolist() == [2.0, 2.0]
    old.device.synchronize(2)


def test_parts_are_exchanged_by_replace() -> None:
    @dataclass(frozen=True)
    class EventsDoneAtOnce(SimDevice):
        def count(self) -> int:
            return 1

    backend = build({})
    assert isinstance(backend.device, SimDevice)
    broken = replace(backend, device=EventsDoneAtOnce(backend.device.engine))
    assert (broken.device.count(), backend.device.count()) == (1, 2)
    with pytest.raises(FrozenInstanceError):
        backend.device = broken.device  # type: ignore[misc]


def test_every_claimed_dtype_computes_and_copies() -> None:
    backend = build({})
    for name in backend.capabilities.dtypes:
        dtype = getattr(torch, name)
        x = torch.ones(3, dtype=dtype, device="sim:1")
        assert torch.equal((x * x).cpu(), torch.ones(3, dtype=dtype)), name


def test_a_profile_is_laid_over_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("narrow", f"{__name__}:narrow", profiles.GROUP)
    monkeypatch.setattr(profiles, "entry_points", lambda group: [entry] if group == profiles.GROUP else [])
    monkeypatch.setattr(EntryPoint, "load", lambda self: narrow)
    assert build({"profile": "narrow"}).capabilities.dtypes == {"float32"}
    with pytest.raises(ValueError, match=r"no profile 'wide' \(installed are: narrow\)"):
        build({"profile": "wide"})


def narrow(backend: Backend, engine: object) -> Backend:
    return replace(backend, capabilities=replace(backend.capabilities, dtypes=frozenset({"float32"})))


def test_a_profile_that_is_not_installed_is_named_before_the_slot_is_taken() -> None:
    code = """
import torch
from hardpoint_sim.backend import build
try:
    build({"profile": "no-such-chip"})
except ValueError as error:
    print(error)
print(torch._C._get_privateuse1_backend_name())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    sentence, slot = done.stdout.splitlines()
    assert "the simulator has no profile 'no-such-chip'" in sentence
    assert slot == "privateuseone"


def test_a_taken_slot_makes_the_build_fail_with_the_holder() -> None:
    code = """
import torch
from hardpoint.errors import BackendUnavailable
torch.utils.rename_privateuse1_backend("npu")
from hardpoint_sim.backend import build
try:
    build({})
except BackendUnavailable as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "the backend 'sim' cannot be used" in done.stdout
    assert "held by 'npu'" in done.stdout
