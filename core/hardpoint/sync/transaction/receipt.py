"""What a rank has taken of an update, held against the plan and against what the trainer says it sent."""

from __future__ import annotations

from hardpoint.errors import SyncError
from hardpoint.sync.plan import Bucket, SyncPlan
from hardpoint.sync.transaction.digests import stored_digest
from hardpoint.sync.transaction.messages import Data, Verify
from hardpoint.sync.transaction.mode import Mode
from hardpoint.sync.transaction.phase import OpenUpdate


def bucket_of(data: Data, update: OpenUpdate, plan: SyncPlan, rank: int) -> Bucket:
    """The bucket that `data` is. SyncError if it is none of this update that `rank` waits for."""
    if data.epoch != update.begin.epoch:
        raise SyncError(f"a bucket of epoch {data.epoch} came in the update of epoch {update.begin.epoch}")
    bucket = next((one for one in plan.buckets_for(rank) if one.index == data.bucket), None)
    if bucket is None:
        raise SyncError(f"bucket {data.bucket} is not for this rank")
    if data.bucket in update.landed:
        raise SyncError(f"bucket {data.bucket} came twice")
    if data.payload.nbytes != bucket.nbytes:
        raise SyncError(f"bucket {data.bucket} must have {bucket.nbytes} bytes, found {data.payload.nbytes}")
    return bucket


def refuse_unlike(verify: Verify, update: OpenUpdate, plan: SyncPlan, rank: int) -> None:
    """Return if every bucket is here and what is stored of it has the digest of what was sent.

    Raises:
        SyncError: a bucket never came or differs; it names the tensors in it.
    """
    unverified = update.begin.mode is Mode.OFF and not verify.digests
    if len(verify.digests) != len(plan.buckets) and not unverified:
        raise SyncError(f"{len(verify.digests)} digests came for {len(plan.buckets)} buckets")
    for bucket in plan.buckets_for(rank):
        if bucket.index not in update.landed:
            why = f" ({update.cut})" if update.cut else ""
            raise SyncError(f"bucket {bucket.index} never came{why}: {_contents(plan, bucket.index)}")
    for bucket in () if unverified else plan.buckets_for(rank):
        stored = update.stored or {}
        found = stored.get(bucket.index) or stored_digest(update.staging.target, bucket)
        if found != verify.digests[bucket.index]:
            raise SyncError(
                f"what is stored of bucket {bucket.index} is not what was sent: {_contents(plan, bucket.index)}"
            )


def _contents(plan: SyncPlan, index: int) -> str:
    names = [plan.offer.tensors[n].name for _, move in plan.buckets[index].pieces for n in move.sources]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")
