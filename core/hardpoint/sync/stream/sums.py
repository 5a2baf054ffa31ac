"""`Sums`: the digests of a stream while it runs, as sums on the device; read once, when all of it is there."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from hardpoint.sync.digest import sums_digest
from hardpoint.sync.plan import Bucket
from hardpoint.sync.stream.boxes import sums_length
from hardpoint.sync.stream.memory import host_memory

DIFFERENT = b"landings differ"  # as `transaction.digests.stored_digest` says it


class Sums:
    """One row of sums for each bucket and each time that it lands.

    Args:
        repeats: buckets, and how often their boxes land here: 2 where tied weights have two storages. All must agree.
    """

    def __init__(self, repeats: Iterable[tuple[Bucket, int]], device: torch.device) -> None:
        self._rows: list[tuple[Bucket, int, int]] = []  # bucket, start, length
        self._places: dict[tuple[int, int], int] = {}
        total = 0
        for bucket, count in repeats:
            for repeat in range(count):
                length = sums_length(bucket.nbytes)
                self._places[bucket.index, repeat] = len(self._rows)
                self._rows.append((bucket, total, length))
                total += length
        self._values = torch.zeros(total, dtype=torch.int64, device=device)
        self._host = host_memory(8 * total, device).view(torch.int64)

    def row(self, bucket: int, repeat: int = 0) -> torch.Tensor:
        """Sums of one landing of a bucket, int64, on the device."""
        _, start, length = self._rows[self._places[bucket, repeat]]
        return self._values[start : start + length]

    def fetch(self) -> None:
        """Queue the way to the host, in the current stream, and zeros for the next update."""
        self._host.copy_(self._values, non_blocking=True)
        self._values.zero_()

    def digests(self) -> dict[int, bytes]:
        """Bucket -> digest, once what `fetch` queued is done."""
        values = self._host.numpy().astype("<i8", copy=False).tobytes()
        found: dict[int, bytes] = {}
        for bucket, start, length in self._rows:
            digest = sums_digest(f"uint8[{bucket.nbytes}]", values[8 * start : 8 * (start + length)])
            if found.setdefault(bucket.index, digest) != digest:
                found[bucket.index] = DIFFERENT
        return found
