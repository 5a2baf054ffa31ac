"""The byte budget, and what freed memory does to those who still read it."""

from __future__ import annotations

import gc

import pytest
import torch

from hardpoint_sim.settings import Settings
from support.simulator import Simulator, is_poisoned, simulator

KIB = 1024


def small(**rules: bool) -> Simulator:
    return simulator(Settings(memory=64 * KIB), **rules)


def test_memory_counts_what_is_allocated_on_each_device() -> None:
    sim = small()
    x = torch.zeros(1024, device="sim:1")
    view = x[:10]
    assert sim.device.memory(0).allocated == 0
    assert sim.device.memory(1).allocated == 4 * KIB
    assert sim.device.memory(1).free == 60 * KIB
    del x
    assert sim.device.memory(1).allocated == 4 * KIB
    del view
    assert sim.device.memory(1).allocated == 0


def test_over_the_budget_is_out_of_memory_in_a_sentence() -> None:
    sim = small()
    held = torch.empty(32 * KIB, dtype=torch.uint8, device="sim")
    with pytest.raises(torch.OutOfMemoryError, match=r"sim:0 is out of memory: aten.empty.memory_format needs 40960"):
        torch.empty(40 * KIB, dtype=torch.uint8, device="sim")
    with sim.device.use(1):
        torch.empty(40 * KIB, dtype=torch.uint8, device="sim")
    del held
    torch.empty(40 * KIB, dtype=torch.uint8, device="sim")


def test_results_count_as_well() -> None:
    small()
    x = torch.zeros(10 * KIB, device="sim")
    with pytest.raises(torch.OutOfMemoryError, match=r"aten\.add\.Tensor needs 40960"):
        x + 1


def test_without_the_rule_there_is_no_end_of_memory() -> None:
    small(enforce_budget=False)
    torch.empty(1 << 20, dtype=torch.uint8, device="sim")


def freed_while_another_stream_reads(sim: Simulator, *, record: bool = False) -> torch.Tensor:
    side = sim.device.stream()
    x = torch.ones(4, device="sim")
    side.wait_stream(sim.device.current_stream())
    with sim.device.use_stream(side):
        result = x * 2
    if record:
        x.record_stream(side)
    del x
    gc.collect()
    sim.device.synchronize()
    return result


def test_memory_freed_under_a_reader_on_another_stream_is_poison() -> None:
    assert is_poisoned(freed_while_another_stream_reads(small()))


def test_without_the_rule_the_early_free_goes_unnoticed() -> None:
    assert freed_while_another_stream_reads(small(poison_on_free=False)).cpu().tolist() == [2.0] * 4


def test_record_stream_keeps_memory_until_the_reader_is_done() -> None:
    assert freed_while_another_stream_reads(small(), record=True).cpu().tolist() == [2.0] * 4


def test_memory_freed_after_the_allocating_stream_waits_is_read_in_time() -> None:
    sim = small()
    side = sim.device.stream()
    x = torch.ones(4, device="sim")
    side.wait_stream(sim.device.current_stream())
    with sim.device.use_stream(side):
        result = x * 2
    sim.device.current_stream().wait_stream(side)
    del x
    gc.collect()
    sim.device.synchronize()
    assert result.cpu().tolist() == [2.0] * 4


def test_temporaries_of_one_stream_are_safe() -> None:
    small()
    x = torch.ones(4, device="sim")
    for _ in range(50):
        x = (x + 1) * 1
    assert x.cpu().tolist() == [51.0] * 4


def test_addresses_are_never_used_twice() -> None:
    small()
    seen = [torch.ones(4, device="sim").data_ptr() for _ in range(50)]
    assert len(set(seen)) == 50
    assert all(address % 512 == 0 for address in seen)
