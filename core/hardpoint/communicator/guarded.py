"""`Guarded`: a native communicator whose calls all run under the tensors' own device.

Some native libraries leave that to the caller and take the thread's current device (FR5, item 3: the broadcast has to
run under `communicator.device`). The caller's current device is as before afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hardpoint.communicator.protocol import Communicator, Verdict

if TYPE_CHECKING:
    import torch

    from hardpoint.device import Device


@dataclass(frozen=True)
class Guarded:
    """`native` under ``device.use(device_index)``.

    Attributes:
        native: what carries the bytes.
        device: guards with its `use`.
        device_index: device of this rank's tensors.
    """

    native: Communicator
    device: Device
    device_index: int

    @property
    def rank(self) -> int:
        return self.native.rank

    @property
    def world_size(self) -> int:
        return self.native.world_size

    @property
    def sequence(self) -> int:
        return self.native.sequence

    def broadcast(self, tensor: torch.Tensor, /, *, src: int, deadline: float | None = None) -> None:
        with self.device.use(self.device_index):
            self.native.broadcast(tensor, src=src, deadline=deadline)

    def all_gather(self, output: torch.Tensor, tensor: torch.Tensor, /, *, deadline: float | None = None) -> None:
        with self.device.use(self.device_index):
            self.native.all_gather(output, tensor, deadline=deadline)

    def all_gather_ragged(
        self, output: torch.Tensor, tensor: torch.Tensor, /, counts: Sequence[int], *, deadline: float | None = None
    ) -> None:
        with self.device.use(self.device_index):
            self.native.all_gather_ragged(output, tensor, counts, deadline=deadline)

    def reduce_scatter(
        self, output: torch.Tensor, tensor: torch.Tensor, /, *, op: str = "sum", deadline: float | None = None
    ) -> None:
        with self.device.use(self.device_index):
            self.native.reduce_scatter(output, tensor, op=op, deadline=deadline)

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
        with self.device.use(self.device_index):
            self.native.reduce_scatter_ragged(output, tensor, counts, op=op, deadline=deadline)

    def all_reduce(self, tensor: torch.Tensor, /, *, op: str = "sum", deadline: float | None = None) -> None:
        with self.device.use(self.device_index):
            self.native.all_reduce(tensor, op=op, deadline=deadline)

    def barrier(self, *, deadline: float | None = None) -> None:
        with self.device.use(self.device_index):
            self.native.barrier(deadline=deadline)

    def vote(
        self, ok: bool, subject: str, *, reason: str = "", digest: str = "", deadline: float | None = None
    ) -> Verdict:
        return self.native.vote(ok, subject, reason=reason, digest=digest, deadline=deadline)

    def check(self) -> None:
        """Raise if the communicator can no longer be used; see `TorchCommunicator.check`."""
        check = getattr(self.native, "check", None)
        if check is not None:
            check()

    def close(self) -> None:
        self.native.close()
