"""vLLM's own groups, seen from beside: every collective recorded, and a named error where one fails or is late.

vLLM's process groups belong to vLLM; what goes through the device communicator of the platform is recorded here, and a
collective on host memory that fails is told in words: which call of which group, and which rank is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch._C._distributed_c10d import PrefixStore

from hardpoint.communicator import FlightRecorder, records_folder
from hardpoint.communicator.failure import first_line
from hardpoint.communicator.presence import Presence
from hardpoint.communicator.recorder import DONE, FAILED, ISSUED
from hardpoint.environment import collective_deadline
from hardpoint.errors import CommunicatorError, DeadlineExceeded, HardpointError, RankLost

Answer = TypeVar("Answer")
_recorders: list[FlightRecorder] = []
_seat: tuple[object, Presence] | None = None


class Form:
    """What a call moves; text only when somebody reads it. Holds no tensor."""

    __slots__ = ("dtype", "shape")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.dtype, self.shape = tensor.dtype, tensor.shape

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}"


class _Call:
    """One call of one group; equal text on all of its ranks."""

    __slots__ = ("form", "group", "number", "op")

    def __init__(self, group: str, number: int, op: str, form: object) -> None:
        self.group, self.number, self.op, self.form = group, number, op, form

    def __str__(self) -> str:
        return f"{self.op} {self.form} (call {self.number} of {self.group})"


class GroupWatch:
    """Watches the collectives of one group of this process.

    Args:
        name: of the group, with its ranks: the same on each of them, and no other group's.
        ranks: of the world, in the order of the group.
        rank: this one's place in the group.
        library: what carries the bytes.
        blocking: a call has moved its data when it comes back (host memory); else it was only issued.
        presence: where this process says what it is in; None where it has no world.
    """

    def __init__(
        self, name: str, ranks: Sequence[int], rank: int, library: str, blocking: bool, presence: Presence | None
    ) -> None:
        self.name, self.ranks = name, list(ranks)
        self.recorder = FlightRecorder(name, rank, len(ranks), library=library)
        self._after = DONE if blocking else ISSUED
        self._presence = presence
        self._number = 0
        _recorders.append(self.recorder)

    def run(self, op: str, form: object, work: Callable[[], Answer]) -> Answer:
        """`work`, recorded as call `op` of this group.

        Raises:
            RankLost: it failed, and a rank of the group has died.
            DeadlineExceeded: it passed the group's timeout.
            CommunicatorError: it failed otherwise.
        """
        number, self._number = self._number, self._number + 1
        call = _Call(self.name, number, op, form)
        self.recorder.enter(number, op, form)
        if self._presence is not None:
            self._presence.enter(call)
        try:
            answer = work()
        except RuntimeError as error:
            raise self._failed(call, error) from error
        if self._presence is not None:
            self._presence.leave(call)
        self.recorder.mark(number, self._after)
        return answer

    def close(self) -> None:
        """Forget the record."""
        if self.recorder in _recorders:
            _recorders.remove(self.recorder)

    def _failed(self, call: _Call, error: RuntimeError) -> HardpointError:
        found = self._presence.look_for(str(call), self.ranks) if self._presence is not None else None
        made = named(call.op, f"{call}, on rank {self.ranks[self.recorder.rank]}", call.number, error, found)
        self.recorder.mark(call.number, FAILED, str(made))
        made.args = (f"{made} {self.recorder.write_if_asked(str(made))}",)
        if self._presence is not None:
            self._presence.give_up(str(made))
        return made


def named(op: str, what: str, number: int, error: RuntimeError, found: Any = None) -> CommunicatorError:
    """The error of a failed collective in words: who is not in it, if that is known, and what the library said."""
    late = "imed out" in str(error)
    missing = found.missing if found is not None else ()
    who = "; ".join(found.sentences.values()) if found is not None and found.sentences else ""
    who = who or ("no rank of the group is known to be absent" if found is not None else "")
    deadline = collective_deadline()
    dead = bool(found is not None and found.dead)
    state = f"did not end within {deadline:g} s" if late and not dead else "cannot end"
    text = f"{what} {state}{': ' if who else ''}{who}. The library says: {first_line(error)}"
    if dead:
        return RankLost(text, op=op, sequence=number, missing=missing, deadline=deadline)
    if late:
        return DeadlineExceeded(text, op=op, sequence=number, missing=missing, deadline=deadline)
    return CommunicatorError(text)


def presence() -> Presence | None:
    """The seat of this process in vLLM's world; None without one. One for each world: engines may follow each other."""
    global _seat
    import torch.distributed as dist

    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    world = dist.distributed_c10d._get_default_group()
    if _seat is None or _seat[0] is not world:
        if _seat is not None:
            _seat[1].close()
        store = PrefixStore("hardpoint_vllm/presence", dist.distributed_c10d._get_default_store())
        record = _write_all if records_folder() else None
        _seat = world, Presence(store, dist.get_rank(), dist.get_world_size(), record)
    return _seat[1]


def _write_all(why: str) -> None:
    for recorder in list(_recorders):
        recorder.write_if_asked(why)
