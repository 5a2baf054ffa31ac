"""Graph capture: nothing runs before replay, and what cannot be replayed is refused by name."""

from __future__ import annotations

import gc

import pytest
import torch

from hardpoint.errors import CaptureRefused
from hardpoint.graphs import Graph, Graphs
from support.simulator import Simulator, is_poisoned, simulator


@pytest.fixture
def sim() -> Simulator:
    return simulator()


def test_it_conforms_to_the_protocol(sim: Simulator) -> None:
    assert isinstance(sim.graphs, Graphs)
    assert sim.graphs.supported(1) is None
    assert "there is no device sim:7" in str(sim.graphs.supported(7))


def test_capture_runs_nothing_and_replay_runs_it_on_the_same_memory(sim: Simulator) -> None:
    x, y = torch.zeros(3, device="sim"), torch.zeros(3, device="sim")
    with sim.graphs.capture(0) as graph:
        assert sim.graphs.capturing()
        torch.add(x, 1, out=y)
    assert not sim.graphs.capturing()
    sim.device.synchronize()
    assert y.cpu().tolist() == [0.0] * 3
    x.fill_(4)
    graph.replay()
    assert y.cpu().tolist() == [5.0] * 3
    y.fill_(0)
    x.fill_(6)
    graph.replay()
    assert y.cpu().tolist() == [7.0] * 3


def test_replay_is_queued_on_the_current_stream_and_late(sim: Simulator) -> None:
    x = torch.zeros(1, device="sim")
    with sim.graphs.capture(0) as graph:
        x.add_(1)
    side = sim.device.stream()
    with sim.device.use_stream(side):
        graph.replay()
    assert not side.query()
    side.synchronize()
    assert x.item() == 1.0


def test_an_allocation_is_refused_by_name(sim: Simulator) -> None:
    x = torch.zeros(256, device="sim")
    with (
        pytest.raises(CaptureRefused, match=r"aten\.mul\.Tensor allocates 1024 bytes inside a graph capture on sim:0"),
        sim.graphs.capture(0),
    ):
        x * 2


@pytest.mark.parametrize(
    ("name", "sync"),
    [
        ("synchronize of sim:0", lambda sim, x: sim.device.synchronize(0)),
        ("synchronize of stream", lambda sim, x: sim.device.current_stream().synchronize()),
        ("query of stream", lambda sim, x: sim.device.current_stream().query()),
        ("aten._local_scalar_dense.default", lambda sim, x: x[0].item()),
        ("aten.nonzero.default", lambda sim, x: torch.nonzero(x)),
        ("copy of a tensor on sim:0 to the host", lambda sim, x: x.cpu()),
        ("synchronize of an event", lambda sim, x: sim.device.current_stream().record_event().synchronize()),
    ],
)
def test_waiting_or_reading_is_refused_by_name(sim: Simulator, name: str, sync) -> None:  # type: ignore[no-untyped-def]
    x = torch.zeros(2, device="sim")
    with pytest.raises(CaptureRefused) as refusal, sim.graphs.capture(0):
        sync(sim, x)
    assert name.split(" of an event")[0] in str(refusal.value)
    assert sim.graphs.capturing() is False
    sim.device.synchronize()


def test_without_the_rules_capture_lets_mistakes_through() -> None:
    sim = simulator(capture_refuses_sync=False, capture_refuses_allocation=False)
    x = torch.zeros(2, device="sim")
    with sim.graphs.capture(0):
        x * 2
        sim.device.synchronize(0)


def test_a_failed_or_open_capture_cannot_be_replayed(sim: Simulator) -> None:
    kept: list[Graph] = []
    with pytest.raises(ZeroDivisionError), sim.graphs.capture(0) as graph:
        kept.append(graph)
        with pytest.raises(CaptureRefused, match="its capture is still open"):
            graph.replay()
        raise ZeroDivisionError
    with pytest.raises(CaptureRefused, match="its capture failed"):
        kept[0].replay()


def test_captures_do_not_nest(sim: Simulator) -> None:
    with (
        pytest.raises(CaptureRefused, match="captures do not nest"),
        sim.graphs.capture(0),
        sim.graphs.capture(1),
    ):
        pass


def test_memory_freed_after_capture_is_poison_in_a_replay(sim: Simulator) -> None:
    x, y = torch.ones(3, device="sim"), torch.zeros(3, device="sim")
    with sim.graphs.capture(0) as graph:
        torch.add(x, 1, out=y)
    del x
    gc.collect()
    graph.replay()
    assert is_poisoned(y)


def test_a_second_stream_joins_by_an_event_and_has_to_come_back(sim: Simulator) -> None:
    x, y = torch.zeros(3, device="sim"), torch.zeros(3, device="sim")
    side = sim.device.stream()

    def forked(come_back: bool) -> Graph:
        with sim.graphs.capture(0) as graph:
            origin = sim.device.current_stream()
            x.add_(1)
            side.wait_stream(origin)
            with sim.device.use_stream(side):
                torch.add(x, 1, out=y)
            if come_back:
                origin.wait_stream(side)
        return graph

    forked(come_back=True).replay()
    assert y.cpu().tolist() == [2.0] * 3
    with pytest.raises(CaptureRefused, match=r"joined the capture .* and was not waited for"):
        forked(come_back=False)
    with sim.device.use_stream(side):
        assert (y + 1).numel() == 3


def test_waiting_inside_for_an_event_from_outside_is_refused(sim: Simulator) -> None:
    event = sim.device.event(0)
    event.record()
    with pytest.raises(CaptureRefused, match="event recorded outside the capture"), sim.graphs.capture(0):
        sim.device.current_stream().wait_event(event)


def test_random_work_draws_anew_in_each_replay(sim: Simulator) -> None:
    x = torch.zeros(8, device="sim")
    with sim.graphs.capture(0) as graph:
        x.uniform_()
    graph.replay()
    first = x.cpu().tolist()
    graph.replay()
    assert x.cpu().tolist() != first
