"""Holds what receivers need against what the trainer offers; collects every difference by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hardpoint.moe import CHECKPOINT_FORMATS
from hardpoint.sync.manifest import TensorSpec
from hardpoint.sync.plan.cover import cover_fault
from hardpoint.sync.plan.destination import Destination, Part
from hardpoint.sync.plan.names import is_adapter
from hardpoint.sync.plan.offer import Offer
from hardpoint.sync.plan.refusal import Kind, Refusal
from hardpoint.sync.plan.strides import Ints, extent, injective, volume

Shards = Sequence[tuple[int, tuple[Destination, ...]]]  # first rank that holds it, what it holds


def index_by_name(offer: Offer) -> dict[str, int]:
    """Number of each tensor; of two with one name, the first (`refusals` tells)."""
    index: dict[str, int] = {}
    for number, spec in enumerate(offer.tensors):
        index.setdefault(spec.name, number)
    return index


def refusals(
    offer: Offer, index: dict[str, int], shards: Shards, ignored: Iterable[tuple[str, str]]
) -> tuple[Refusal, ...]:
    """Every reason why `offer` does not fill all shards exactly; empty if it does."""
    found = _Findings()
    names: set[str] = set()
    for spec in offer.tensors:
        if spec.name in names:
            found.add("duplicate", spec.name, -1, f"Tensor {spec.name} is sent twice.")
        names.add(spec.name)
    formats = dict(offer.formats)
    used: set[str] = set()
    seen: set[tuple[int, Ints, str, str]] = set()  # what holds on one rank holds on all with the same names
    checked: set[int] = set()
    for rank, destinations in shards:
        for destination in destinations:
            if id(destination) in checked:
                continue
            checked.add(id(destination))
            _check_storage(found, destination, rank)
            for part in destination.parts:
                question = (id(part.tensors), part.shape, part.form, destination.dtype)
                if question not in seen:
                    seen.add(question)
                    used.update(part.tensors)
                    _check_part(found, offer, index, part, destination, rank, formats)
    allowed = dict(ignored)
    if len(used) != len(offer.tensors) or found:
        for spec in offer.tensors:
            if spec.name not in used and spec.name not in allowed:
                _extra(found, spec)
    return found.all()


class _Findings:
    """One per (kind, tensor): what is wrong on many ranks is told once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Refusal] = {}
        self.otherwise: set[str] = set()  # names that a layout refusal has explained already

    def add(self, kind: Kind, tensor: str, rank: int, sentence: str) -> None:
        self._found.setdefault((kind, tensor), Refusal(kind, tensor, rank, sentence))

    def __bool__(self) -> bool:
        return bool(self._found)

    def all(self) -> tuple[Refusal, ...]:
        return tuple(
            refusal
            for refusal in self._found.values()
            if not (refusal.kind == "extra" and refusal.tensor in self.otherwise)
        )


def _missing(
    found: _Findings, tensor: str, part: Part, destination: Destination, rank: int, index: dict[str, int]
) -> None:
    other = _other_form(tensor, index)
    if other is not None:
        name, form = other
        found.otherwise.update(_names_of(name))
        found.add(
            "layout",
            name,
            rank,
            f"Tensor {name} is in the {form} checkpoint format, but {destination.parameter} on rank {rank} is declared "
            f"to be filled from {tensor}; declare the format that the trainer sends.",
        )
        return
    found.add(
        "missing",
        tensor,
        rank,
        f"Tensor {tensor} {destination.dtype}{list(part.shape)} is missing: rank {rank} needs it for "
        f"{destination.parameter}.",
    )


def _other_form(wanted: str, index: dict[str, int]) -> tuple[str, str] | None:
    """A tensor that is there and holds the same experts in another format's name."""
    layer, experts, tail = wanted.partition(".experts.")
    if not experts:
        return None
    expert = tail.split(".")[0]
    for form in CHECKPOINT_FORMATS:
        for pattern in dict.fromkeys(form.patterns):
            name = f"{layer}.{pattern.replace('{expert}', expert if expert.isdigit() else '0')}"
            if name in index and name != wanted and not _same_pattern(wanted, layer, form.patterns):
                return name, form.name
    return None


def _same_pattern(wanted: str, layer: str, patterns: Sequence[str]) -> bool:
    tail = wanted.removeprefix(f"{layer}.")
    parts = tail.split(".")
    generic = ".".join("{expert}" if part.isdigit() else part for part in parts)
    return generic in patterns


def _names_of(name: str) -> set[str]:
    layer, _, tail = name.partition(".experts.")
    expert = tail.split(".")[0]
    return {
        f"{layer}.{pattern.replace('{expert}', expert)}" for form in CHECKPOINT_FORMATS for pattern in form.patterns
    }


