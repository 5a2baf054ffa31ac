"""`Planner`: a plan is made once; the same question is answered from memory."""

from __future__ import annotations

from collections.abc import Mapping

from hardpoint.sync.manifest import DEFAULT_BUCKET_BYTES
from hardpoint.sync.plan.coordinates import Coordinates
from hardpoint.sync.plan.model import ModelSpec
from hardpoint.sync.plan.offer import Offer
from hardpoint.sync.plan.plan import SyncPlan, make_plan


class Planner:
    """Plans for one model and its receivers. Keeps the last plan of each distinct offer, up to `kept`."""

    def __init__(
        self,
        model: ModelSpec,
        receivers: Mapping[int, Coordinates],
        *,
        bucket_bytes: int = DEFAULT_BUCKET_BYTES,
        kept: int = 2,
    ) -> None:
        self._model = model
        self._receivers = dict(receivers)
        self._bucket_bytes = bucket_bytes
        self._kept = kept
        self._plans: dict[str, SyncPlan] = {}

    def plan(self, offer: Offer) -> SyncPlan:
        """The plan for `offer`; for one that was planned before, the same object.

        Raises:
            PlanRefused: see `make_plan`. A refusal is not kept.
        """
        known = self._plans.pop(offer.digest, None)
        if known is None:
            known = make_plan(
                offer,
                self._model.receivers(self._receivers),
                ignored=self._model.ignored,
                bucket_bytes=self._bucket_bytes,
            )
        self._plans[offer.digest] = known  # at the end: the oldest goes first
        while len(self._plans) > self._kept:
            del self._plans[next(iter(self._plans))]
        return known
