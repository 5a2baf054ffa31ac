"""Events: done when the work before the last record has really run, and not a moment earlier."""

from __future__ import annotations

import pytest
import torch

from hardpoint.errors import DeviceError
from hardpoint_sim.settings import Settings
from support.simulator import Simulator, is_poisoned, simulator


@pytest.fixture
def sim() -> Simulator:
    return simulator()


def test_an_event_never_recorded_is_done_and_holds_nobody(sim: Simulator) -> None:
    event = sim.device.event()
    assert event.query()
    event.synchronize()
    event.wait(sim.device.stream())


def test_an_event_is_not_done_before_its_work_has_run(sim: Simulator) -> None:
    event = sim.device.event()
    x = torch.zeros(1, device="sim")
    for _ in range(3):
        x.add_(1)
    event.record()
    assert not event.query()
    event.synchronize()
    assert event.query()


def test_polling_an_event_ends_and_the_work_is_done_then(sim: Simulator) -> None:
    event, x, fetched = sim.device.event(), torch.zeros(1, device="sim"), torch.empty(1)
    fetched.copy_(x.add_(5), non_blocking=True)
    event.record()
    polls = 0
    while not event.query():
        polls += 1
        assert polls < 100
    assert fetched.item() == 5.0


def test_synchronize_runs_up_to_the_record_and_no_further(sim: Simulator) -> None:
    event, x = sim.device.event(), torch.zeros(1, device="sim")
    before, after = torch.zeros(1), torch.zeros(1)
    before.copy_(x.fill_(1), non_blocking=True)
    event.record()
    after.copy_(x.fill_(2), non_blocking=True)
    event.synchronize()
    assert (before.item(), after.item()) == (1.0, 0.0)


def test_waiting_orders_streams_under_every_seed() -> None:
    for seed in range(6):
        sim = simulator(Settings(seed=seed))
        event, side = sim.device.event(), sim.device.stream()
        x = torch.ones(4, device="sim") + 1
        event.record()
        event.wait(side)
        with sim.device.use_stream(side):
            assert (x + 1).cpu().tolist() == [3.0] * 4


def test_waiting_before_the_record_orders_nothing(sim: Simulator) -> None:
    event, side = sim.device.event(), sim.device.stream()
    event.wait(side)
    x = torch.ones(4, device="sim") + 1
    event.record()
    with sim.device.use_stream(side):
        assert is_poisoned(x + 1)


def test_an_event_waits_for_its_last_record(sim: Simulator) -> None:
    event, side = sim.device.event(), sim.device.stream()
    event.record()
    x = torch.ones(4, device="sim") + 1
    event.record()
    side.wait_event(event)
    with sim.device.use_stream(side):
        assert (x + 1).cpu().tolist() == [3.0] * 4


def test_a_later_record_does_not_move_an_earlier_wait(sim: Simulator) -> None:
    event, side, main = sim.device.event(), sim.device.stream(), sim.device.current_stream()
    event.record()
    side.wait_event(event)
    x = torch.ones(4, device="sim") + 1
    event.record(main)
    with sim.device.use_stream(side):
        assert is_poisoned(x + 1)


def test_another_device_may_wait_but_not_record(sim: Simulator) -> None:
    event = sim.device.event(0)
    x = torch.ones(2, device="sim:0") + 1
    event.record()
    event.wait(sim.device.current_stream(1))
    with pytest.raises(DeviceError, match=r"event of sim:0 cannot be recorded in stream \d+ of sim:1"):
        event.record(sim.device.current_stream(1))
    assert x.cpu().tolist() == [2.0, 2.0]


def test_strange_streams_are_refused(sim: Simulator) -> None:
    event, other = sim.device.event(), simulator().device.stream()
    for stream in (other, object()):
        with pytest.raises(DeviceError, match="recorded in streams of that simulator only"):
            event.record(stream)
        with pytest.raises(DeviceError, match="waited for by streams of that simulator only"):
            event.wait(stream)


def test_time_grows_with_the_work_between(sim: Simulator) -> None:
    start, end = sim.device.event(timing=True), sim.device.event(timing=True)
    start.record()
    x = torch.zeros(1, device="sim")
    for _ in range(10):
        x.add_(1)
    end.record()
    with pytest.raises(DeviceError, match="has not been reached yet"):
        start.elapsed_time(end)
    end.synchronize()
    assert start.elapsed_time(end) >= 10e-3
    with pytest.raises(DeviceError, match="without timing=True"):
        start.elapsed_time(sim.device.event())
