"""`TorchCommunicator`: the `Communicator` protocol over a torch.distributed process group of its own.

Host groups (gloo) block until the collective is done. Before the data, the ranks gather a header (op, number, dtype,
 shape, root): gloo ends the process (C++ terminate) or answers wrongly when sizes differ, and so a mismatch is a
`CollectiveMismatch` on every rank instead, before a byte of data moves. Device groups (NCCL, XCCL, HCCL) are issued on
the caller's current stream and watched: a thread checks their deadlines, names the absent ranks and aborts the group,
so that the stream is released; the next call, `check` and `vote` raise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hardpoint.communicator import ragged
from hardpoint.communicator.arguments import check_counts, check_deadline, check_pair, check_rank, check_tensor
from hardpoint.communicator.carrier import as_carried, check_reducible, dtype_name
from hardpoint.communicator.diagnosis import Diagnosis, diagnose, investigate
from hardpoint.communicator.failure import error_of, first_line
from hardpoint.communicator.header import Header
from hardpoint.communicator.joining import meet
from hardpoint.communicator.ledger import Identity, Ledger
from hardpoint.communicator.protocol import Rendezvous, Verdict
from hardpoint.communicator.recorder import DONE, FAILED, ISSUED, FlightRecorder, records_folder
from hardpoint.communicator.store import connection_of_its_own
from hardpoint.communicator.transport import open_group, reduce_op
from hardpoint.communicator.vote import Ballot, cast_vote, decide
from hardpoint.communicator.watch import Watch
from hardpoint.errors import CollectiveMismatch, CommunicatorError

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import Store


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
        import torch

        self._rank, self._world_size = rendezvous.rank, rendezvous.world_size
        self._name, self._deadline = rendezvous.name, check_deadline("join", rendezvous.deadline)
        self._device_type, self._device_index = device_type, rendezvous.device_index
        self._library, self._carried, self._reduce_ops = library, carried, reduce_ops
        self._sequence = 0
        self._broken: str | None = None
        self._unreported: CommunicatorError | None = None  # found by the watching thread, not yet raised to anybody
        self._closed = False
        self._group: dist.ProcessGroup | None = None
        self._ledger: Ledger | None = None
        self._store: Store | None = None
        self._identities: dict[int, Identity] = {}
        self._recorder = FlightRecorder(self._name, self._rank, self._world_size, library=library)
        self._watch = Watch(self._overdue, self._recorder.mark)
        self._header = Header(self._world_size)
        self._host = library == "gloo"
        if self._world_size == 1:
            check_rank("join", "rank", self._rank, 1)
            return
        from torch._C._distributed_c10d import PrefixStore

        began = time.monotonic()
        # A connection of its own: torch's stores let one thread wait at a time.
        self._store = PrefixStore(f"hardpoint/{self._name}/", connection_of_its_own(rendezvous.store))
        self._identities = meet(self._store, self._rank, self._world_size, self._name, self._deadline)
        left = max(1.0, self._deadline - (time.monotonic() - began))
        device = torch.device(device_type) if device_type == "cpu" else torch.device(device_type, self._device_index)
        self._group = open_group(
            library, device, PrefixStore("group/", self._store), self._rank, self._world_size, left
        )
        self._ledger = Ledger(
            self._store,
            self._rank,
            self._world_size,
            self._watch.look,
            self._recorder.write_if_asked if records_folder() else None,
        )
        # Nobody goes on before every rank's first publication can be read.
        meet(PrefixStore("ready/", self._store), self._rank, self._world_size, self._name, left)

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
        return self._sequence

    @property
    def library(self) -> str:
        """What carries the bytes: gloo, nccl, xccl, hccl ..."""
        return self._library

    @property
    def recorder(self) -> FlightRecorder:
        """The last calls of this rank."""
        return self._recorder

    def broadcast(self, tensor: torch.Tensor, /, *, src: int, deadline: float | None = None) -> None:
        """Overwrite `tensor` on every rank with the one of rank `src`."""
        self._check_tensors("broadcast", tensor=tensor)
        check_rank("broadcast", "src", src, self._world_size)
        data = as_carried(tensor, self._carried)

        def issue(group: dist.ProcessGroup, limit: timedelta) -> Any:
            options = _options("BroadcastOptions", limit)
            options.rootRank, options.rootTensor = src, 0
            return group.broadcast([data], options)

        self._collective("broadcast", f"{_form(tensor)} from rank {src}", issue, data.numel(), deadline)

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
            options = _options("AllreduceOptions", limit)
            options.reduceOp = reduce_op(op)
            return group.allreduce([tensor], options)

        self._collective("all_reduce", f"{op} of {_form(tensor)}", issue, tensor.numel(), deadline)

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
            self._collective("all_to_all", form, None, 0, deadline)
            output.copy_(tensor)
            return
        into, data = as_carried(output, self._carried), as_carried(tensor, self._carried)
        # What a row of bytes counts: a dtype that travels as bytes has a last axis that is longer, not more rows.
        splits = (list(received), list(sent))

        def issue(group: dist.ProcessGroup, limit: timedelta) -> Any:
            if self._host:
                self._compare_counts(group, sent, received, limit)
            return group.alltoall_base(into, data, *splits, _options("AllToAllOptions", limit))

        self._collective("all_to_all", form, issue, 1, deadline)

    def barrier(self, *, deadline: float | None = None) -> None:
        """Return when every rank has called it. On an accelerator the host waits too: that is what it is for."""
        if self._host or self._world_size == 1:
            self._collective("barrier", "", None, 0, deadline)  # the header round is the barrier
            return
        import torch

        token = torch.zeros(1, device=torch.device(self._device_type, self._device_index))

        def issue(group: dist.ProcessGroup, limit: timedelta) -> Any:
            return group.allreduce([token], _options("AllreduceOptions", limit))

        self._collective("barrier", "", issue, 1, deadline)
        self._watch.drain(self._sequence - 1)
        self.check()

    def vote(
        self, ok: bool, subject: str, *, reason: str = "", digest: str = "", deadline: float | None = None
    ) -> Verdict:
        """All ranks say yes or no about `subject`, and compare `digest`; see `vote.py` for what it guarantees.

        Raises:
            CommunicatorError: the communicator is broken or closed, or the store is lost: then the outcome is unknown.
        """
        self.check()
        limit = check_deadline("vote", self._deadline if deadline is None else deadline)
        ballot = Ballot(ok, subject, reason, digest)
        number, self._sequence = self._sequence, self._sequence + 1
        if self._store is None or self._ledger is None:
            return decide({0: ballot}, 1, subject)
        call = f"vote on {subject!r}"
        self._recorder.enter(number, "vote", f"on {subject!r}")
        self._ledger.enter(number, call)
        try:
            verdict = cast_vote(
                self._store, self._rank, self._world_size, number, ballot, limit, lambda: self._gone(number, call)
            )
        except RuntimeError as error:
            raise self._break(
                CommunicatorError(
                    f"vote on {subject!r} (call number {number}): the store cannot be reached "
                    f"({first_line(error)}); the process that serves it has ended or is cut off. The outcome of this "
                    "vote is not known here: treat what it was about as undecided."
                ),
                number,
            ) from error
        self._ledger.leave(number, call)
        self._recorder.mark(number, DONE)
        return verdict

    def check(self) -> None:
        """Raise if the communicator can no longer be used.

        Raises:
            CommunicatorError: closed, or broken by an earlier call, which is named.
        """
        if self._closed:
            raise CommunicatorError(f"communicator {self._name!r} is closed; make a new one.")
        if self._unreported is not None:
            error, self._unreported = self._unreported, None
            raise error
        if self._broken is not None:
            raise CommunicatorError(
                f"communicator {self._name!r} is broken since an earlier call failed: {self._broken} "
                "Close it and make a new one, under a new name."
            )

    def close(self) -> None:
        """Release the group and end the thread; idempotent, and it waits for no other rank."""
        if self._closed:
            return
        self._closed = True
        if self._ledger is not None:
            self._ledger.close()
        self._abort()
        self._ledger = self._group = self._store = None

    def _gather(self, op: str, form: str, output: torch.Tensor, tensor: torch.Tensor, deadline: float | None) -> None:
        if self._world_size == 1:
            self._collective(op, form, None, 0, deadline)
            output.copy_(tensor)
            return
        into, data = as_carried(output, self._carried), as_carried(tensor, self._carried)

        def issue(group: dist.ProcessGroup, limit: timedelta) -> Any:
            return group._allgather_base(into, data, _options("AllgatherOptions", limit))

        self._collective(op, form, issue, data.numel(), deadline)

    def _scatter(
        self, name: str, form: str, output: torch.Tensor, tensor: torch.Tensor, op: str, deadline: float | None
    ) -> None:
        check_reducible(name, tensor, op, self._carried, self._reduce_ops, self._library)
        if self._world_size == 1:
            self._collective(name, form, None, 0, deadline)
            output.copy_(tensor)
            return

        def issue(group: dist.ProcessGroup, limit: timedelta) -> Any:
            options = _options("ReduceScatterOptions", limit)
            options.reduceOp = reduce_op(op)
            return group._reduce_scatter_base(output, tensor, options)

        self._collective(name, form, issue, output.numel(), deadline)

    def _check_tensors(self, op: str, **tensors: torch.Tensor) -> None:
        for what, tensor in tensors.items():
            check_tensor(op, what, tensor, self._device_type, self._device_index)

    def _collective(
        self,
        op: str,
        form: str,
        issue: Callable[[Any, timedelta], Any] | None,
        elements: int,
        deadline: float | None,
    ) -> None:
        """Take one step: number it, publish it, compare headers (host), move the data (`elements` > 0)."""
        self.check()
        seconds = check_deadline(op, self._deadline if deadline is None else deadline)
        number, self._sequence = self._sequence, self._sequence + 1
        ledger, group, recorder = self._ledger, self._group, self._recorder
        recorder.enter(number, op, form, None if self._host else self._stream())
        if ledger is None or group is None:
            recorder.mark(number, DONE)
            return
        call = f"{op} {form}".rstrip()
        ledger.enter(number, call)
        end = time.monotonic() + seconds
        try:
            if self._host:
                self._compare(group, number, call, end)
                if elements and issue is not None:
                    issue(group, _left(end)).wait(_left(end))
            elif elements and issue is not None:
                self._issue_on_device(issue, group, number, call, seconds)
        except RuntimeError as error:
            raise self._failed(number, call, seconds, end, error) from error
        ledger.leave(number, call)
        if self._host or not elements:
            recorder.mark(number, DONE)

    def _compare(self, group: Any, number: int, call: str, end: float) -> None:
        options = _options("AllgatherOptions", _left(end))
        mine = self._header.write(number, call)
        group._allgather_base(self._header.every, mine, options).wait(_left(end))
        different = self._header.different(self._rank)
        if different:
            theirs = "; ".join(f"rank {peer} calls {text}" for peer, text in different.items())
            raise self._break(
                CollectiveMismatch(
                    f"ranks disagree about the next collective: rank {self._rank} calls number {number}, {call}; "
                    f"{theirs}. Every rank has to make the same calls in the same order with the same shapes "
                    "and dtypes."
                ),
                number,
            )

    def _compare_counts(self, group: Any, sent: Sequence[int], received: Sequence[int], limit: timedelta) -> None:
        import torch

        every = torch.empty(self._world_size * 2, self._world_size, dtype=torch.int64)
        mine = torch.tensor([list(sent), list(received)])
        group._allgather_base(every, mine, _options("AllgatherOptions", limit)).wait(limit)
        wrong = ragged.misfits(every.view(self._world_size, 2, -1).tolist())
        if wrong:
            raise self._break(CollectiveMismatch(f"all_to_all: {'; '.join(wrong)}."), self._sequence - 1)

    def _issue_on_device(self, issue: Any, group: Any, number: int, call: str, seconds: float) -> None:
        import torch

        limit = timedelta(hours=24)  # ours comes first: see transport.py
        issued = self._watch.begin(number, call, seconds)
        try:
            with torch.accelerator.device_index(self._device_index):
                work = issue(group, limit)
                work.wait()  # orders the current stream behind the collective; the host goes on
        except RuntimeError:
            if self._broken is None:  # else the watching thread ended the call, and said why
                self._watch.drop(number)
            raise
        self._recorder.mark(number, ISSUED)  # before the watching thread may see it done
        issued(work)

    def _failed(self, number: int, call: str, seconds: float, end: float, error: RuntimeError) -> CommunicatorError:
        assert self._ledger is not None
        if self._unreported is not None:
            found_late, self._unreported = self._unreported, None
            return found_late
        if self._broken is not None:
            return CommunicatorError(self._broken)
        found = investigate(self._ledger, number, call, self._rank, self._identities, end)
        return self._break(self._explain(number, call, seconds, found, error), number)

    def _overdue(self, number: int, call: str, seconds: float) -> None:
        """Called by the watching thread: a device collective has passed its deadline."""
        assert self._ledger is not None
        progress = self._ledger.read() if self._ledger.store_lost is None else {}
        found = diagnose(number, call, self._rank, progress, self._identities, {}, self._ledger.heartbeat)
        if self._broken is None:
            self._unreported = self._break(self._explain(number, call, seconds, found, None), number)
        self._abort()

    def _explain(
        self, number: int, call: str, seconds: float, found: Diagnosis, error: RuntimeError | None
    ) -> CommunicatorError:
        return error_of(
            name=self._name,
            library=self._library,
            rank=self._rank,
            number=number,
            call=call,
            seconds=seconds,
            found=found,
            native=error,
        )

    def _stream(self) -> int:
        """Id of the caller's current stream on this rank's device."""
        import torch

        return int(torch.accelerator.current_stream(self._device_index).stream_id)

    def _gone(self, number: int, call: str) -> frozenset[int]:
        assert self._ledger is not None
        progress = self._ledger.read()
        found = diagnose(number, call, self._rank, progress, self._identities, {}, self._ledger.heartbeat)
        return frozenset(found.lost)

    def _break(self, error: CommunicatorError, number: int = -1) -> CommunicatorError:
        """Nobody may use the communicator from here on; the first error is written with the last calls."""
        if self._broken is None:
            self._recorder.mark(number, FAILED, str(error))
            error.args = (f"{error} {self._recorder.write_if_asked(str(error))}",)
            self._broken = str(error)
            if self._ledger is not None:
                self._ledger.give_up(str(error))
        return error

    def _abort(self) -> None:
        abort = getattr(self._group, "abort", None)
        if abort is not None and self._group is not None:
            abort()


def _options(kind: str, limit: timedelta) -> Any:
    from torch._C import _distributed_c10d as c10d  # two of the four are not exported by torch.distributed

    options = getattr(c10d, kind)()
    options.timeout = limit
    return options


def _left(end: float) -> timedelta:
    return timedelta(seconds=max(0.001, end - time.monotonic()))


def _form(tensor: torch.Tensor, *, rows: bool = True) -> str:
    shape = list(tensor.shape) if rows else ["*", *tensor.shape[1:]]
    return f"{dtype_name(tensor.dtype)} {str(shape).replace(chr(39), '')}"
