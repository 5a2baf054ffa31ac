"""Sleep and wake of device memory: same address, lost contents, and nothing that forgives a missing wait."""

from __future__ import annotations

import pytest
import torch

from hardpoint.errors import LifecycleError
from hardpoint.lifecycle import Lifecycle, LifecycleParts
from hardpoint.lifecycle.protocol import MemoryMap
from hardpoint_sim.errors import DeviceFault, UnmappedAccess
from hardpoint_sim.memory_map import SimMemoryMap
from hardpoint_sim.settings import Settings
from support.simulator import Simulator, is_poisoned, simulator

KIB = 1024


@pytest.fixture
def sim() -> Simulator:
    return simulator(Settings(memory=64 * KIB))


@pytest.fixture
def memory(sim: Simulator) -> SimMemoryMap:
    return SimMemoryMap(sim.engine)


def pooled(sim: Simulator, memory: SimMemoryMap, tag: str = "weights", index: int = 0) -> torch.Tensor:
    with memory.pool(tag, index):
        made = torch.arange(1024.0, device=f"sim:{index}")
    sim.device.synchronize(index)
    return made


def test_it_conforms_to_the_protocol(memory: SimMemoryMap) -> None:
    assert isinstance(memory, MemoryMap)


def test_a_pool_takes_what_this_thread_allocates_on_its_device(sim: Simulator, memory: SimMemoryMap) -> None:
    with memory.pool("weights", 1), memory.pool("kv_cache", 0):
        torch.ones(4, device="sim:1")
        kept = [torch.ones(512, device="sim:1"), torch.ones(256, device="sim:0")]
    outside = torch.ones(256, device="sim:1")
    assert memory.tags() == ("weights", "kv_cache")
    assert [(h.tag, h.nbytes, h.device, h.mapped, h.saved) for h in memory.holders()] == [
        ("weights", 2048, "sim:1", True, False),
        ("kv_cache", 1024, "sim:0", True, False),
    ]
    assert len(kept) == 2
    assert outside.cpu().sum() == 256


def test_sleep_frees_bytes_and_wake_brings_contents_back_to_the_same_address(
    sim: Simulator, memory: SimMemoryMap
) -> None:
    x = pooled(sim, memory)
    address, before = x.data_ptr(), memory.digest(["weights"])
    memory.save(["weights"])
    memory.unmap(["weights"])
    assert not memory.mapped("weights")
    assert sim.device.memory(0).allocated == 0
    memory.map(["weights"])
    assert x.data_ptr() == address
    assert memory.digest(["weights"]) != before
    assert is_poisoned(x)
    memory.restore(["weights"])
    assert memory.digest(["weights"]) == before
    assert torch.equal(x.cpu(), torch.arange(1024.0))
    memory.discard(["weights"])
    assert not memory.holders()[0].saved


def test_unmapped_memory_cannot_be_touched(sim: Simulator, memory: SimMemoryMap) -> None:
    x = pooled(sim, memory)
    memory.unmap(["weights"])
    for touch in (
        lambda: x + 1,
        lambda: x.cpu(),
        lambda: x[3].item(),
        lambda: x.fill_(0),
        lambda: x.copy_(torch.zeros(1024)),
        lambda: sim.launcher.launch(lambda x: x.zero_(), x),
    ):
        with pytest.raises(UnmappedAccess, match=r"unmapped memory \(4096 bytes at 0x.* on sim:0, tag 'weights'\)"):
            touch()
    assert x[10:].shape == (1014,)


def test_without_the_rule_unmapped_memory_reads_as_something() -> None:
    sim = simulator(check_mapped=False, poison_on_unmap=False)
    memory = SimMemoryMap(sim.engine)
    x = pooled(sim, memory)
    memory.unmap(["weights"])
    assert x[5].item() == 5.0


def test_unmapping_under_queued_work_is_a_fault_at_the_next_wait(sim: Simulator, memory: SimMemoryMap) -> None:
    x = pooled(sim, memory)
    y = x + 1
    memory.unmap(["weights"])
    with pytest.raises(DeviceFault, match=r"aten\.add\.Tensor on .* of sim:0 failed.*unmapped memory"):
        sim.device.synchronize()
    assert is_poisoned(y)


