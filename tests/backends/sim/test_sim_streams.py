"""Streams run late and in the order that hurts; every rule has the wrong code that it must make fail."""

from __future__ import annotations

import threading

import pytest
import torch

from hardpoint.device import Event, Stream
from hardpoint.errors import DeviceError
from hardpoint_sim.errors import DeviceFault
from hardpoint_sim.settings import Settings
from support.simulator import Simulator, is_poisoned, simulator

SEEDS = range(6)


@pytest.fixture
def sim() -> Simulator:
    return simulator()


def test_streams_and_events_conform_to_the_protocols(sim: Simulator) -> None:
    assert isinstance(sim.device.stream(), Stream)
    assert isinstance(sim.device.event(), Event)


def test_work_is_late(sim: Simulator) -> None:
    stream = sim.device.current_stream()
    torch.ones(2, device="sim").add_(1)
    assert not stream.query()
    stream.synchronize()
    assert stream.query()


def test_work_is_ordered_within_a_stream() -> None:
    for seed in SEEDS:
        sim = simulator(Settings(seed=seed))
        with sim.device.use_stream(sim.device.stream(1)):
            x = torch.zeros(4, device="sim")
            for step in range(20):
                x.mul_(2).add_(step % 3)
            expected = torch.zeros(4)
            for step in range(20):
                expected.mul_(2).add_(step % 3)
            assert torch.equal(x.cpu(), expected)


def test_a_read_that_waits_for_nothing_sees_poison(sim: Simulator) -> None:
    written = torch.ones(4, device="sim") + 1
    with sim.device.use_stream(sim.device.stream()):
        assert is_poisoned(written * 1)


def test_a_read_that_waits_sees_the_value() -> None:
    for seed in SEEDS:
        sim = simulator(Settings(seed=seed))
        written = torch.ones(4, device="sim") + 1
        side = sim.device.stream()
        side.wait_stream(sim.device.current_stream())
        with sim.device.use_stream(side):
            assert (written * 1).cpu().tolist() == [2.0] * 4


def test_a_write_that_does_not_wait_destroys_what_the_other_stream_has_yet_to_read(sim: Simulator) -> None:
    shared = torch.ones(4, device="sim")
    sim.device.synchronize()
    copied = shared * 1
    with sim.device.use_stream(sim.device.stream()):
        shared.fill_(9)
    sim.device.synchronize()
    assert copied.cpu().tolist() == [9.0] * 4


def test_two_writes_that_do_not_wait_end_in_the_wrong_order(sim: Simulator) -> None:
    shared = torch.zeros(1, device="sim")
    sim.device.synchronize()
    shared.fill_(1)
    with sim.device.use_stream(sim.device.stream()):
        shared.fill_(2)
    sim.device.synchronize()
    assert shared.item() == 1.0


def test_random_seeds_reach_wrong_and_right_orders() -> None:
    seen = set()
    for seed in range(1, 30):
        sim = simulator(Settings(seed=seed))
        shared = torch.zeros(1, device="sim")
        sim.device.synchronize()
        shared.fill_(1)
        with sim.device.use_stream(sim.device.stream()):
            shared.fill_(2)
        sim.device.synchronize()
        seen.add(shared.item())
    assert seen == {1.0, 2.0}


def test_the_same_seed_gives_the_same_order() -> None:
    def run() -> list[float]:
        sim = simulator(Settings(seed=5))
        shared = torch.zeros(8, device="sim")
        sim.device.synchronize()
        streams = [sim.device.stream() for _ in range(4)]
        for step in range(24):
            with sim.device.use_stream(streams[step % 4]):
                shared.mul_(3).add_(step)
                shared.remainder_(1009)
        sim.device.synchronize()
        return shared.tolist()

    assert run() == run()


def test_eager_execution_hides_the_missing_wait() -> None:
    sim = simulator(execute_late=False)
    written = torch.ones(4, device="sim") + 1
    with sim.device.use_stream(sim.device.stream()):
        assert (written * 1).cpu().tolist() == [2.0] * 4


def test_the_order_of_submission_hides_the_missing_wait() -> None:
    sim = simulator(adversarial=False)
    shared = torch.zeros(1, device="sim")
    sim.device.synchronize()
    shared.fill_(1)
    side = sim.device.stream()
    with sim.device.use_stream(side):
        shared.fill_(2)
        written = shared * 3
    assert not side.query()
    sim.device.synchronize()
    assert (shared.item(), written.item()) == (2.0, 6.0)


def test_a_copy_to_the_host_that_does_not_block_is_late(sim: Simulator) -> None:
    x = torch.ones(3, device="sim")
    target = torch.zeros(3)
    fetched = x.to("cpu", non_blocking=True)
    target.copy_(x, non_blocking=True)
    assert fetched.isnan().all()
    assert target.tolist() == [0.0] * 3
    sim.device.synchronize()
    assert fetched.tolist() == target.tolist() == [1.0] * 3


