"""`Session`: one rank's place in a group, which takes every call of it through the same steps.

A call is numbered, recorded and published; on the host the ranks compare what they are about to do; then the data move,
under a deadline; whatever fails breaks the session, with the absent ranks named.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hardpoint.communicator import ragged
from hardpoint.communicator.arguments import check_deadline, check_rank
from hardpoint.communicator.diagnosis import Diagnosis, diagnose, investigate
from hardpoint.communicator.failure import error_of, first_line
from hardpoint.communicator.header import Header
from hardpoint.communicator.joining import meet
from hardpoint.communicator.ledger import Identity, Ledger
from hardpoint.communicator.protocol import Rendezvous, Verdict
from hardpoint.communicator.recorder import DONE, FAILED, ISSUED, FlightRecorder, records_folder
from hardpoint.communicator.store import connection_of_its_own
from hardpoint.communicator.transport import open_group
from hardpoint.communicator.vote import Ballot, cast_vote, decide
from hardpoint.communicator.watch import Watch
from hardpoint.errors import CollectiveMismatch, CommunicatorError

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch._C._distributed_c10d import Store

# Moves the data of one call: given the group and how long it may take, issues it and returns its work.
Issue = Callable[[Any, timedelta], Any]


class Session:
    """See the module. Arguments and errors as for `TorchCommunicator`.

    Attributes:
        rank, world_size: this process's place.
        sequence: number of the next call.
        host: the library works on host memory and blocks until a call is done.
        group: of torch.distributed; None for one rank, or when closed.
        recorder: the last calls.
    """

    def __init__(self, rendezvous: Rendezvous, *, device_type: str, library: str) -> None:
        import torch

        self.rank, self.world_size = rendezvous.rank, rendezvous.world_size
        self._name, self._deadline = rendezvous.name, check_deadline("join", rendezvous.deadline)
        self._device_type, self._device_index = device_type, rendezvous.device_index
        self._library = library
        self.sequence = 0
        self._broken: str | None = None
        self._unreported: CommunicatorError | None = None  # found by the watching thread, not yet raised to anybody
        self._closed = False
        self.group: dist.ProcessGroup | None = None
        self._ledger: Ledger | None = None
        self._store: Store | None = None
        self._identities: dict[int, Identity] = {}
        self.recorder = FlightRecorder(self._name, self.rank, self.world_size, library=library)
        self._watch = Watch(self._overdue, self.recorder.mark)
        self._header = Header(self.world_size)
        self.host = library == "gloo"
        if self.world_size == 1:
            check_rank("join", "rank", self.rank, 1)
            return
        from torch._C._distributed_c10d import PrefixStore

        began = time.monotonic()
        # A connection of its own: torch's stores let one thread wait at a time.
        self._store = PrefixStore(f"hardpoint/{self._name}/", connection_of_its_own(rendezvous.store))
        self._identities = meet(self._store, self.rank, self.world_size, self._name, self._deadline)
        left = max(1.0, self._deadline - (time.monotonic() - began))
        device = torch.device(device_type) if device_type == "cpu" else torch.device(device_type, self._device_index)
        self.group = open_group(library, device, PrefixStore("group/", self._store), self.rank, self.world_size, left)
        self._ledger = Ledger(
            self._store,
            self.rank,
            self.world_size,
            self._watch.look,
            self.recorder.write_if_asked if records_folder() else None,
        )
        # Nobody goes on before every rank's first publication can be read.
        meet(PrefixStore("ready/", self._store), self.rank, self.world_size, self._name, left)

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
        number, self.sequence = self.sequence, self.sequence + 1
        if self._store is None or self._ledger is None:
            return decide({0: ballot}, 1, subject)
        call = f"vote on {subject!r}"
        self.recorder.enter(number, "vote", f"on {subject!r}")
        self._ledger.enter(number, call)
        try:
            verdict = cast_vote(
                self._store, self.rank, self.world_size, number, ballot, limit, lambda: self._gone(number, call)
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
        self.recorder.mark(number, DONE)
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
        self._ledger = self.group = self._store = None

    def collective(
        self,
        op: str,
        form: str,
        issue: Issue | None,
        elements: int,
        deadline: float | None,
    ) -> None:
        """Take one step: number it, publish it, compare headers (host), move the data (`elements` > 0)."""
        self.check()
        seconds = check_deadline(op, self._deadline if deadline is None else deadline)
        number, self.sequence = self.sequence, self.sequence + 1
        ledger, group, recorder = self._ledger, self.group, self.recorder
        recorder.enter(number, op, form, None if self.host else self._stream())
        if ledger is None or group is None:
            recorder.mark(number, DONE)
            return
        call = f"{op} {form}".rstrip()
        ledger.enter(number, call)
        end = time.monotonic() + seconds
        try:
            if self.host:
                self._compare(group, number, call, end)
                if elements and issue is not None:
                    issue(group, _left(end)).wait(_left(end))
            elif elements and issue is not None:
                self._issue_on_device(issue, group, number, call, seconds)
        except RuntimeError as error:
            raise self._failed(number, call, seconds, end, error) from error
        ledger.leave(number, call)
        if self.host or not elements:
            recorder.mark(number, DONE)

    def _compare(self, group: Any, number: int, call: str, end: float) -> None:
        options = options_of("AllgatherOptions", _left(end))
        mine = self._header.write(number, call)
        group._allgather_base(self._header.every, mine, options).wait(_left(end))
        different = self._header.different(self.rank)
        if different:
            theirs = "; ".join(f"rank {peer} calls {text}" for peer, text in different.items())
            raise self._break(
                CollectiveMismatch(
                    f"ranks disagree about the next collective: rank {self.rank} calls number {number}, {call}; "
                    f"{theirs}. Every rank has to make the same calls in the same order with the same shapes "
                    "and dtypes."
                ),
                number,
            )

    def compare_counts(self, group: Any, sent: Sequence[int], received: Sequence[int], limit: timedelta) -> None:
        import torch

        every = torch.empty(self.world_size * 2, self.world_size, dtype=torch.int64)
        mine = torch.tensor([list(sent), list(received)])
        group._allgather_base(every, mine, options_of("AllgatherOptions", limit)).wait(limit)
        wrong = ragged.misfits(every.view(self.world_size, 2, -1).tolist())
        if wrong:
            raise self._break(CollectiveMismatch(f"all_to_all: {'; '.join(wrong)}."), self.sequence - 1)

    def _issue_on_device(self, issue: Issue, group: Any, number: int, call: str, seconds: float) -> None:
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
        self.recorder.mark(number, ISSUED)  # before the watching thread may see it done
        issued(work)

    def drain(self) -> None:
        """Wait until the device has done what was issued so far, or something is late; raises as `check` does."""
        self._watch.drain(self.sequence - 1)
        self.check()

    def _failed(self, number: int, call: str, seconds: float, end: float, error: RuntimeError) -> CommunicatorError:
        assert self._ledger is not None
        if self._unreported is not None:
            found_late, self._unreported = self._unreported, None
            return found_late
        if self._broken is not None:
            return CommunicatorError(self._broken)
        found = investigate(self._ledger, number, call, self.rank, self._identities, end)
        return self._break(self._explain(number, call, seconds, found, error), number)

    def _overdue(self, number: int, call: str, seconds: float) -> None:
        """Called by the watching thread: a device collective has passed its deadline."""
        assert self._ledger is not None
        progress = self._ledger.read() if self._ledger.store_lost is None else {}
        found = diagnose(number, call, self.rank, progress, self._identities, {}, self._ledger.heartbeat)
        if self._broken is None:
            self._unreported = self._break(self._explain(number, call, seconds, found, None), number)
        self._abort()

    def _explain(
        self, number: int, call: str, seconds: float, found: Diagnosis, error: RuntimeError | None
    ) -> CommunicatorError:
        return error_of(
            name=self._name,
            library=self._library,
            rank=self.rank,
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
        found = diagnose(number, call, self.rank, progress, self._identities, {}, self._ledger.heartbeat)
        return frozenset(found.lost)

    def _break(self, error: CommunicatorError, number: int = -1) -> CommunicatorError:
        """Nobody may use the communicator from here on; the first error is written with the last calls."""
        if self._broken is None:
            self.recorder.mark(number, FAILED, str(error))
            error.args = (f"{error} {self.recorder.write_if_asked(str(error))}",)
            self._broken = str(error)
            if self._ledger is not None:
                self._ledger.give_up(str(error))
        return error

    def _abort(self) -> None:
        abort = getattr(self.group, "abort", None)
        if abort is not None and self.group is not None:
            abort()


def options_of(kind: str, limit: timedelta) -> Any:
    from torch._C import _distributed_c10d as c10d  # two of the four are not exported by torch.distributed

    options = getattr(c10d, kind)()
    options.timeout = limit
    return options


def _left(end: float) -> timedelta:
    return timedelta(seconds=max(0.001, end - time.monotonic()))
