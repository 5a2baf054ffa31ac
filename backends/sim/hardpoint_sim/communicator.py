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

from hardpoint import Capabilities
from hardpoint.communicator import Communicator, Rendezvous, TorchCommunicator, Verdict
from hardpoint.errors import CommunicatorError, DeadlineExceeded
from hardpoint_sim.poison import poison
from hardpoint_sim.tensor import SimTensor
from hardpoint_sim.work import Work

if TYPE_CHECKING:
    from hardpoint_sim.engine import Engine


@dataclass(frozen=True)
class SimCommunicator:
    """`inner`, a communicator of host tensors, for the tensors of one engine."""

    engine: Engine
    inner: TorchCommunicator
    device_index: int

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

    def all_to_all(
        self,
        output: torch.Tensor,
        tensor: torch.Tensor,
        /,
        send_counts: Sequence[int],
        receive_counts: Sequence[int],
        *,
        deadline: float | None = None,
    ) -> None:
        result, host = self._read("all_to_all", output, tensor)
        self._write(
            "all_to_all",
            output,
            result,
            lambda: self.inner.all_to_all(result, host, send_counts, receive_counts, deadline=deadline),
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

    def check(self) -> None:
        self.inner.check()

    def close(self) -> None:
        self.inner.close()

    def _read(self, op: str, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Host copies of `tensors` as the current stream of their device leaves them."""
        sims: list[SimTensor] = []
        for tensor in tensors:
            here = self.engine.torch_device(self.device_index)
            if not isinstance(tensor, SimTensor) or tensor.engine is not self.engine or tensor.device != here:
                raise CommunicatorError(
                    f"{op}: a tensor is on {tensor.device}, this communicator works on {here} of its own simulator; "
                    "copy the tensor there, or make a communicator for its device"
                )
            if not tensor.is_contiguous():
                raise CommunicatorError(
                    f"{op}: a tensor of shape {list(tensor.shape)} is not contiguous (strides {tensor.stride()}); pass "
                    "tensor.contiguous()"
                )
            self.engine.heap.refuse_unmapped(tensor.cell, op)
            sims.append(tensor)
        self.inner.check()
        self.engine.wait([self.engine.current_stream(self.device_index).mark()], op)
        return [tensor.host.clone() for tensor in sims]

    def _write(self, op: str, target: torch.Tensor, host: torch.Tensor, collective: Callable[[], None]) -> None:
        """Run `collective`, which fills `host`, and queue the copy to `target`; one cut off leaves poison there."""
        assert isinstance(target, SimTensor)  # _read has refused all others
        destination, stream = target.host, self.engine.current_stream(self.device_index)

        def arrive(_: int) -> None:
            destination.copy_(host)

        result = Work(f"result of {op}", arrive, (target.cell,), (destination,))
        try:
            collective()
        except DeadlineExceeded:
            poison(host)
            self.engine.submit(stream, result)
            raise
        self.engine.submit(stream, result)


@dataclass(frozen=True)
class SimCommunicatorFactory:
    """Makes the communicator of one `Rendezvous`."""

    engine: Engine
    capabilities: Capabilities

    def __call__(self, rendezvous: Rendezvous, /) -> Communicator:
        self.engine.state(rendezvous.device_index)  # DeviceError before anybody is waited for
        inner = TorchCommunicator(
            rendezvous,
            device_type="cpu",
            library="gloo",
            carried=self.capabilities.communication_dtypes,
            reduce_ops=self.capabilities.reduce_ops,
        )
        return SimCommunicator(self.engine, inner, rendezvous.device_index)
