"""`Graphs`: capture and replay, only where it is known to work.

Laws: unsupported is refused or run eagerly, said aloud; allocation and cold kernel loads inside a capture are errors;
a replay does the captured work on the captured addresses; kernels stay loaded while a graph may replay them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable


class Graph(Protocol):
    """A captured graph."""

    def replay(self) -> None: ...


@runtime_checkable
class Graphs(Protocol):
    """Graph capture of one backend."""

    def supported(self, device_index: int, model: str = "", dtype: str = "") -> str | None:
        """None if capture is allowed for this combination, else the reason as a sentence."""
        ...

    def capture(self, device_index: int) -> AbstractContextManager[Graph]:
        """Record what the block does. Raises CaptureRefused with the reason where capture is not supported."""
        ...

    def capturing(self) -> bool:
        """The calling thread's current stream is being captured."""
        ...
