"""The collectors. Made on first use: vLLM sets Prometheus up for several processes before that, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@dataclass(frozen=True)
class Collectors:
    """Attributes:
    seconds: ``hardpoint:weight_update_seconds``, from start_weight_update to the commit, of committed updates.
    bytes: ``hardpoint:weight_update_bytes_total``, payload of committed updates as the slowest worker received it.
    updates: ``hardpoint:weight_updates_total``, label `outcome`: committed or aborted.
    aborts: ``hardpoint:weight_update_aborts_total``, label `step`: the call in which it ended (join, start, update,
        finish).
    version: ``hardpoint:weight_version``, the epoch that serves; -1 before the first update.
    """

    seconds: Histogram
    bytes: Counter
    updates: Counter
    aborts: Counter
    version: Gauge

    @classmethod
    def on(cls, registry: CollectorRegistry) -> Collectors:
        """New ones on `registry`; a registry takes each name once."""
        from prometheus_client import Counter, Gauge, Histogram

        made = cls(
            seconds=Histogram(
                "hardpoint:weight_update_seconds",
                "Seconds from start_weight_update to the commit, of committed updates.",
                buckets=BUCKETS,
                registry=registry,
            ),
            bytes=Counter(
                "hardpoint:weight_update_bytes", "Payload bytes of committed weight updates.", registry=registry
            ),
            updates=Counter("hardpoint:weight_updates", "Weight updates by outcome.", ["outcome"], registry=registry),
            aborts=Counter(
                "hardpoint:weight_update_aborts",
                "Weight updates that did not commit, by the call in which they ended.",
                ["step"],
                registry=registry,
            ),
            version=Gauge(
                "hardpoint:weight_version",
                "Epoch of the weights that serve, -1 before the first update.",
                multiprocess_mode="mostrecent",
                registry=registry,
            ),
        )
        for outcome in ("committed", "aborted"):
            made.updates.labels(outcome)  # a counter that is there at 0 can be alerted on
        made.version.set(-1)
        return made


_made: Collectors | None = None
_lock = Lock()


def collectors() -> Collectors:
    """Those of this process, on the registry that vLLM's own metrics are on."""
    global _made
    with _lock:
        if _made is None:
            from prometheus_client import REGISTRY

            _made = Collectors.on(REGISTRY)
        return _made
