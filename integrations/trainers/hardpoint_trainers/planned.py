"""`PlannedSender`: publishing by a plan. Receivers say what they hold; each byte goes once, to those who hold it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hardpoint.errors import SyncError
from hardpoint.moe import CheckpointFormat
from hardpoint.sync.buckets import ALIGNMENT
from hardpoint.sync.outcome import Progress, ProgressCallback, SyncOutcome
from hardpoint.sync.plan import Offer, PlanRefused, SyncPlan, plain_name
from hardpoint.sync.remote import DataPlane, Directory, Entry, TrainerLink
from hardpoint.sync.stream import Feed, FeedPlan, feed_plan, open_link
from hardpoint.sync.transaction import DecisionRecord, Mode, Outcome

if TYPE_CHECKING:
    import torch

    from hardpoint.communicator import CommunicatorFactory
    from hardpoint.device import Device
    from hardpoint.sync.manifest import TensorSpec
    from hardpoint.sync.plan import Bucket
    from hardpoint.sync.rendezvous import Meeting
    from hardpoint.sync.stream import BoxKernels

# What a wider float holds without loss. Nothing else is converted on the way.
_WIDER = frozenset({("bfloat16", "float32"), ("float16", "float32"), ("float32", "float64")})

_PARTS, _MOST_PARTS = 4, 64  # of `bucket_bytes`: the buckets of a streamed update, at most and at least
_LEAST_ROOM = 1 << 16


@dataclass(frozen=True)
class Options:
    """How large a bucket is, the format of fused experts, where decisions are written."""

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
        self._plans: dict[tuple[str, int, tuple[str, ...]], SyncPlan] = {}
        self._progress: ProgressCallback | None = None
        self._done = (0, 0)
        self._plan: SyncPlan | None = None
        self._fed: tuple[str, FeedPlan] | None = None  # for the offer with this digest
        self._device, self._index = device, index

        def opened(link: str, audiences: tuple[tuple[int, ...], ...], deadline: float) -> Any:
            from hardpoint.communicator.store import connection_of_its_own

            connection = connection_of_its_own(meeting.store)
            return open_link(factory, connection, 0, audiences, name=link, device_index=index, deadline=deadline)

        self._plane = DataPlane(opened, device, index, kernels=kernels, on_bucket=self._queued)
        self._link = TrainerLink(meeting.store, name, self._plane, record=options.record)

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
        mode: Mode,
        deadline: float,
        progress: ProgressCallback | None,
    ) -> SyncOutcome:
        """One update; how it ended, refusals of the plan included: then no byte has moved."""
        entries = self._directory.entries(self._ranks, deadline)
        try:
            tensors = _widened(named_tensors, self._kept_dtypes(entries))
            plan = self._plan_for(Offer.of(tensors, self._options.experts), entries, self._options.bucket_bytes)
        except SyncError as error:
            return self._refused(epoch, error)
        self._progress, self._plan, self._done = progress, plan, (0, 0)
        return _told(self._link.update(plan, epoch, tensors, mode=mode, deadline=deadline), plan)

    def stream(
        self,
        pairs: Iterable[tuple[str, torch.Tensor]],
        specs: Iterable[TensorSpec],
        epoch: int,
        mode: Mode,
        deadline: float,
        progress: ProgressCallback | None,
    ) -> SyncOutcome:
        """One update of tensors that are made one at a time, in the order of `specs`, in the caller's thread.

        Held are the tensor in hand and, in smaller buckets, the bytes of one (`FeedPlan.nbytes`). `deadline` counts the
        making of all tensors.

        Raises:
            SyncError: a tensor is missing, extra, out of order or not as announced; the update is off. What making a
                tensor raises is raised as well.
        """
        entries = self._directory.entries(self._ranks, deadline)
        try:
            announced, offered = _announced(specs, self._kept_dtypes(entries))
            route = self._route_for(Offer.of(offered, self._options.experts), entries)
        except SyncError as error:
            return self._refused(epoch, error)
        plan = route.plan
        self._progress, self._plan, self._done = progress, plan, (0, 0)
        feed = Feed(route, self._device, self._index, announced)
        ended: Future[Outcome] = Future()

        def run() -> None:
            try:
                ended.set_result(self._link.update(plan, epoch, offered, mode=mode, deadline=deadline))
            except BaseException as error:  # noqa: BLE001 - raised where the update was asked for
                ended.set_exception(error)
            finally:
                feed.close()

        self._plane.feed = feed
        try:
            # The update's messages go to and fro in another thread: this one has the tensors, their device and streams.
            threading.Thread(target=run, name="hardpoint-update", daemon=True).start()
            try:
                feed.run(pairs)
            except BaseException:
                ended.exception()  # the receivers are told, and answer, before the caller goes on
                raise
            return _told(ended.result(), plan)
        finally:
            self._plane.feed = None

    def close(self) -> None:
        """End the thread; ranks in doubt are answered no more."""
        self._link.close()

    def _plan_for(self, offer: Offer, entries: Mapping[int, Entry], bucket_bytes: int) -> SyncPlan:
        of = tuple(f"{rank} {entry.declared}" for rank, entry in sorted(entries.items()))
        key = offer.digest, bucket_bytes, of
        known = self._plans.get(key)
        if known is None:
            known = self._directory.plan(entries.values(), offer, bucket_bytes)
            self._directory.propose(known.digest, offer, bucket_bytes)
            self._plans = {key: known}
        return known

    def _route_for(self, offer: Offer, entries: Mapping[int, Entry]) -> FeedPlan:
        """A plan whose open buckets together are no more than one bucket of a plan for tensors that are all there.

        How many are open depends on the receivers: tensor-parallel ranks get slices of their own, in buckets of their
        own, from one tensor.
        """
        room = max(self._options.bucket_bytes, _LEAST_ROOM)
        if self._fed is not None and self._fed[0] == offer.digest:
            plan = self._plan_for(offer, entries, self._fed[1].plan.bucket_bytes)
            if plan is self._fed[1].plan:
                return self._fed[1]
        parts = _PARTS
        while True:
            bucket_bytes = max(ALIGNMENT, self._options.bucket_bytes // parts // ALIGNMENT * ALIGNMENT)
            last = parts >= _MOST_PARTS or bucket_bytes == ALIGNMENT
            route = feed_plan(self._plan_for(offer, entries, bucket_bytes), room if last else None)
            if route.nbytes <= room:
                self._fed = offer.digest, route
                return route
            parts = max(2 * parts, route.buffers)

    def _refused(self, epoch: int, error: SyncError) -> SyncOutcome:
        self._link.refuse(self._ranks, epoch, str(error))
        names = tuple(one.tensor for one in error.refusals) if isinstance(error, PlanRefused) else ()
        return SyncOutcome(False, epoch, "begin", str(error), tensors=names)

    def _kept_dtypes(self, entries: Mapping[int, Entry]) -> dict[str, str]:
        """Dtype that receivers keep each tensor in, by plain name."""
        kept: dict[str, str] = {}
        for digest in {entry.declared for entry in entries.values()}:
            for of in self._directory.declaration(digest).destinations:
                for part in of.parts:
                    kept.update(dict.fromkeys(part.tensors, of.dtype))
        return kept

    def _queued(self, bucket: Bucket) -> None:
        if self._progress is None or self._plan is None:
            return
        count, nbytes = self._done
        self._done = count + 1, nbytes + bucket.nbytes
        total = sum(one.nbytes for one in self._plan.buckets)
        self._progress(Progress(self._done[1], total, self._done[0], len(self._plan.buckets)))


def _widened(named_tensors: Mapping[str, torch.Tensor], kept: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Tensors in the dtype that receivers keep, where that is a wider float (GDN's A_log in vLLM)."""
    from hardpoint.sync.dtypes import dtype_name, torch_dtype

    found = {}
    for name, tensor in named_tensors.items():
        plain = plain_name(name)
        if plain in found:
            raise SyncError(f"Tensor {plain} is given twice in one update.")
        wanted = _wanted(dtype_name(tensor.dtype), kept.get(plain))
        found[plain] = tensor.detach().to(torch_dtype(wanted))
    return found


def _announced(specs: Iterable[TensorSpec], kept: Mapping[str, str]) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """What `_widened` would give of tensors with `specs`, without data; and the dtypes of those that it would widen."""
    import torch

    from hardpoint.sync.dtypes import torch_dtype

    announced: dict[str, str] = {}
    found: dict[str, torch.Tensor] = {}
    for spec in specs:
        plain = plain_name(spec.name)
        if plain in found:
            raise SyncError(f"Tensor {plain} is announced twice in one update.")
        wanted = _wanted(spec.dtype, kept.get(plain))
        if wanted != spec.dtype:
            announced[plain] = spec.dtype
        found[plain] = torch.empty(spec.shape, dtype=torch_dtype(wanted), device="meta")
    return announced, found


def _wanted(dtype: str, kept: str | None) -> str:
    return kept if kept is not None and (dtype, kept) in _WIDER else dtype


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