def test_a_copy_from_the_host_that_does_not_block_reads_late(sim: Simulator) -> None:
    source = torch.ones(3)
    late, now = source.to("sim", non_blocking=True), source.to("sim")
    source.fill_(5)
    assert late.cpu().tolist() == [5.0] * 3
    assert now.cpu().tolist() == [1.0] * 3


def test_a_copy_between_devices_is_ordered_with_both_current_streams(sim: Simulator) -> None:
    x = torch.ones(3, device="sim:0") + 1
    y = x.to("sim:1") + 1
    assert y.cpu().tolist() == [3.0] * 3
    x.copy_(y)
    y.fill_(0)
    assert x.cpu().tolist() == [3.0] * 3


def test_reading_waits_for_the_current_stream_only(sim: Simulator) -> None:
    side = sim.device.stream()
    x = torch.ones(1, device="sim")
    sim.device.synchronize()
    with sim.device.use_stream(side):
        x.add_(1)
    assert x.item() == 1.0
    side.synchronize()
    assert x.item() == 2.0


def test_synchronize_waits_for_every_stream_of_its_device_and_no_other(sim: Simulator) -> None:
    streams = [sim.device.stream(0), sim.device.stream(0), sim.device.current_stream(0)]
    other = sim.device.stream(1)
    for stream in [*streams, other]:
        with sim.device.use_stream(stream):
            torch.ones(1, device=stream.device).add_(1)
    sim.device.synchronize(0)
    assert all(stream.query() for stream in streams)
    assert not other.query()


def test_a_stream_that_nobody_holds_still_runs(sim: Simulator) -> None:
    x = torch.zeros(1, device="sim")
    sim.device.synchronize()
    with sim.device.use_stream(sim.device.stream()):
        x.fill_(3)
    sim.device.synchronize()
    assert x.item() == 3.0


def test_use_stream_restores_device_and_stream_after_an_exception(sim: Simulator) -> None:
    before = sim.device.current_stream(1)
    with pytest.raises(ZeroDivisionError), sim.device.use_stream(sim.device.stream(1)):
        assert sim.device.current() == 1
        assert sim.device.current_stream() is not before
        raise ZeroDivisionError
    assert sim.device.current() == 0
    assert sim.device.current_stream(1) is before


def test_current_streams_are_per_thread(sim: Simulator) -> None:
    seen = []
    with sim.device.use_stream(sim.device.stream(1)):
        thread = threading.Thread(target=lambda: seen.append((sim.device.current(), sim.device.current_stream(1))))
        thread.start()
        thread.join(timeout=10)
        assert seen[0][0] == 0
        assert seen[0][1] is not sim.device.current_stream(1)


def test_a_stream_entered_as_a_context_is_current(sim: Simulator) -> None:
    stream = sim.device.stream(1)
    with stream:
        assert sim.device.current_stream() is stream
    assert sim.device.current() == 0


def test_polling_ends(sim: Simulator) -> None:
    side, main = sim.device.stream(), sim.device.current_stream()
    x = torch.zeros(1, device="sim")
    for _ in range(10):
        x.add_(1)
        side.wait_stream(main)
        with sim.device.use_stream(side):
            x.add_(1)
        main.wait_stream(side)
    polls = 0
    while not side.query():
        polls += 1
        assert polls < 1000
    assert polls > 10


def test_a_long_queue_starts_to_run_by_itself() -> None:
    sim = simulator(max_pending=8)
    stream = sim.device.current_stream()
    x = torch.zeros(1, device="sim")
    for _ in range(100):
        x.add_(1)
    assert len(stream.queue) <= 8
    assert x.item() == 100.0


def test_failed_work_is_raised_where_the_host_waits_and_poisons_its_result(sim: Simulator) -> None:
    table = torch.ones(3, device="sim")
    taken = torch.take(table, torch.tensor([99], device="sim"))
    with pytest.raises(DeviceFault, match=r"aten.take.default on stream \d+ of sim:0 failed: out of range"):
        sim.device.synchronize()
    assert is_poisoned(taken)
    sim.device.synchronize()


def test_strange_streams_are_refused(sim: Simulator) -> None:
    with pytest.raises(DeviceError, match="use_stream needs a stream of this simulator"):
        sim.device.use_stream(object())
    with pytest.raises(DeviceError, match="use_stream needs a stream of this simulator"):
        simulator().device.use_stream(sim.device.stream())
    with pytest.raises(DeviceError, match=r"got a builtins\.object"):
        sim.device.stream().wait_stream(object())
