"""Where an update lies until the decision, one class for each mode. Each can commit, or give back what was there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch

from hardpoint.errors import SyncError
from hardpoint.sync.plan import Bucket, Storages
from hardpoint.sync.transaction.mode import Mode

if TYPE_CHECKING:
    from hardpoint.sync.stream import BoxKernels, Keeper, Launch
    from hardpoint.sync.stream import Undo as Kept

Keep = Callable[[Storages], "Kept"]


class Staging(Protocol):
    """One update on one rank.

    Attributes:
        serves: whether the old weights may answer while this fills.
        in_place: `target` is what serves.
        target: the storages that the update is in, to read its digests from.
    """

    @property
    def serves(self) -> bool: ...

    @property
    def in_place(self) -> bool: ...

    @property
    def target(self) -> Storages: ...

    def land(self, bucket: Bucket, payload: torch.Tensor) -> None:
        """Take one bucket."""
        ...

    def stream_into(self, keep: Keep, stop: Callable[[], None]) -> Keeper | None:
        """Called instead of `land`, once: another thread is going to write into `target`.

        Args:
            keep: makes what puts live values aside before they are overwritten; the answer is to be asked for each.
            stop: ends that thread's writing, for `abort`.
        """
        ...

    def prepare(self) -> None:
        """Called once all is verified and the engine is paused, before this rank says yes: the last chance to refuse.

        What can fail in a commit and can be undone belongs here. What it raises is this rank's no; `abort` follows.
        """
        ...

    def commit(self) -> None:
        """Make the update the live weights, at their addresses. If it raises, the live weights are undefined."""
        ...

    def abort(self) -> bool:
        """Go back. True if the live weights are bit by bit what they were before the first `land`."""
        ...


class Shadow:
    """See `Mode.SHADOW`.

    Args:
        kernels: the commit is one launch of theirs, bound before the vote; None: one copy for each parameter.
    """

    serves = True
    in_place = False

    def __init__(self, live: Storages, kernels: BoxKernels | None = None) -> None:
        self._live, self._kernels = live, kernels
        self._launch: Launch | None = None
        self.target = live.like()

    def land(self, bucket: Bucket, payload: torch.Tensor) -> None:
        """See `Staging.land`."""
        self.target.land(bucket, payload)

    def stream_into(self, keep: Keep, stop: Callable[[], None]) -> Keeper | None:
        """Nothing that counts is overwritten, and what comes late is written to nobody's memory."""
        return None

    def prepare(self) -> None:
        """See `Staging.prepare`: bind the commit, so that what can fail in that does so before the yes."""
        self.target.clear_padding()
        if self._kernels is not None:
            from hardpoint.sync.stream import bind_commit

            self._launch = bind_commit(self._kernels, self._live, self.target)

    def commit(self) -> None:
        """See `Staging.commit`."""
        if self._launch is not None:
            self._launch()
        else:
            self._live.copy_from(self.target)

    def abort(self) -> bool:
        """See `Staging.abort`."""
        return True


class Undo:
    """See `Mode.UNDO`. Values are kept before they are overwritten, and put back in reverse order."""

    serves = False
    in_place = True

    def __init__(self, live: Storages) -> None:
        self.target = live
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._keeper: Kept | None = None
        self._stop: Callable[[], None] | None = None

    def land(self, bucket: Bucket, payload: torch.Tensor) -> None:
        """See `Staging.land`."""
        for view in self.target.views(bucket):
            self._kept.append((view, view.to("cpu", copy=True)))
        self.target.land(bucket, payload)

    def stream_into(self, keep: Keep, stop: Callable[[], None]) -> Keeper | None:
        """See `Staging.stream_into`."""
        self._keeper, self._stop = keep(self.target), stop
        return self._keeper

    def prepare(self) -> None:
        """Nothing to do: see `Staging.prepare`."""

    def commit(self) -> None:
        """See `Staging.commit`."""
        self.target.clear_padding()
        self._kept.clear()
        if self._keeper is not None:
            self._keeper.forget()

    def abort(self) -> bool:
        """See `Staging.abort`."""
        if self._stop is not None and self._keeper is not None:
            self._stop()
            self._keeper.restore()
        while self._kept:
            view, old = self._kept.pop()
            view.copy_(old)
        return True


class Off:
    """See `Mode.OFF`."""

    serves = False
    in_place = True

    def __init__(self, live: Storages) -> None:
        self.target = live
        self._touched = False

    def land(self, bucket: Bucket, payload: torch.Tensor) -> None:
        """See `Staging.land`."""
        self._touched = True
        self.target.land(bucket, payload)

    def stream_into(self, keep: Keep, stop: Callable[[], None]) -> Keeper | None:
        """See `Staging.stream_into`. Nothing is kept."""
        self._touched = True
        return None

    def prepare(self) -> None:
        """Nothing to do: see `Staging.prepare`."""

    def commit(self) -> None:
        """See `Staging.commit`."""
        self.target.clear_padding()

    def abort(self) -> bool:
        """See `Staging.abort`."""
        return not self._touched


def staging_for(mode: Mode, live: Storages, kernels: BoxKernels | None = None) -> Staging:
    """The staging of a chosen mode. Raises SyncError for ``auto``, which is a question and not a mode."""
    if mode is Mode.SHADOW:
        return Shadow(live, kernels)
    kinds: dict[Mode, type[Undo] | type[Off]] = {Mode.UNDO: Undo, Mode.OFF: Off}
    if mode not in kinds:
        raise SyncError(f"Mode {mode.value} must be chosen before an update is staged.")
    return kinds[mode](live)
