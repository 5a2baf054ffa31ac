"""`LifecycleParts.keep_copies`: copies that stay between cycles are written again when the contents have changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hardpoint.device import HostDevice
from hardpoint.errors import LifecycleError
from hardpoint.lifecycle import HostMemoryMap, Lifecycle, LifecycleParts

SIZE = 1 << 20


class Counting(HostMemoryMap):
    """Notes what was saved and dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[str] = []
        self.dropped: list[str] = []

    def save(self, tags: object) -> None:
        self.saved += list(tags)  # type: ignore[call-overload]
        super().save(tags)  # type: ignore[arg-type]

    def discard(self, tags: object) -> None:
        self.dropped += list(tags)  # type: ignore[call-overload]
        super().discard(tags)  # type: ignore[arg-type]


@pytest.fixture
def memory() -> Counting:
    return Counting()


def cycle(lifecycle: Lifecycle, level: int = 1) -> None:
    lifecycle.sleep(level=level)
    lifecycle.wake()


def made(memory: Counting, keep: bool) -> tuple[Lifecycle, torch.Tensor, torch.Tensor]:
    first, second = torch.full((SIZE,), 1.0), torch.full((SIZE,), 2.0)
    memory.adopt("weights", {"first": first})
    memory.adopt("experts", {"second": second})
    return Lifecycle(LifecycleParts(memory=memory, device=HostDevice(), keep_copies=keep)), first, second


def test_unless_asked_for_no_copy_is_kept(memory: Counting) -> None:
    lifecycle, _, _ = made(memory, keep=False)
    cycle(lifecycle)
    assert sorted(memory.dropped) == ["experts", "weights"]
    assert not any(held.saved for held in memory.holders())
    cycle(lifecycle)
    assert len(memory.saved) == 4


def test_what_has_not_changed_is_not_saved_again_and_what_has_is(memory: Counting) -> None:
    lifecycle, first, second = made(memory, keep=True)
    cycle(lifecycle)
    assert memory.dropped == []
    assert all(held.saved for held in memory.holders())
    second[-1] = 7.0
    cycle(lifecycle)
    assert sorted(memory.saved) == ["experts", "experts", "weights"]
    assert torch.equal(first, torch.full((SIZE,), 1.0))
    assert second[-1] == 7.0
    assert second[0] == 2.0


def test_a_copy_is_written_into_the_file_of_before(memory: Counting) -> None:
    lifecycle, first, _ = made(memory, keep=True)
    cycle(lifecycle)
    before = {path.resolve() for path in Path("/proc/self/fd").iterdir()}
    for value in range(3):
        first.fill_(float(value))
        cycle(lifecycle)
        assert torch.equal(first, torch.full((SIZE,), float(value)))
    assert len({path.resolve() for path in Path("/proc/self/fd").iterdir()}) == len(before)


def test_a_kept_copy_that_failed_to_be_written_is_not_trusted(
    memory: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifecycle, first, second = made(memory, keep=True)
    cycle(lifecycle)
    second.fill_(5.0)

    def full(tags: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(memory, "save", full)
        with pytest.raises(LifecycleError, match="disk full"):
            lifecycle.sleep()
    second.fill_(2.0)  # the contents of the copy before, which may be half overwritten
    count = len(memory.saved)
    cycle(lifecycle)
    assert memory.saved[count:] == ["experts"]
    assert torch.equal(second, torch.full((SIZE,), 2.0))
    assert torch.equal(first, torch.full((SIZE,), 1.0))


def test_new_memory_under_the_tag_is_saved(memory: Counting) -> None:
    lifecycle, _, _ = made(memory, keep=True)
    cycle(lifecycle)
    third = torch.full((SIZE,), 3.0)
    memory.adopt("weights", {"third": third})
    cycle(lifecycle)
    assert torch.equal(third, torch.full((SIZE,), 3.0))


def test_after_level_2_the_old_copy_is_not_what_wakes(memory: Counting) -> None:
    lifecycle, first, second = made(memory, keep=True)
    cycle(lifecycle)
    cycle(lifecycle, level=2)
    assert lifecycle.health().undefined == ("experts", "weights")
    first.fill_(8.0)
    second.fill_(9.0)
    lifecycle.committed()
    cycle(lifecycle)
    assert torch.equal(first, torch.full((SIZE,), 8.0))
    assert torch.equal(second, torch.full((SIZE,), 9.0))
