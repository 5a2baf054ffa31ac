"""Random programs: with every dependency declared they agree with the host, under every seed."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint_sim.settings import Settings
from support.simulator import simulator

STREAMS, CELLS = 3, 4


@dataclass(frozen=True)
class Step:
    """``cells[target] = cells[target] * 3 + cells[source] + constant`` (mod 1009) on one stream."""

    stream: int
    target: int
    source: int
    constant: int


steps = st.builds(
    Step,
    st.integers(0, STREAMS - 1),
    st.integers(0, CELLS - 1),
    st.integers(0, CELLS - 1),
    st.integers(0, 9),
)


def on_host(program: list[Step]) -> list[int]:
    cells = list(range(CELLS))
    for step in program:
        cells[step.target] = (cells[step.target] * 3 + cells[step.source] + step.constant) % 1009
    return cells


def on_simulator(program: list[Step], seed: int, device: int) -> list[int]:
    sim = simulator(Settings(seed=seed))
    streams = [sim.device.stream(device) for _ in range(STREAMS)]
    cells = [torch.full((2,), value, device=f"sim:{device}") for value in range(CELLS)]
    for stream in streams:
        stream.wait_stream(sim.device.current_stream(device))
    users: list[set[int]] = [set() for _ in range(CELLS)]  # streams that touched a cell since it was last written
    for step in program:
        for cell in {step.target, step.source}:
            for other in users[cell] - {step.stream}:
                streams[step.stream].wait_stream(streams[other])
        with sim.device.use_stream(streams[step.stream]):
            cells[step.target].mul_(3).add_(cells[step.source]).add_(step.constant).remainder_(1009)
        users[step.target] = {step.stream}
        users[step.source].add(step.stream)
    sim.device.synchronize(device)
    return [int(cell[0].item()) for cell in cells]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(steps.filter(lambda step: step.target != step.source), max_size=12), st.integers(0, 5), st.integers(0, 1)
)
def test_declared_dependencies_are_enough_under_every_order(program: list[Step], seed: int, device: int) -> None:
    assert on_simulator(program, seed, device) == on_host(program)


def test_threads_with_their_own_streams_do_not_disturb_each_other() -> None:
    sim = simulator()
    results: dict[int, float] = {}

    def work(number: int) -> None:
        device = number % 2
        with sim.device.use_stream(sim.device.stream(device)):
            x = torch.zeros(4, device="sim")
            for _ in range(100):
                x = x + number
            results[number] = x.sum().item()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert results == {number: 400.0 * number for number in range(6)}