def test_saving_without_waiting_saves_what_was_there_before(sim: Simulator, memory: SimMemoryMap) -> None:
    x = pooled(sim, memory)
    x.fill_(7)
    memory.save(["weights"])
    sim.device.synchronize()
    memory.restore(["weights"])
    assert torch.equal(x.cpu(), torch.arange(1024.0))


def test_a_graph_replayed_while_asleep_is_a_fault(sim: Simulator, memory: SimMemoryMap) -> None:
    x = pooled(sim, memory)
    with sim.graphs.capture(0) as graph:
        x.add_(1)
    memory.save(["weights"])
    memory.unmap(["weights"])
    graph.replay()
    with pytest.raises(DeviceFault, match="unmapped memory"):
        sim.device.synchronize()
    memory.map(["weights"])
    memory.restore(["weights"])
    graph.replay()
    assert x[0].item() == 1.0


def test_mapping_needs_the_memory_and_maps_all_or_nothing(sim: Simulator, memory: SimMemoryMap) -> None:
    first, second = pooled(sim, memory, "weights"), pooled(sim, memory, "kv_cache")
    tags = ["weights", "kv_cache"]
    memory.unmap(tags)
    hog = torch.empty(58 * KIB, dtype=torch.uint8, device="sim")
    allocated = sim.device.memory(0).allocated
    with pytest.raises(torch.OutOfMemoryError, match="mapping tag"):
        memory.map(tags)
    assert not memory.mapped("weights")
    assert not memory.mapped("kv_cache")
    assert sim.device.memory(0).allocated == allocated
    del hog
    memory.map(tags)
    assert is_poisoned(first)
    assert is_poisoned(second)


def test_each_step_is_idempotent_and_freed_memory_is_forgotten(sim: Simulator, memory: SimMemoryMap) -> None:
    x = pooled(sim, memory)
    for step in (memory.save, memory.unmap, memory.unmap, memory.map, memory.map, memory.restore, memory.restore):
        step(["weights"])
    assert x[9].item() == 9.0
    memory.unmap(["weights"])
    del x
    assert memory.holders() == []
    assert sim.device.memory(0).allocated == 0
    memory.map(["weights"])
    assert sim.device.memory(0).allocated == 0


def test_adopting_names_the_tensors(sim: Simulator, memory: SimMemoryMap) -> None:
    x = torch.ones(4, device="sim:1")
    memory.adopt("weights", {"layer.weight": x})
    assert "layer.weight" in memory.holders()[0].what
    memory.unmap(["weights"])
    with pytest.raises(UnmappedAccess, match=r"'layer\.weight'"):
        x + 1
    with pytest.raises(LifecycleError, match=r"'host' cannot be put under tag 'weights': it is on cpu"):
        memory.adopt("weights", {"host": torch.ones(1)})
    with pytest.raises(LifecycleError, match=r"'x' cannot be put under tag 'other': its memory is under 'weights'"):
        memory.adopt("other", {"x": x})


def test_refusals(sim: Simulator, memory: SimMemoryMap) -> None:
    x = pooled(sim, memory)
    with pytest.raises(LifecycleError, match=r"under tag 'nothing'; known tags: 'weights'"):
        memory.save(["nothing"])
    with pytest.raises(LifecycleError, match="cannot be restored: 1 of its allocations were not saved"):
        memory.restore(["weights"])
    memory.unmap(["weights"])
    for step in (memory.save, memory.restore, memory.digest):
        with pytest.raises(LifecycleError, match="is not mapped; map it first"):
            step(["weights"])
    assert x.shape == (1024,)


def test_a_wake_that_finds_no_memory_says_so_keeps_the_copy_and_works_when_there_is_some(
    sim: Simulator, memory: SimMemoryMap
) -> None:
    x = pooled(sim, memory)
    lifecycle = Lifecycle(LifecycleParts(memory=memory, device=sim.device))
    lifecycle.sleep()
    hoard = torch.empty(16000, device="sim:0")
    with pytest.raises(LifecycleError, match=r"rank 0: wake #2 .* is ASLEEP: .*map: OutOfMemory.*mapping tag"):
        lifecycle.wake()
    assert [(held.mapped, held.saved) for held in memory.holders()] == [(False, True)]
    del hoard
    lifecycle.wake()
    assert torch.equal(x.cpu(), torch.arange(1024.0))
