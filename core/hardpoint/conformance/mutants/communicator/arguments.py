"""Arguments that are not checked."""

from __future__ import annotations

from typing import Any

import torch

from hardpoint.backend import Backend
from hardpoint.conformance.mutants import _communicator as change
from hardpoint.conformance.mutants._proxy import Changed
from hardpoint.conformance.mutants.communicator._plant import plant
from hardpoint.errors import CommunicatorError, DeadlineExceeded

root_wraps_around = plant(
    "root-wraps-around",
    "wrong-shapes-are-refused",
    "`broadcast` takes its root modulo the number of ranks.",
    change.opened(
        lambda _, base, rendezvous: Changed(
            base,
            broadcast=lambda tensor, *, src, deadline=None: base.broadcast(
                tensor, src=src % base.world_size, deadline=deadline
            ),
        )
    ),
)


def _accepts(name: str, call: Any, *args: Any, **options: Any) -> None:
    try:
        call(*args, **options)
    except CommunicatorError as error:
        if "expected tensor" not in str(error) and "counts" not in str(error):
            raise


shapes_not_checked = plant(
    "shapes-are-not-checked",
    "wrong-shapes-are-refused",
    "A gather or scatter whose shapes or counts do not fit moves nothing and says nothing.",
    change.wrapped(_accepts, change.MOVING),
)


def _converts(name: str, call: Any, output: Any, tensor: Any, /, **options: Any) -> None:
    call(output, tensor.to(output.dtype), **options)


gather_converts = plant(
    "gather-converts-dtypes",
    "wrong-shapes-are-refused",
    "`all_gather` converts its input to the dtype of its output without a word.",
    change.wrapped(_converts, ("all_gather",)),
)


def _breaks_when_refusing(backend: Backend, base: Any, rendezvous: Any) -> Any:
    refused: list[bool] = []

    def run(name: str, call: Any, *args: Any, **options: Any) -> Any:
        if refused:
            raise CommunicatorError("the communicator is broken since a call was refused.")
        try:
            return call(*args, **options)
        except DeadlineExceeded:
            raise
        except CommunicatorError:
            refused.append(True)
            raise

    return change.around(base, run)


refusal_breaks = plant(
    "refusal-breaks-the-group",
    "wrong-shapes-are-refused",
    "After a call with a wrong shape was refused the communicator cannot be used any more.",
    change.opened(_breaks_when_refusing),
)


def _through_copies(name: str, call: Any, *args: Any, **options: Any) -> Any:
    dense = [arg.contiguous() if isinstance(arg, torch.Tensor) else arg for arg in args]
    return call(*dense, **options)


strided_not_written = plant(
    "strided-output-is-not-written",
    "strided-tensors-are-refused-or-right",
    "A tensor that is not contiguous is copied, the copy gets the result, and the tensor stays as it was.",
    change.wrapped(_through_copies, change.MOVING),
)


def _as_if_dense(name: str, call: Any, *args: Any, **options: Any) -> Any:
    def flat(arg: Any) -> Any:
        if not isinstance(arg, torch.Tensor) or arg.is_contiguous():
            return arg
        return arg.as_strided(arg.shape, torch.empty(arg.shape, device="meta").stride())

    return call(*[flat(arg) for arg in args], **options)


strides_ignored = plant(
    "strides-are-ignored",
    "strided-tensors-are-refused-or-right",
    "The storage of a gather's output is written as if it were contiguous.",
    change.wrapped(_as_if_dense, ("all_gather", "all_gather_ragged")),
)


def _hides_mismatch(backend: Backend, base: Any, rendezvous: Any) -> Any:
    """What a native library does to whom the ranks' calls look alike: it comes back."""
    hidden: list[bool] = []

    def run(name: str, call: Any, *args: Any, **options: Any) -> Any:
        if hidden:
            return None
        try:
            return call(*args, **options)
        except DeadlineExceeded:
            raise
        except CommunicatorError as error:
            if "disagree" not in str(error):
                raise
            hidden.append(True)
            return None

    return change.around(base, run, change.COLLECTIVES)


mismatch_unnoticed = plant(
    "mismatch-is-not-noticed",
    "different-calls-are-an-error",
    "Ranks that make different calls all come back as if they had made the same.",
    change.opened(_hides_mismatch),
)


def _mismatch_told_to_one(backend: Backend, base: Any, rendezvous: Any) -> Any:
    return _hides_mismatch(backend, base, rendezvous) if base.rank else base


mismatch_told_to_rank_0 = plant(
    "mismatch-is-told-to-rank-0-only",
    "different-calls-are-an-error",
    "Of ranks that make different calls only rank 0 is told.",
    change.opened(_mismatch_told_to_one),
)


def _root_uncompared(backend: Backend, base: Any, rendezvous: Any) -> Any:
    def broadcast(tensor: Any, /, *, src: int, deadline: float | None = None) -> None:
        if not 0 <= src < base.world_size:
            base.broadcast(tensor, src=src, deadline=deadline)
            return
        every = torch.empty((base.world_size, *tensor.shape), dtype=tensor.dtype, device=tensor.device)
        base.all_gather(every.view(-1), tensor.view(-1), deadline=deadline)
        tensor.copy_(every[src])

    return Changed(base, broadcast=broadcast)


roots_not_compared = plant(
    "roots-are-not-compared",
    "different-calls-are-an-error",
    "Ranks that broadcast from different roots each get what they asked for.",
    change.opened(_root_uncompared),
)
