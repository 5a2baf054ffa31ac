"""`PlannedSender`: publishing by a plan. Receivers say what they hold; each byte goes once, to those who hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hardpoint.errors import SyncError
from hardpoint.moe import CheckpointFormat
from hardpoint.sync.outcome import Progress, ProgressCallback, SyncOutcome
from hardpoint.sync.plan import Offer, PlanRefused, SyncPlan, plain_name
from hardpoint.sync.remote import DataPlane, Directory, Entry, TrainerLink
from hardpoint.sync.stream import open_link
from hardpoint.sync.transaction import DecisionRecord, Mode, Outcome

if TYPE_CHECKING:
    import torch

    from hardpoint.communicator import CommunicatorFactory
    from hardpoint.device import Device
    from hardpoint.sync.plan import Bucket
    from hardpoint.sync.rendezvous import Meeting
    from hardpoint.sync.stream import BoxKernels

# What a wider float holds without loss. Nothing else is converted on the way.
_WIDER = frozenset({("bfloat16", "float32"), ("float16", "float32"), ("float32", "float64")})


@dataclass(frozen=True)
class Options:
    """How updates are staged, how large a bucket is, the format of fused experts, where decisions are written."""

    mode: Mode
    bucket_bytes: int
    experts: CheckpointFormat | None
    record: DecisionRecord | None


class PlannedSender:
    """Sends updates to ranks 1 to `receivers` of the group `name`.

    Args:
        device, index: where the tensors are.
    """

    def __init__(
        self,
        meeting: Meeting,
        name: str,
        receivers: int,
        factory: CommunicatorFactory,
        device: Device,
        index: int,
        options: Options,
        kernels: BoxKernels | None = None,
    ) -> None:
        self._meeting, self._options = meeting, options
        self._ranks = tuple(range(1, receivers + 1))
        self._directory = Directory(meeting.store, name)
        self._plans: dict[tuple[str, tuple[str, ...]], SyncPlan] = {}
        self._progress: ProgressCallback | None = None
        self._done = (0, 0)
        self._plan: SyncPlan | None = None

        def opened(link: str, audiences: tuple[tuple[int, ...], ...], deadline: float) -> Any:
            from hardpoint.communicator.store import connection_of_its_own

            connection = connection_of_its_own(meeting.store)
            return open_link(factory, connection, 0, audiences, name=link, device_index=index, deadline=deadline)

        plane = DataPlane(opened, device, index, kernels=kernels, on_bucket=self._queued)
        self._link = TrainerLink(meeting.store, name, plane, record=options.record)

    def meet(self, deadline: float) -> int:
        """Wait until all receivers have said what they hold; the highest epoch among them.

        Raises:
            SyncError: they did not within `deadline` seconds; it names them.
        """
        return max(entry.epoch for entry in self._directory.entries(self._ranks, deadline).values())

    def send(
        self,
        named_tensors: Mapping[str, torch.Tensor],
        epoch: int,
        deadline: float,
        progress: ProgressCallback | None,
    ) -> SyncOutcome:
        """One update; how it ended, refusals of the plan included: then no byte has moved."""
        entries = self._directory.entries(self._ranks, deadline)
        try:
            tensors = self._widened(named_tensors, entries)
            plan = self._plan_for(Offer.of(tensors, self._options.experts), entries)
        except SyncError as error:
            self._link.refuse(self._ranks, epoch, str(error))
            names = tuple(one.tensor for one in error.refusals) if isinstance(error, PlanRefused) else ()
            return SyncOutcome(False, epoch, "begin", str(error), tensors=names)
        self._progress, self._plan, self._done = progress, plan, (0, 0)
        outcome = self._link.update(plan, epoch, tensors, mode=self._options.mode, deadline=deadline)
        return _told(outcome, plan)

    def close(self) -> None:
        """End the thread; ranks in doubt are answered no more."""
        self._link.close()

    def _plan_for(self, offer: Offer, entries: Mapping[int, Entry]) -> SyncPlan:
        key = offer.digest, tuple(f"{rank} {entry.declared}" for rank, entry in sorted(entries.items()))
        known = self._plans.get(key)
        if known is None:
            known = self._directory.plan(entries.values(), offer, self._options.bucket_bytes)
            self._directory.propose(known.digest, offer, self._options.bucket_bytes)
            self._plans = {key: known}
        return known

    def _widened(
        self, named_tensors: Mapping[str, torch.Tensor], entries: Mapping[int, Entry]
    ) -> dict[str, torch.Tensor]:
        """Tensors in the dtype that receivers keep, where that is a wider float (GDN's A_log in vLLM)."""
        from hardpoint.sync.dtypes import dtype_name, torch_dtype

        wanted: dict[str, str] = {}
        for digest in {entry.declared for entry in entries.values()}:
            for of in self._directory.declaration(digest).destinations:
                for part in of.parts:
                    wanted.update(dict.fromkeys(part.tensors, of.dtype))
        found = {}
        for name, tensor in named_tensors.items():
            plain = plain_name(name)
            if plain in found:
                raise SyncError(f"Tensor {plain} is given twice in one update.")
            kept = wanted.get(plain)
            wider = kept is not None and (dtype_name(tensor.dtype), kept) in _WIDER
            found[plain] = tensor.detach().to(torch_dtype(kept)) if wider and kept is not None else tensor.detach()
        return found

    def _queued(self, bucket: Bucket) -> None:
        if self._progress is None or self._plan is None:
            return
        count, nbytes = self._done
        self._done = count + 1, nbytes + bucket.nbytes
        total = sum(one.nbytes for one in self._plan.buckets)
        self._progress(Progress(self._done[1], total, self._done[0], len(self._plan.buckets)))


def _told(outcome: Outcome, plan: SyncPlan) -> SyncOutcome:
    """As callers of a publisher know it. Committed means everywhere: a rank that failed in it is told as a reason."""
    reason = outcome.reason
    if outcome.committed and not outcome.everywhere:
        reason = f"the update is committed, and these ranks serve nothing until the next: {reason}"
    return SyncOutcome(
        committed=outcome.everywhere,
        epoch=outcome.epoch,
        step=outcome.step,
        reason=reason,
        undecided=outcome.committed and not outcome.everywhere,
        objections=dict(outcome.objections),
        missing=outcome.missing,
        manifest_digest=plan.digest,
        bytes=plan.offer.nbytes,
        seconds=outcome.seconds,
    )