def _check_part(
    found: _Findings,
    offer: Offer,
    index: dict[str, int],
    part: Part,
    destination: Destination,
    rank: int,
    formats: dict[str, str],
) -> None:
    shape, dtype, plain = part.shape, destination.dtype, not part.form
    for tensor in part.tensors:
        number = index.get(tensor)
        if number is None:
            _missing(found, tensor, part, destination, rank, index)
            continue
        spec = offer.tensors[number]
        if not (plain and spec.shape == shape and spec.dtype == dtype):
            _check_tensor(found, spec, part, destination, rank, formats)


def _check_tensor(
    found: _Findings, spec: TensorSpec, part: Part, destination: Destination, rank: int, formats: dict[str, str]
) -> None:
    where = f"{destination.parameter} on rank {rank}"
    if part.form:
        declared = formats.get(spec.name)
        if declared is None:
            found.add(
                "layout",
                spec.name,
                rank,
                f"Tensor {spec.name} holds all experts and its format is not declared; {where} expects {part.form}. "
                f"Its shape does not tell: say which format it is.",
            )
        elif declared != part.form:
            found.add(
                "layout",
                spec.name,
                rank,
                f"Tensor {spec.name} is declared in the {declared} checkpoint format, {where} expects {part.form}.",
            )
    if spec.shape != part.shape:
        found.add(
            "shape",
            spec.name,
            rank,
            f"Tensor {spec.name} has shape {list(spec.shape)}, {where} expects {list(part.shape)} (uncut, as in the "
            f"checkpoint).",
        )
    if spec.dtype != destination.dtype:
        found.add(
            "dtype",
            spec.name,
            rank,
            f"Tensor {spec.name} has dtype {spec.dtype}, {where} is {destination.dtype}; convert it in the trainer, "
            f"nothing is converted on the way.",
        )


def _extra(found: _Findings, spec: TensorSpec) -> None:
    if is_adapter(spec.name):
        found.add(
            "adapter",
            spec.name,
            -1,
            f"Tensor {spec.name} belongs to an adapter: merge it into its base weight first, or publish the adapter.",
        )
        return
    found.add("extra", spec.name, -1, f"Tensor {spec} is sent, and no receiver has a place for it.")


def _check_storage(found: _Findings, destination: Destination, rank: int) -> None:
    """That parts and padding fill the grid exactly, and that the grid is the storage, each element once."""
    grid, strides = destination.grid, destination.strides
    where = f"parameter {destination.parameter} {list(destination.shape)} on rank {rank}"
    for part in destination.parts:
        sentence = _beyond_its_tensor(part, len(grid), where)
        if sentence:
            found.add("coverage", destination.parameter, rank, sentence)
            return
    if (
        len(strides) != len(grid)
        or volume(grid) != volume(destination.shape)
        or not injective(grid, strides)
        or extent(grid, strides) != volume(grid)
    ):
        found.add(
            "coverage",
            destination.parameter,
            rank,
            f"The grid {list(grid)} with strides {list(strides)} does not name each element of {where} exactly once.",
        )
        return
    boxes = (*(part.box for part in destination.parts), *destination.zeros)
    for number, (lows, sizes) in enumerate(boxes):
        if {len(lows), len(sizes)} != {len(grid)} or any(
            low < 0 or size < 1 or low + size > end for low, size, end in zip(lows, sizes, grid, strict=True)
        ):
            found.add(
                "coverage",
                destination.parameter,
                rank,
                f"{_source(destination, number)} goes to {list(lows)} and {list(sizes)} beyond the grid {list(grid)} "
                f"of {where}.",
            )
            return
    fault = cover_fault(grid, boxes)
    if fault is None:
        return
    if fault.kind == "gap":
        sentence = f"Nothing writes element {list(fault.at)} of the grid {list(grid)} of {where}."
    else:
        both = " and ".join(_source(destination, number) for number in fault.boxes[:2])
        sentence = f"Element {list(fault.at)} of the grid {list(grid)} of {where} would be written twice, by {both}."
    found.add("coverage", destination.parameter, rank, sentence)


def _beyond_its_tensor(part: Part, axes: int, where: str) -> str:
    """Why a part is no box of its tensors, empty if it is one: what lies beside them is not a receiver's to read."""
    if not part.tensors or {len(part.lows), len(part.sizes), len(part.strides)} != {axes}:
        return f"A part of {where} does not name its tensors, or a number for each of {axes} axes."
    last = part.offset + extent(part.sizes, part.strides)
    if part.offset < 0 or min(part.strides, default=0) < 0 or last > volume(part.shape):
        return (
            f"A part of {where} reads elements {part.offset} to {last - 1} of {part.tensors[0]}, which has "
            f"{volume(part.shape)} in its shape {list(part.shape)}."
        )
    return ""


def _source(destination: Destination, box: int) -> str:
    if box >= len(destination.parts):
        return "padding"
    first, *others = destination.parts[box].tensors
    return f"{first} to {others[-1]}" if others else first
