"""Real processes over gloo and a store, killed and stopped at every step of the transaction, on every rank.

After each: the old weights bit by bit and serving, or the new ones, or FAILED and serving nothing; the error names who,
within the deadline and a second; and the next good update is everywhere. Kernel layouts differ from the checkpoint's.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.sync_world import Fault, World

pytestmark = pytest.mark.timeout(900)  # the first test waits for all cases: some 150 s on two quiet cores

# In the order a rank comes to them. The stream has five buckets for each rank, more or less.
RANK = (
    ("begin", 1),
    ("voted begin", 1),
    ("bucket", 1),
    ("bucket", 3),
    ("inspect", 1),
    ("voted verify", 1),
    ("decision heard", 1),
    ("half copied", 1),
    ("committed", 1),
    ("voted done", 1),
)
ONLY_SHADOW = ("half copied",)
TRAINER = (
    ("begun", 1),
    ("opened", 1),
    ("bucket", 1),
    ("bucket", 4),
    ("asked", 1),
    ("deciding", 1),
    ("decided", 1),
    ("telling", 1),
    ("told", 1),
)
KINDS = ("kill", "hang")


@dataclass(frozen=True)
class Lane:
    """A world that cases are run on, one after the other; lanes run beside each other, since they mostly wait."""

    world: str
    layout: str
    mode: str
    ranks: tuple[int, ...]  # 0: the trainer

    def faults(self) -> Iterator[Fault]:
        for rank in self.ranks:
            for point, number in TRAINER if rank == 0 else RANK:
                if self.mode != "shadow" and rank and point in ONLY_SHADOW:
                    continue
                for kind in KINDS:
                    yield Fault(kind, rank, point, number)
            if rank:
                yield from (Fault("raise", rank, point) for point in ("begin", "bucket"))

    def __str__(self) -> str:
        return f"{self.world}, {self.layout}, {self.mode}"


LANES = (
    Lane("tp2", "swapped halves", "shadow", (1, 2, 0)),
    Lane("ep3", "transposed, padded", "shadow", (1, 2)),
    Lane("ep3", "transposed, padded", "shadow", (3, 0)),
    Lane("tp2", "vllm", "undo", (1, 2)),
)
CASES = [(number, fault) for number, lane in enumerate(LANES) for fault in lane.faults()]


@pytest.fixture(scope="module")
def judged() -> dict[tuple[int, Fault], list[str]]:
    """What was wrong in each case."""

    def run(number: int) -> dict[tuple[int, Fault], list[str]]:
        lane = LANES[number]
        world = World(lane.world, lane.layout)
        found = {}
        try:
            for fault in lane.faults():
                for attempt in range(3):  # a machine that stands still for a second looks like a rank that does
                    wrong = world.run(fault, lane.mode)
                    if not wrong:
                        break
                    print(f"\n{lane}: {fault}, attempt {attempt}: {wrong}")
                    world.close()
                    world = World(lane.world, lane.layout)
                found[number, fault] = wrong
        finally:
            world.close()
        return found

    began = time.monotonic()
    with ThreadPoolExecutor(len(LANES)) as pool:
        found = {key: wrong for part in pool.map(run, range(len(LANES))) for key, wrong in part.items()}
    wrong = sum(bool(of) for of in found.values())
    print(f"\n{len(found)} faults of real processes, {wrong} wrong, {time.monotonic() - began:.0f} s")
    return found


@pytest.mark.parametrize(("lane", "fault"), CASES, ids=[f"{LANES[lane]}: {fault}" for lane, fault in CASES])
def test_a_fault_of_a_process(lane: int, fault: Fault, judged: dict[tuple[int, Fault], list[str]]) -> None:
    assert judged[lane, fault] == []


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 150


def test_all_generated_cases_together_are_enough() -> None:
    """Those of real processes, and those on the protocol objects under a virtual clock."""
    path = Path(__file__).parents[1] / "transaction" / "test_faults.py"
    spec = importlib.util.spec_from_file_location("faults_to_count", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    counts = {
        name: test._hypothesis_internal_use_settings.max_examples
        for name, test in vars(module).items()
        if hasattr(test, "_hypothesis_internal_use_settings")
    }
    counts["test_a_fault_of_a_process"] = len(CASES)
    for name, number in counts.items():
        print(f"{number:6} {name}")
    print(f"{sum(counts.values()):6} generated cases of faults")
    assert sum(counts.values()) >= 2000
