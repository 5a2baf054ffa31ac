"""The cover proof against brute force: it finds a fault exactly where counting finds one."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.sync.plan.cover import Box, cover_fault
from hardpoint.sync.plan.strides import contiguous, injective, normal, volume


def counts(grid: tuple[int, ...], boxes: tuple[Box, ...]) -> dict[tuple[int, ...], int]:
    found = dict.fromkeys(product(*(range(size) for size in grid)), 0)
    for lows, sizes in boxes:
        for point in product(*(range(low, low + size) for low, size in zip(lows, sizes, strict=True))):
            found[point] += 1
    return found


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[Box, ...]]:
    """A grid and an exact cover by splitting, perhaps spoilt by moving, dropping, growing or adding one box."""
    grid = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    boxes: list[Box] = [((0,) * len(grid), grid)]
    for _ in range(draw(st.integers(0, 6))):
        lows, sizes = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        axis = draw(st.integers(0, len(grid) - 1))
        if sizes[axis] == 1:
            boxes.append((lows, sizes))
            continue
        first = draw(st.integers(1, sizes[axis] - 1))
        cut = list(lows)
        cut[axis] += first
        one, two = list(sizes), list(sizes)
        one[axis], two[axis] = first, sizes[axis] - first
        boxes += [(lows, tuple(one)), (tuple(cut), tuple(two))]
    spoil = draw(st.sampled_from(["no", "drop", "add", "move"]))
    number = draw(st.integers(0, len(boxes) - 1))
    if spoil == "drop":
        boxes.pop(number)
    if spoil in ("add", "move"):
        size = tuple(draw(st.integers(1, n)) for n in grid)
        low = tuple(draw(st.integers(0, n - s)) for n, s in zip(grid, size, strict=True))
        boxes[number : number + (spoil == "move")] = [(low, size)]
    return grid, tuple(draw(st.permutations(boxes)))


@settings(max_examples=400)
@given(cases())
def test_agrees_with_counting(case: tuple[tuple[int, ...], tuple[Box, ...]]) -> None:
    grid, boxes = case
    found = counts(grid, boxes)
    fault = cover_fault(grid, boxes)
    assert (fault is None) == all(count == 1 for count in found.values())
    if fault is not None:
        assert (found[fault.at] == 0) if fault.kind == "gap" else (found[fault.at] > 1)
        for box in fault.boxes:
            lows, sizes = boxes[box]
            assert all(low <= at < low + size for low, size, at in zip(lows, sizes, fault.at, strict=True))


def test_a_gap_and_an_overlap_of_one_size_do_not_cancel_out() -> None:
    boxes = (((0, 0), (2, 2)), ((0, 0), (1, 2)), ((2, 0), (1, 2)))  # volumes add up to the grid's
    assert sum(volume(sizes) for _, sizes in boxes) == volume((4, 2))
    fault = cover_fault((4, 2), boxes)
    assert fault is not None and fault.kind == "overlap" and fault.at == (0, 0) and set(fault.boxes) == {0, 1}


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), min_size=1, max_size=4))
def test_injective_never_passes_two_elements_in_one_place(dims: list[tuple[int, int]]) -> None:
    sizes, strides = tuple(d[0] for d in dims), tuple(d[1] for d in dims)
    places = [sum(p * s for p, s in zip(point, strides, strict=True)) for point in product(*(range(n) for n in sizes))]
    if injective(sizes, strides):
        assert len(set(places)) == len(places)


@settings(max_examples=300)
@given(
    st.permutations([0, 1, 2, 3]), st.permutations([0, 1, 2, 3]), st.lists(st.integers(1, 3), min_size=4, max_size=4)
)
def test_normal_is_the_same_copy_in_the_order_of_the_destination(
    source_order: list[int], destination_order: list[int], sizes: list[int]
) -> None:
    def strides(order: list[int]) -> tuple[int, ...]:
        of = contiguous(tuple(sizes[axis] for axis in order))
        return tuple(of[order.index(axis)] for axis in range(4))

    def pairs(box: tuple[int, ...], source: tuple[int, ...], destination: tuple[int, ...]) -> list[tuple[int, int]]:
        points = product(*(range(n) for n in box))
        return [
            (
                sum(a * b for a, b in zip(p, source, strict=True)),
                sum(a * b for a, b in zip(p, destination, strict=True)),
            )
            for p in points
        ]

    source, destination = strides(source_order), strides(destination_order)
    found = pairs(*normal(tuple(sizes), source, destination))
    assert sorted(found) == sorted(pairs(tuple(sizes), source, destination))
    assert [d for _, d in found] == sorted(d for _, d in found)
