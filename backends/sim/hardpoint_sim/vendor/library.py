"""`NativeLibrary`: a simulated native collective library that takes only what it is known to take, and hangs where it
is known to hang."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from hardpoint.communicator import Rendezvous, TorchCommunicator
from hardpoint.communicator.carrier import as_carried, dtype_name
from hardpoint.device import visible_devices
from hardpoint.errors import CommunicatorError, DeadlineExceeded
from hardpoint_sim.communicator import SimCommunicator
from hardpoint_sim.engine import Engine
from hardpoint_sim.vendor.limits import LibraryLimits


@dataclass
class _State:
    met: bool = False
    broken: str | None = None


@dataclass(frozen=True)
class NativeLibrary(SimCommunicator):
    """A `SimCommunicator` under `limits`. Real libraries raise in C++ or end the process; here it is a sentence."""

    limits: LibraryLimits
    carried: frozenset[str]
    reduce_ops: frozenset[str]
    rendezvous: Rendezvous
    _state: _State = field(init=False, default_factory=_State)

    @property
    def library(self) -> str:
        return self.limits.name

    def broadcast(self, tensor: torch.Tensor, /, *, src: int, deadline: float | None = None) -> None:
        self._enter("broadcast", (tensor,), deadline)
        super().broadcast(tensor, src=src, deadline=deadline)

    def all_gather(self, output: torch.Tensor, tensor: torch.Tensor, /, *, deadline: float | None = None) -> None:
        self._enter("all_gather", (output, tensor), deadline, moe=True)
        super().all_gather(output, tensor, deadline=deadline)

    def all_gather_ragged(
        self, output: torch.Tensor, tensor: torch.Tensor, /, counts: Sequence[int], *, deadline: float | None = None
    ) -> None:
        self._enter("all_gather_ragged", (output, tensor), deadline, moe=True)
        super().all_gather_ragged(output, tensor, counts, deadline=deadline)

    def reduce_scatter(
        self, output: torch.Tensor, tensor: torch.Tensor, /, *, op: str = "sum", deadline: float | None = None
    ) -> None:
        self._enter("reduce_scatter", (output, tensor), deadline, op=op, moe=True)
        super().reduce_scatter(output, tensor, op=op, deadline=deadline)

    def reduce_scatter_ragged(
        self,
        output: torch.Tensor,
        tensor: torch.Tensor,
        /,
        counts: Sequence[int],
        *,
        op: str = "sum",
        deadline: float | None = None,
    ) -> None:
        self._enter("reduce_scatter_ragged", (output, tensor), deadline, op=op, moe=True)
        super().reduce_scatter_ragged(output, tensor, counts, op=op, deadline=deadline)

    def all_reduce(self, tensor: torch.Tensor, /, *, op: str = "sum", deadline: float | None = None) -> None:
        self._enter("all_reduce", (tensor,), deadline, op=op)
        super().all_reduce(tensor, op=op, deadline=deadline)

    def barrier(self, *, deadline: float | None = None) -> None:
        self._enter("barrier", (), deadline)
        super().barrier(deadline=deadline)
        self._state.met = True

    def check(self) -> None:
        if self._state.broken is not None:
            raise CommunicatorError(f"communicator {self.rendezvous.name!r} is broken: {self._state.broken}")
        super().check()

    def _enter(
        self,
        call: str,
        tensors: tuple[torch.Tensor, ...],
        deadline: float | None,
        *,
        op: str | None = None,
        moe: bool = False,
    ) -> None:
        """Refuse, or hang, as the library would; what core refuses itself is left to it."""
        limits, name = self.limits, self.limits.name
        self.check()
        met, self._state.met = self._state.met, False
        if self.world_size == 1:
            return
        if self.engine.current() != self.device_index:
            raise CommunicatorError(
                f"{call}: {name} works on the thread's current device, which is sim:{self.engine.current()}; the "
                f"tensors are on sim:{self.device_index}. Call it under their device."
            )
        known = op is None or op in self.reduce_ops
        if known and op is not None and limits.reduce_ops is not None and op not in limits.reduce_ops:
            raise CommunicatorError(f"Cannot use ReduceOp.{op.upper()} with {name}.")
        for tensor in tensors:
            wire = dtype_name(as_carried(torch.empty(0, dtype=tensor.dtype, device="meta"), self.carried).dtype)
            taken = limits.dtypes if op is None else limits.reduce_dtypes
            refused_by_core = op is not None and dtype_name(tensor.dtype) not in self.carried
            if taken is not None and wire not in taken and not refused_by_core:
                raise CommunicatorError(f"{call}: unsupported data type {wire} for {name} process group.")
        if limits.one_card_mask is not None:
            value = os.environ.get(limits.one_card_mask)
            if value and len(visible_devices(limits.one_card_mask, value) or ()) == 1:
                self._hang(call, deadline, f"{limits.one_card_mask}={value} shows this process one card")
        if moe and limits.late_rank_hangs and self.rendezvous.name.startswith("moe/") and not met:
            self._hang(call, deadline, "its ranks had not met, and one came late")

    def _hang(self, call: str, deadline: float | None, why: str) -> None:
        seconds = self.rendezvous.deadline if deadline is None else deadline
        time.sleep(seconds)
        self._state.broken = f"{call} over {self.limits.name} did not end within {seconds:g} s: {why}."
        raise DeadlineExceeded(
            f"call number {self.sequence} of communicator {self.rendezvous.name!r}, {self._state.broken}",
            op=call,
            sequence=self.sequence,
            missing=(),
            deadline=seconds,
        )


def open_library(
    engine: Engine,
    limits: LibraryLimits,
    rendezvous: Rendezvous,
    carried: frozenset[str],
    reduce_ops: frozenset[str],
) -> NativeLibrary:
    """The group of one rendezvous; gloo carries the bytes."""
    engine.state(rendezvous.device_index)  # DeviceError before anybody is waited for
    inner = TorchCommunicator(rendezvous, device_type="cpu", library="gloo", carried=carried, reduce_ops=reduce_ops)
    return NativeLibrary(engine, inner, rendezvous.device_index, limits, carried, reduce_ops, rendezvous)
