"""`TorchCommunicator`: the `Communicator` protocol over a torch.distributed process group of its own.

Host groups (gloo) block until the collective is done. Before the data, the ranks gather a header (op, number, dtype,
 shape, root): gloo ends the process (C++ terminate) or answers wrongly when sizes differ, and so a mismatch is a
`CollectiveMismatch` on every rank instead, before a byte of data moves. Device groups (NCCL, XCCL, HCCL) are issued on
the caller's current stream and watched: a thread checks their deadlines, names the absent ranks and aborts the group,
so that the stream is released; the next call, `check` and `vote` raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hardpoint.communicator import ragged
from hardpoint.communicator.arguments import check_counts, check_pair, check_rank, check_tensor
from hardpoint.communicator.carrier import as_carried, check_reducible, dtype_name
from hardpoint.communicator.protocol import Rendezvous, Verdict
from hardpoint.communicator.recorder import FlightRecorder
from hardpoint.communicator.session import Session, options_of
from hardpoint.communicator.transport import reduce_op

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist


class TorchCommunicator:
    """One rank of a group. Not for two threads at once: a collective is a step that all ranks take in one order.

    Args:
        rendezvous: where the ranks meet; joining waits up to its deadline.
        device_type: torch device type of the tensors.
        library: torch.distributed's name of the native library (`native_library`).
        carried: dtype names that the library carries; others travel as bytes.
        reduce_ops: names out of ``sum, avg, min, max, prod`` that the library offers.

    Raises:
        DeadlineExceeded: ranks did not come.
        CommunicatorError: the name is taken, or the ranks cannot connect.
    """

    def __init__(
        self,
        rendezvous: Rendezvous,
        *,
        device_type: str,
        library: str,
        carried: frozenset[str],
        reduce_ops: frozenset[str],
    ) -> None:
        self._device_type, self._device_index = device_type, rendezvous.device_index
        self._library, self._carried, self._reduce_ops = library, carried, reduce_ops
        self._session = Session(rendezvous, device_type=device_type, library=library)
        self._rank, self._world_size = self._session.rank, self._session.world_size

    @property
    def rank(self) -> int:
        """This process's place, from 0."""
        return self._rank

    @property
    def world_size(self) -> int:
        """Ranks in the group."""
        return self._world_size

    @property
    def sequence(self) -> int:
        """Number of the next call."""
        return self._session.sequence

    @property
    def library(self) -> str:
        """What carries the bytes: gloo, nccl, xccl, hccl ..."""
        return self._library

    @property
    def recorder(self) -> FlightRecorder:
        """The last calls of this rank."""
        return self._session.recorder

    def broadcast(self, tensor: torch.Tensor, /, *, src: int, deadline: float | None = None) -> None:
        """Overwrite `tensor` on every rank with the one of rank `src`."""
        self._check_tensors("broadcast", tensor=tensor)
        check_rank("broadcast", "src", src, self._world_size)
        data = as_carried(tensor, self._carried)

        def issue(group: dist.ProcessGroup, limit: timedelta) -> Any:
            options = options_of("BroadcastOptions", limit)
            options.rootRank, options.rootTensor = src, 0
            return group.broadcast([data], options)

        self._session.collective("broadcast", f"{_form(tensor)} from rank {src}", issue, data.numel(), deadline)

    def all_gather(self, output: torch.Tensor, tensor: torch.Tensor, /, *, deadline: float | None = None) -> None:
        """`tensor` ``[n, ...]`` of every rank into `output` ``[world_size * n, ...]``, in rank order."""
        self._check_tensors("all_gather", output=output, tensor=tensor)
        rows = tensor.shape[0] if tensor.dim() else 0
        check_pair("all_gather", output, tensor, rows * self._world_size, rows)
        self._gather("all_gather", _form(tensor), output, tensor, deadline)

    def all_gather_ragged(
        self, output: torch.Tensor, tensor: torch.Tensor, /, counts: Sequence[int], *, deadline: float | None = None
    ) -> None:
        """`tensor` ``[counts[rank], ...]`` of every rank into `output` ``[sum(counts), ...]``; a count may be 0.

        Pads to the largest count in buffers of its own, ``(world_size + 1) * max(counts)`` rows, for the call's time.
        """
        op = "all_gather_ragged"
        rows = check_counts(op, counts, self._world_size)
        self._check_tensors(op, output=output, tensor=tensor)
        check_pair(op, output, tensor, sum(rows), rows[self._rank])
        form = f"{_form(tensor, rows=False)} counts {list(rows)}"
        if len(set(rows)) == 1:
            self._gather(op, form, output, tensor, deadline)
            return
        most = max(rows)
        every = tensor.new_empty((most * self._world_size, *tensor.shape[1:]))
        self._gather(op, form, every, ragged.padded(tensor, most), deadline)
        ragged.gathered(output, every, rows, most)

    def reduce_scatter(
        self, output: torch.Tensor, tensor: torch.Tensor, /, *, op: str = "sum", deadline: float | None = None
    ) -> None:
        """Reduce `tensor` ``[world_size * n, ...]``; rank r keeps rows ``[r*n, (r+1)*n)`` in `output`."""
        self._check_tensors("reduce_scatter", output=output, tensor=tensor)
        rows = output.shape[0] if output.dim() else 0
        check_pair("reduce_scatter", output, tensor, rows, rows * self._world_size)
        self._scatter("reduce_scatter", f"{op} of {_form(tensor)}", output, tensor, op, deadline)

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
        """Reduce `tensor` ``[sum(counts), ...]``; rank r keeps its ``counts[r]`` rows in `output`."""
        name = "reduce_scatter_ragged"
        rows = check_counts(name, counts, self._world_size)
        self._check_tensors(name, output=output, tensor=tensor)
        check_pair(name, output, tensor, rows[self._rank], sum(rows))
        form = f"{op} of {_form(tensor, rows=False)} counts {list(rows)}"
        if len(set(rows)) == 1:
            self._scatter(name, form, output, tensor, op, deadline)
            return
        most = max(rows)
        kept = tensor.new_empty((most, *tensor.shape[1:]))
        self._scatter(name, form, kept, ragged.spread(tensor, rows, most), op, deadline)
        output.copy_(kept[: rows[self._rank]])

    def all_reduce(self, tensor: torch.Tensor, /, *, op: str = "sum", deadline: float | None = None) -> None:
        """Reduce `tensor` over all ranks, in place."""
        self._check_tensors("all_reduce", tensor=tensor)
        check_reducible("all_reduce", tensor, op, self._carried, self._reduce_ops, self._library)

        def issue(group: dist.ProcessGroup, limit: timedelta) -> Any:
            options = options_of("AllreduceOptions", limit)
            options.reduceOp = reduce_op(op)
            return group.allreduce([tensor], options)

        self._session.collective("all_reduce", f"{op} of {_form(tensor)}", issue, tensor.numel(), deadline)

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
        """See `AllToAll.all_to_all`. Host groups compare what is sent with what is expected, before the data."""
        sent = check_counts("all_to_all", send_counts, self._world_size)
        received = check_counts("all_to_all", receive_counts, self._world_size)
        self._check_tensors("all_to_all", output=output, tensor=tensor)
        check_pair("all_to_all", output, tensor, sum(received), sum(sent))
        form = _form(tensor, rows=False)
        if self._world_size == 1:
            self._session.collective("all_to_all", form, None, 0, deadline)
            output.copy_(tensor)
            return
        into, data = as_carried(output, self._carried), as_carried(tensor, self._carried)
        # What a row of bytes counts: a dtype that travels as bytes has a last axis that is longer, not more rows.
        splits = (list(received), list(sent))

        def issue(group: dist.ProcessGroup, limit: timedelta) -> Any:
            if self._session.host:
                self._session.compare_counts(group, sent, received, limit)
            return group.alltoall_base(into, data, *splits, options_of("AllToAllOptions", limit))

        self._session.collective("all_to_all", form, issue, 1, deadline)

    def barrier(self, *, deadline: float | None = None) -> None:
        """Return when every rank has called it. On an accelerator the host waits too: that is what it is for."""
        if self._session.host or self._world_size == 1:
            self._session.collective("barrier", "", None, 0, deadline)  # the header round is the barrier
            return
        import torch

        token = torch.zeros(1, device=torch.device(self._device_type, self._device_index))

        def issue(group: dist.ProcessGroup, limit: timedelta) -> Any:
            return group.allreduce([token], options_of("AllreduceOptions", limit))

        self._session.collective("barrier", "", issue, 1, deadline)
        self._session.drain()

    def vote(
        self, ok: bool, subject: str, *, reason: str = "", digest: str = "", deadline: float | None = None
    ) -> Verdict:
        """All ranks say yes or no about `subject`, and compare `digest`; see `vote.py` for what it guarantees.

        Raises:
            CommunicatorError: the communicator is broken or closed, or the store is lost: then the outcome is unknown.
        """
        return self._session.vote(ok, subject, reason=reason, digest=digest, deadline=deadline)

    def check(self) -> None:
        """Raise if the communicator can no longer be used.

        Raises:
            CommunicatorError: closed, or broken by an earlier call, which is named.
        """
        self._session.check()

    def close(self) -> None:
        """Release the group and end the thread; idempotent, and it waits for no other rank."""
        self._session.close()

    def _gather(self, op: str, form: str, output: torch.Tensor, tensor: torch.Tensor, deadline: float | None) -> None:
        if self._world_size == 1:
            self._session.collective(op, form, None, 0, deadline)
            output.copy_(tensor)
            return
        into, data = as_carried(output, self._carried), as_carried(tensor, self._carried)

        def issue(group: dist.ProcessGroup, limit: timedelta) -> Any:
            return group._allgather_base(into, data, options_of("AllgatherOptions", limit))

        self._session.collective(op, form, issue, data.numel(), deadline)

    def _scatter(
        self, name: str, form: str, output: torch.Tensor, tensor: torch.Tensor, op: str, deadline: float | None
    ) -> None:
        check_reducible(name, tensor, op, self._carried, self._reduce_ops, self._library)
        if self._world_size == 1:
            self._session.collective(name, form, None, 0, deadline)
            output.copy_(tensor)
            return

        def issue(group: dist.ProcessGroup, limit: timedelta) -> Any:
            options = options_of("ReduceScatterOptions", limit)
            options.reduceOp = reduce_op(op)
            return group._reduce_scatter_base(output, tensor, options)

        self._session.collective(name, form, issue, output.numel(), deadline)

    def _check_tensors(self, op: str, **tensors: torch.Tensor) -> None:
        for what, tensor in tensors.items():
            check_tensor(op, what, tensor, self._device_type, self._device_index)


def _form(tensor: torch.Tensor, *, rows: bool = True) -> str:
    shape = list(tensor.shape) if rows else ["*", *tensor.shape[1:]]
    return f"{dtype_name(tensor.dtype)} {str(shape).replace(chr(39), '')}"
