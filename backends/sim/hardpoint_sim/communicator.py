"""Collectives between simulated devices of different processes: a host communicator, staged in stream order.

A collective reads what the caller's current stream has computed, and what it writes is work of that stream: another
stream has to wait for it. Plain torch.distributed on wrapper tensors is a silent no-op where it runs on shapes only;
here real bytes travel over gloo, and a two-process test compares values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from hardpoint.communicator import Communicator, Rendezvous, Verdict
from hardpoint.errors import CommunicatorError

from hardpoint_sim.poison import poison
from hardpoint_sim.tensor import SimTensor
from hardpoint_sim.work import Work

if TYPE_CHECKING:
    from hardpoint_sim.engine import Engine


@dataclass(frozen=True)
class SimCommunicator:
    """`inner`, a communicator of host tensors, for the tensors of one engine."""

    engine: Engine
    inner: Communicator

    @property
    def rank(self) -> int:
        return self.inner.rank

    @property
    def world_size(self) -> int:
        return self.inner.world_size

    @property
    def sequence(self) -> int:
        return self.inner.sequence

    def broadcast(self, tensor: torch.Tensor, /, *, src: int, deadline: float | None = None) -> None:
        (host,) = self._read("broadcast", tensor)
        self._write("broadcast", tensor, host, lambda: self.inner.broadcast(host, src=src, deadline=deadline))

    def all_gather(self, output: torch.Tensor, tensor: torch.Tensor, /, *, deadline: float | None = None) -> None:
        result, host = self._read("all_gather", output, tensor)
        self._write("all_gather", output, result, lambda: self.inner.all_gather(result, host, deadline=deadline))

    def all_gather_ragged(
        self, output: torch.Tensor, tensor: torch.Tensor, /, counts: Sequence[int], *, deadline: float | None = None
    ) -> None:
        name = "all_gather_ragged"
        result, host = self._read(name, output, tensor)
        self._write(name, output, result, lambda: self.inner.all_gather_ragged(result, host, counts, deadline=deadline))

    def reduce_scatter(
        self, output: torch.Tensor, tensor: torch.Tensor, /, *, op: str = "sum", deadline: float | None = None
    ) -> None:
        name = "reduce_scatter"
        result, host = self._read(name, output, tensor)
        self._write(name, output, result, lambda: self.inner.reduce_scatter(result, host, op=op, deadline=deadline))

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
        name = "reduce_scatter_ragged"
        result, host = self._read(name, output, tensor)
        self._write(
            name,
            output,
            result,
            lambda: self.inner.reduce_scatter_ragged(result, host, counts, op=op, deadline=deadline),
        )

    def all_reduce(self, tensor: torch.Tensor, /, *, op: str = "sum", deadline: float | None = None) -> None:
        (host,) = self._read("all_reduce", tensor)
        self._write("all_reduce", tensor, host, lambda: self.inner.all_reduce(host, op=op, deadline=deadline))

    def barrier(self, *, deadline: float | None = None) -> None:
        self.inner.barrier(deadline=deadline)

    def vote(
        self, ok: bool, subject: str, *, reason: str = "", digest: str = "", deadline: float | None = None
    ) -> Verdict:
        return self.inner.vote(ok, subject, reason=reason, digest=digest, deadline=deadline)

    def close(self) -> None:
        self.inner.close()

    def _read(self, op: str, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Host copies of `tensors` as the current stream of their device leaves them."""
        sims: list[SimTensor] = []
        for tensor in tensors:
            if not isinstance(tensor, SimTensor) or tensor.engine is not self.engine:
                raise CommunicatorError(
                    f"{op} on the simulator needs tensors on its own devices, got one on {tensor.device}; copy it there"
                )
            if not tensor.is_contiguous():
                raise CommunicatorError(
                    f"{op} needs contiguous tensors, got strides {tensor.stride()} on {tensor.device}"
                )
            self.engine.heap.refuse_unmapped(tensor.cell, op)
            sims.append(tensor)
        if len({tensor.device for tensor in sims}) > 1:
            where = ", ".join(str(tensor.device) for tensor in sims)
            raise CommunicatorError(f"{op} was called with tensors on different devices: {where}")
        self.engine.wait([self.engine.current_stream(sims[0].device.index).mark()], op)
        return [tensor.host.clone() for tensor in sims]

    def _write(self, op: str, target: torch.Tensor, host: torch.Tensor, collective: Callable[[], None]) -> None:
        """Run `collective`, which fills `host`, and queue the copy to `target`; a failed one leaves poison there."""
        assert isinstance(target, SimTensor)  # _read has refused all others
        try:
            collective()
        except BaseException:
            poison(host)
            raise
        finally:
            destination = target.host
            stream = self.engine.current_stream(target.device.index)
            work = Work(f"result of {op}", lambda _: _copy(destination, host), (target.cell,), (destination,))
            self.engine.submit(stream, work)


def _copy(target: torch.Tensor, source: torch.Tensor) -> None:
    target.copy_(source)


@dataclass(frozen=True)
class SimCommunicatorFactory:
    """Makes the communicator of one `Rendezvous`."""

    engine: Engine

    def __call__(self, rendezvous: Rendezvous, /) -> Communicator:
        raise NotImplementedError
