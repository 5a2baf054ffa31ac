"""hardpoint's protocol over vLLM's allocator: its records, and an extension that refuses every wrong order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("vllm", reason="the integration is tested beside vLLM")

from hardpoint.device import HostDevice
from hardpoint.errors import LifecycleError
from hardpoint.lifecycle import Lifecycle, LifecycleParts
from hardpoint.lifecycle.mover import PinnedMover
from hardpoint.lifecycle.virtual_memory import VirtualBlock
from hardpoint.sync.stream import TorchBoxes
from hardpoint_vllm.sleep.cumem import StockMemoryMap, StockVirtualMemory

NBYTES = 4096


class Extension:
    """vLLM's two calls, by address; memory that is mapped anew is 0xEE."""

    def __init__(self) -> None:
        self.behind: dict[int, torch.Tensor] = {}
        self.full_at: int | None = None

    def unmap_and_release(self, handle: Any) -> None:
        assert handle[2] in self.behind, "unmapped twice"
        del self.behind[handle[2]]

    def create_and_map(self, handle: Any) -> None:
        assert handle[2] not in self.behind, "mapped twice"
        if handle[2] == self.full_at:
            raise RuntimeError("CUDA Error: out of memory at cumem_allocator.cpp")
        self.behind[handle[2]] = torch.full((handle[1],), 0xEE, dtype=torch.uint8)


class OnHost(StockVirtualMemory):
    """Views without a device."""

    def __init__(self, allocator: Any, extension: Extension) -> None:
        super().__init__(allocator, extension.unmap_and_release, extension.create_and_map)
        self._extension = extension

    def view(self, block: VirtualBlock) -> torch.Tensor:
        self._data(block, asleep=False)
        return self._extension.behind[block.address]


class World:
    """A worker with three allocations of vLLM's, one of them its runtime state, and a buffer in the second."""

    def __init__(self) -> None:
        from vllm.device_allocator import AllocationData

        self.extension, self.allocator = Extension(), SimpleNamespace(pointer_to_data={})
        for number, tag in enumerate(("weights", "weights", "kv_cache", "runtime"), 1):
            handle = (0, NBYTES, number << 21, number)
            self.allocator.pointer_to_data[number << 21] = AllocationData(handle, tag)
            self.extension.create_and_map(handle)
            self.extension.behind[number << 21].copy_((torch.arange(NBYTES) * number % 251).to(torch.uint8))
        model = torch.nn.Module()
        model.register_buffer("inv_freq", torch.arange(4.0))
        self.buffer = model.inv_freq
        runner = SimpleNamespace(get_model=lambda: model)
        self.worker = SimpleNamespace(model_runner=runner, model_config=SimpleNamespace())
        memory = OnHost(self.allocator, self.extension)
        mover = PinnedMover(memory.view, TorchBoxes(), lambda index: None, pin=False)
        self.memory = StockMemoryMap(memory, self.worker, mover)
        for tag in ("weights", "kv_cache"):
            self.memory.adopt(tag, {})
        self.lifecycle = Lifecycle(LifecycleParts(memory=self.memory, device=HostDevice()))

    def weights(self) -> list[list[int]]:
        return [self.extension.behind[number << 21].tolist() for number in (1, 2)]


@pytest.fixture
def world() -> World:
    return World()


def test_weights_come_back_and_what_no_tag_of_ours_holds_stays(world: World) -> None:
    before, runtime = world.weights(), world.extension.behind[4 << 21].clone()
    for _ in range(3):
        world.lifecycle.sleep()
        assert set(world.extension.behind) == {4 << 21}
        assert [data.is_asleep for data in world.allocator.pointer_to_data.values()] == [True, True, True, False]
        world.lifecycle.wake()
        assert world.weights() == before
        assert not any(data.is_asleep for data in world.allocator.pointer_to_data.values())
    assert torch.equal(world.extension.behind[4 << 21], runtime)


def test_half_a_wake_leaves_the_rest_asleep(world: World) -> None:
    world.lifecycle.sleep()
    world.lifecycle.wake(["weights"])
    assert (world.memory.mapped("weights"), world.memory.mapped("kv_cache")) == (True, False)


def test_a_wake_without_memory_maps_nothing_and_works_later(world: World) -> None:
    before = world.weights()
    world.lifecycle.sleep()
    world.extension.full_at = 2 << 21
    with pytest.raises(
        LifecycleError, match=r"is ASLEEP: rank 0 objects: map: RuntimeError: CUDA Error: out of memory"
    ):
        world.lifecycle.wake()
    assert set(world.extension.behind) == {4 << 21}
    world.extension.full_at = None
    world.lifecycle.wake()
    assert world.weights() == before


def test_level_2_keeps_the_buffers_and_says_that_the_weights_are_lost(world: World) -> None:
    world.lifecycle.sleep(level=2)
    world.buffer.fill_(-1.0)
    world.lifecycle.wake()
    assert world.lifecycle.health().undefined == ("weights",)
    assert world.buffer.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_level_2_refuses_to_lose_parameters_that_are_to_be_kept(world: World) -> None:
    world.worker.model_config.sleep_preserve_parameter_names = ["lm_head*"]
    with pytest.raises(LifecycleError, match="asks to keep"):
        world.lifecycle.sleep(level=2)
    assert len(world.extension.behind) == 4


def test_somebody_else_s_sleep_is_noticed(world: World) -> None:
    data = world.allocator.pointer_to_data[1 << 21]
    data.is_asleep = True
    with pytest.raises(LifecycleError, match="which hardpoint has not done: somebody called sleep or wake_up"):
        world.lifecycle.sleep()
    data.is_asleep = False


def test_vllm_s_records_and_calls_are_what_is_used_here() -> None:
    import dataclasses

    from vllm.device_allocator import AllocationData, cumem

    assert {"handle", "tag", "is_asleep"} <= {field.name for field in dataclasses.fields(AllocationData)}
    assert callable(cumem.unmap_and_release)
    assert callable(cumem.create_and_map)
    assert not cumem.cumem_available or cumem.CuMemAllocator.get_instance().pointer_to_data == {}


def test_a_vllm_without_the_extension_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.device_allocator import cumem

    from hardpoint_vllm.sleep.cumem import memory_map

    monkeypatch.setattr(cumem, "cumem_available", False)
    with pytest.raises(LifecycleError, match="needs vLLM's cumem extension"):
        memory_map(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("claimed", "asked", "chosen"), [(True, True, "hardpoint"), (True, False, "cumem"), (False, True, "cumem")]
)
def test_an_engine_sleeps_with_hardpoint_where_the_backend_claims_it(
    monkeypatch: pytest.MonkeyPatch, claimed: bool, asked: bool, chosen: str
) -> None:
    import hardpoint
    from hardpoint_vllm import sleep

    backend = SimpleNamespace(capabilities=SimpleNamespace(sleep=claimed))
    monkeypatch.setattr(hardpoint, "get_backend", lambda: backend)
    model = SimpleNamespace(enable_sleep_mode=asked, sleep_mode_backend="cumem")
    sleep.choose(SimpleNamespace(model_config=model))
    assert model.sleep_mode_backend == chosen
