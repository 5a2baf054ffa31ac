"""Who is told what together: the sets of receivers that buckets of a plan go to."""

from __future__ import annotations

from hardpoint.sync.plan import SyncPlan
from hardpoint.sync.stream.link import Audience


def audiences_of(plan: SyncPlan) -> tuple[Audience, ...]:
    """Distinct audiences of `plan`'s buckets, ascending; one communicator each in a `CommunicatorLink`."""
    return tuple(sorted({plan.audience(bucket) for bucket in plan.buckets}))
