"""Where a model's own loaders put each checkpoint tensor, watched at its first load: the declaration of a plan.

Every weight loader ends in copies of a view of a checkpoint tensor into a view of a parameter, and fills of padding. If
that is all that happens to a parameter, its content is a set of boxes, and any trainer can be planned to fill the same
boxes with new values: on this rank, with its tensor and expert parallel shards, without a rule per model family. A
parameter that something else is done to (a sum, a conversion through a temporary) is opaque: it is named, and a model
that has one is not planned.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hardpoint.errors import SyncError
from hardpoint.sync.dtypes import ITEMSIZE
from hardpoint.sync.plan import Destination, Part
from hardpoint.sync.plan.strides import Ints, contiguous

_FILLS = frozenset({"aten::fill_", "aten::zero_"})


@dataclass(frozen=True)
class Copied:
    """A box of a checkpoint tensor that went into a box of a parameter; strides in elements, one per axis there."""

    tensor: str
    shape: Ints
    offset: int
    strides: Ints
    lows: Ints
    sizes: Ints


@dataclass
class Placed:
    """What a first load did to one parameter: copies in order, boxes of zeros, and why it is opaque, if it is."""

    shape: Ints
    dtype: str
    copies: list[Copied] = field(default_factory=list)
    zeros: list[tuple[Ints, Ints]] = field(default_factory=list)
    opaque: str = ""


@dataclass(frozen=True, order=True)
class _Given:
    """A checkpoint tensor in memory; `tensor` is a weak reference."""

    start: int
    nbytes: int
    name: str
    shape: Ints
    tensor: Any = field(compare=False)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation that writes in place; counts them, and notes those on `parameters`."""

    def __init__(self, parameters: Mapping[str, torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0
        self.placed = {
            name: Placed(tuple(of.shape), str(of.dtype).removeprefix("torch.")) for name, of in parameters.items()
        }
        self._storages: dict[int, str] = {}
        self._parameters = dict(parameters)
        for name, of in parameters.items():
            self._storages.setdefault(_storage(of), name)
        self._given: dict[int, list[_Given]] = {}  # by storage, ascending

    def give(self, name: str, tensor: torch.Tensor) -> None:
        """A checkpoint tensor that the loaders are about to get. Many may share one storage: a mapped file."""
        if tensor.device.type == "meta" or not tensor.is_contiguous() or tensor.numel() == 0:
            return
        alive = [given for given in self._given.get(_storage(tensor), ()) if given.tensor() is not None]
        bisect.insort(alive, _Given(tensor.data_ptr(), tensor.nbytes, name, tuple(tensor.shape), ref(tensor)))
        self._given[_storage(tensor)] = alive

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable:
            self.count += 1
            self._note(func._schema.name, args)
        return func(*args, **(kwargs or {}))

    def _note(self, name: str, args: Any) -> None:
        target = args[0] if args else None
        if not isinstance(target, torch.Tensor) or target.device.type == "meta":
            return
        parameter = self._storages.get(_storage(target))
        if parameter is None:
            return
        placed, whole = self.placed[parameter], self._parameters[parameter]
        try:
            if name == "aten::copy_" and isinstance(args[1], torch.Tensor):
                placed.copies.append(self._copied(whole, target, args[1]))
            elif name in _FILLS and (name == "aten::zero_" or args[1] == 0):
                lows, sizes, _ = _box(whole, target, target)
                if 0 not in sizes:
                    placed.zeros.append((lows, sizes))
            else:
                raise SyncError(f"{name} was done to it")
        except SyncError as error:
            placed.opaque = placed.opaque or str(error)

    def _copied(self, whole: torch.Tensor, target: torch.Tensor, source: torch.Tensor) -> Copied:
        given = self._source(source)
        if given is None:
            raise SyncError("it was filled from a value that was computed")
        name, shape = given.name, given.shape
        if source.shape != target.shape:
            raise SyncError(f"{name} was broadcast into it")
        lows, sizes, strides = _box(whole, target, source)
        return Copied(name, shape, (source.data_ptr() - given.start) // source.element_size(), strides, lows, sizes)

    def _source(self, source: torch.Tensor) -> _Given | None:
        """The checkpoint tensor that `source` is a view of."""
        if source.device.type == "meta" or source.numel() == 0:
            return None
        known = self._given.get(_storage(source), [])
        at = bisect.bisect_right(known, source.data_ptr(), key=lambda given: given.start) - 1
        if at < 0:
            return None
        found, whole = known[at], known[at].tensor()
        inside = source.data_ptr() < found.start + found.nbytes
        return found if whole is not None and inside and whole.dtype == source.dtype else None


def destinations(placed: Mapping[str, Placed]) -> tuple[Destination, ...]:
    """What this rank declares: all parameters that something was loaded into.

    Raises:
        SyncError: parameters are opaque, or have a dtype that cannot be sent; all are named.
    """
    wrong = [f"{name} ({of.opaque})" for name, of in placed.items() if of.opaque]
    wrong += [f"{name} ({of.dtype})" for name, of in placed.items() if of.copies and of.dtype not in ITEMSIZE]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise SyncError(
            f"This model's loaders do more than to place tensors, so that an update cannot be planned: "
            f"{'; '.join(wrong[:5])}{more}. Send whole tensors instead, by name: path 'whole'."
        )
    found = []
    for name, of in placed.items():
        if of.copies:
            grid = of.shape or (1,)
            parts = tuple(_merged(_last(of.copies)))
            found.append(Destination(name, of.dtype, of.shape, grid, contiguous(grid), parts, tuple(of.zeros)))
    return tuple(found)


def _last(copies: Iterable[Copied]) -> list[Copied]:
    """Of two copies into the same box the later one counts, as it did in the load."""
    by_box = {(copied.lows, copied.sizes): copied for copied in copies}
    return list(by_box.values())


def _merged(copies: Iterable[Copied]) -> Iterable[Part]:
    """Parts; equal boxes of many tensors, one after the other along the first axis (experts), are one part."""
    groups: dict[tuple[Any, ...], list[Copied]] = {}
    for copied in copies:
        key = (copied.shape, copied.offset, copied.strides, copied.lows[1:], copied.sizes)
        groups.setdefault(key, []).append(copied)
    for group in groups.values():
        group.sort(key=lambda copied: copied.lows[0])
        start = 0
        for at in range(1, len(group) + 1):
            step = group[start].sizes[0]
            if at < len(group) and group[at].lows[0] == group[start].lows[0] + (at - start) * step:
                continue
            first = group[start]
            names = tuple(copied.tensor for copied in group[start:at])
            yield Part(names, first.shape, "", first.offset, first.strides, first.lows, first.sizes)
            start = at


def _box(whole: torch.Tensor, target: torch.Tensor, source: torch.Tensor) -> tuple[Ints, Ints, Ints]:
    """`target`, a view of the contiguous parameter `whole`, as lows and sizes on its axes, with `source`'s strides.

    Raises:
        SyncError: it is no box.
    """
    if not whole.is_contiguous():
        raise SyncError("it is not contiguous")
    shape = tuple(whole.shape) or (1,)
    steps = contiguous(shape)
    offset = target.storage_offset() - whole.storage_offset()
    lows = []
    for size, step in zip(shape, steps, strict=True):
        lows.append(offset // step % size if size else 0)
    sizes, strides = [1] * len(shape), [1] * len(shape)
    waiting = [dim for dim in zip(target.shape, target.stride(), source.stride(), strict=True) if dim[0] != 1]
    if math.prod(target.shape) == 0:
        return tuple(lows), (0,) * len(shape), tuple(strides)
    while waiting:
        size, step, other = waiting.pop()
        axis = next(
            (n for n, (count, own) in enumerate(zip(shape, steps, strict=True)) if own == step and count > 1), None
        )
        if axis is None or sizes[axis] != 1:
            raise SyncError("a view that is no box of it was written")
        inside = min(size, shape[axis] - lows[axis])
        if inside < size:  # it goes on along the next axis outwards
            if lows[axis] or size % shape[axis]:
                raise SyncError("a view that is no box of it was written")
            waiting.append((size // shape[axis], step * shape[axis], other * shape[axis]))
            inside = shape[axis]
        sizes[axis], strides[axis] = inside, other
    return tuple(lows), tuple(sizes), tuple(strides)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
