"""`NoGraphs`: the part of a backend that cannot capture. It refuses with the reason, and never pretends."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from hardpoint.errors import CaptureRefused
from hardpoint.graphs.protocol import Graph


@dataclass(frozen=True)
class NoGraphs:
    """Refuses every capture.

    Attributes:
        reason: why, as a sentence that stands alone; it is what users read.
    """

    reason: str = "this backend captures no graphs: its work runs eagerly"

    def supported(self, device_index: int, model: str = "", dtype: str = "") -> str | None:
        return self.reason

    def capture(self, device_index: int) -> AbstractContextManager[Graph]:
        """Raises CaptureRefused at the call, not at ``with``: nothing of the block may run."""
        raise CaptureRefused(
            f"a graph capture on device {device_index} was asked for, but {self.reason}; run the work without a graph "
            "(ask Graphs.supported first)"
        )

    def capturing(self) -> bool:
        return False
