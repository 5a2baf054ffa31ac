"""`HostStaged`: collectives of device tensors that travel through host memory, for a native library that is known bad.

Slow and right: every tensor is copied to the host in the order of the caller's current stream, goes through a host
communicator (gloo), and is copied back in that order. Whoever chooses it says so aloud; nothing here is silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardpoint.communicator.arguments import check_tensor
from hardpoint.communicator.protocol import Communicator, Verdict

if TYPE_CHECKING:
    import torch

    from hardpoint.device import Device


@dataclass(frozen=True)
class HostStaged:
    """`host`, a communicator of host tensors, for tensors on ``device`` `device_index`.

    A collective that fails leaves the device tensors as they were.
    """

    host: Communicator
    device: Device
    device_index: int

    @property
    def rank(self) -> int:
        return self.host.rank

    @property
    def world_size(self) -> int:
        return self.host.world_size

    @property
    def sequence(self) -> int:
        return self.host.sequence

    def broadcast(self, tensor: torch.Tensor, /, *, src: int, deadline: float | None = None) -> None:
        (copy,) = self._to_host("broadcast", tensor=tensor)
        self.host.broadcast(copy, src=src, deadline=deadline)
        self._back(tensor, copy)

    def all_gather(self, output: torch.Tensor, tensor: torch.Tensor, /, *, deadline: float | None = None) -> None:
        into, copy = self._to_host("all_gather", output=output, tensor=tensor)
        self.host.all_gather(into, copy, deadline=deadline)
        self._back(output, into)

    def all_gather_ragged(
        self, output: torch.Tensor, tensor: torch.Tensor, /, counts: Sequence[int], *, deadline: float | None = None
    ) -> None:
        into, copy = self._to_host("all_gather_ragged", output=output, tensor=tensor)
        self.host.all_gather_ragged(into, copy, counts, deadline=deadline)
        self._back(output, into)

    def reduce_scatter(
        self, output: torch.Tensor, tensor: torch.Tensor, /, *, op: str = "sum", deadline: float | None = None
    ) -> None:
        into, copy = self._to_host("reduce_scatter", output=output, tensor=tensor)
        self.host.reduce_scatter(into, copy, op=op, deadline=deadline)
        self._back(output, into)

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
        into, copy = self._to_host("reduce_scatter_ragged", output=output, tensor=tensor)
        self.host.reduce_scatter_ragged(into, copy, counts, op=op, deadline=deadline)
        self._back(output, into)

    def all_reduce(self, tensor: torch.Tensor, /, *, op: str = "sum", deadline: float | None = None) -> None:
        (copy,) = self._to_host("all_reduce", tensor=tensor)
        self.host.all_reduce(copy, op=op, deadline=deadline)
        self._back(tensor, copy)

    def barrier(self, *, deadline: float | None = None) -> None:
        self.host.barrier(deadline=deadline)

    def vote(
        self, ok: bool, subject: str, *, reason: str = "", digest: str = "", deadline: float | None = None
    ) -> Verdict:
        return self.host.vote(ok, subject, reason=reason, digest=digest, deadline=deadline)

    def close(self) -> None:
        self.host.close()

    def _to_host(self, op: str, **tensors: torch.Tensor) -> list[torch.Tensor]:
        """Host copies as the current stream of their device leaves them; the host waits for that stream."""
        for what, tensor in tensors.items():
            check_tensor(op, what, tensor, self.device.type, self.device_index)
        with self.device.use(self.device_index):
            return [tensor.to("cpu", copy=True) for tensor in tensors.values()]

    def _back(self, tensor: torch.Tensor, copy: torch.Tensor) -> None:
        with self.device.use(self.device_index):
            tensor.copy_(copy)
