"""The commit of mode shadow as one launch: the second copy into the live parameters, at their addresses."""

from __future__ import annotations

from hardpoint.moe.views import words
from hardpoint.sync.plan import Storages
from hardpoint.sync.stream.boxes import BoxKernels, Launch


def bind_commit(kernels: BoxKernels, live: Storages, staged: Storages) -> Launch:
    """A launch, in the caller's stream, of what ``live.copy_from(staged)`` does, while both keep their storages.

    Bind it before the vote: what can fail then costs nobody anything.
    """
    pairs = zip(live.tensors, staged.tensors, strict=True)
    flat = [(words(ours.detach()).reshape(-1), words(theirs.detach()).reshape(-1)) for ours, theirs in pairs]
    return kernels.copy(flat, alone=True)
