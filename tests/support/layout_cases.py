"""Cases of the layout kernels against plain torch, bit by bit. Run as a program: python -m support.layout_cases DEVICE.

A program of its own, since Triton's interpreter (the device ``cpu``) is chosen when Triton is imported.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

import torch

from hardpoint.sync.digest import CHUNK_WORDS, multipliers, sums_digest, tensor_digest
from hardpoint.sync.stream import TorchBoxes, sums_length
from hardpoint_kernels.layout import copy_calls, digest_calls
from hardpoint_kernels.layout.reference import copy_boxes, digest_sums

DTYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)
SHAPES = ((5,), (64,), (3, 20), (16, 64), (65, 70), (2, 8, 24), (3, 9, 2, 16), (2, 3, 4, 5, 6))


def random_bits(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.randint(0, 256, (size,), dtype=torch.uint8).view(dtype).reshape(shape).to(device)


def boxes(device: str) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(storage, box in it, source): every shape and width; sources in several orders, boxes in larger storages."""
    found = []
    for dtype in DTYPES:
        for shape in SHAPES:
            for seed in range(3):
                order = list(range(len(shape)))
                random.Random(seed).shuffle(order)
                source = random_bits(tuple(shape[dim] for dim in order), dtype, device)
                source = source.permute([order.index(dim) for dim in range(len(shape))])
                margin = (0, 1, 8)[seed]
                storage = random_bits(tuple(size + margin for size in shape), dtype, device)
                found.append((storage, storage[tuple(slice(0, size) for size in shape)], source))
    return found


def case_copy_moves_every_bit_and_touches_nothing_else(device: str) -> None:
    cases = boxes(device)
    expected = []
    for storage, box, source in cases:
        whole = storage.clone()
        copy_boxes([(whole.as_strided(box.shape, box.stride()), source)])
        expected.append(whole)
    for call in copy_calls([(box, source) for _, box, source in cases], programs=3):
        call()
    for (storage, box, _), whole in zip(cases, expected, strict=True):
        assert torch.equal(storage, whole), (box.dtype, box.shape, box.stride())


def case_layouts_of_experts_there_and_back(device: str) -> None:
    """Gate and up of every expert into w13, w31, interleaved and transposed storages, padded or not, and out again."""
    experts, rows, hidden = 3, 40, 72
    gate, up = (random_bits((experts, rows, hidden), torch.int16, device) for _ in range(2))
    for padded in (rows, rows + 8):
        for order in ("w13", "w31", "interleaved"):
            for turned in (False, True):
                shape = (experts, hidden, 2 * padded) if turned else (experts, 2 * padded, hidden)
                storage = torch.zeros(shape, dtype=torch.int16, device=device)
                seen = storage.transpose(1, 2) if turned else storage
                halves = (seen[:, 0::2], seen[:, 1::2]) if order == "interleaved" else seen.chunk(2, 1)
                halves = halves[::-1] if order == "w31" else halves
                places = [half[:, :rows] for half in halves]
                pairs = [(place[e], part[e]) for place, part in zip(places, (gate, up), strict=True) for e in range(3)]
                for call in copy_calls(pairs, programs=5):
                    call()
                assert torch.equal(places[0], gate) and torch.equal(places[1], up), (padded, order, turned)
                back = torch.zeros_like(gate)
                for call in copy_calls([(back, places[0])], programs=5):
                    call()
                assert torch.equal(back, gate)


def case_digests_are_those_of_the_packed_bucket(device: str) -> None:
    factors = multipliers(torch.device(device))
    for number, (_, box, source) in enumerate(boxes(device)):
        for view in ((box,), (source,))[number % 2]:
            nbytes = 64 + view.numel() * view.element_size()
            expected = digest_sums([(64, view)], nbytes, factors)
            for make in (_by_kernel, lambda *a: TorchBoxes().digest(*a)()):
                sums = torch.zeros(sums_length(nbytes), dtype=torch.int64, device=device)
                make([(64, view)], sums, nbytes)
                assert torch.equal(sums.cpu(), expected), (view.dtype, view.shape, view.stride())
            packed = torch.zeros(nbytes, dtype=torch.uint8)
            packed[64:] = view.cpu().contiguous().reshape(-1).view(torch.uint8)
            assert sums_digest(f"uint8[{nbytes}]", expected.numpy().tobytes()) == tensor_digest(packed)


def case_digests_cross_chunks(device: str) -> None:
    """Boxes that begin in one chunk and end in another, and a bucket that ends inside a word, at every odd length."""
    factors = multipliers(torch.device(device))
    for over in (0, 1, 2, 3, 4, 7):
        nbytes = 4 * CHUNK_WORDS + 64 + over
        start = 4 * CHUNK_WORDS - 128
        one = random_bits((64,), torch.int16, device)
        two = random_bits((nbytes - start - 128,), torch.uint8, device)
        parts = [(0, random_bits((40,), torch.int64, device)), (start, one), (start + 128, two)]
        sums = torch.zeros(sums_length(nbytes), dtype=torch.int64, device=device)
        _by_kernel(parts, sums, nbytes)
        assert torch.equal(sums.cpu(), digest_sums(parts, nbytes, factors)), over


def case_digests_of_long_boxes(device: str) -> None:
    """Whole chunks, four at once and one by one, with ends; and long runs with gaps between them in storage."""
    factors = multipliers(torch.device(device))
    large = random_bits((5 * CHUNK_WORDS * 4 + 1000,), torch.uint8, device)
    wide = random_bits((4, 36000), torch.int16, device)[:, :35000]
    middle = random_bits((20, 30000), torch.int16, device)[:, :28808]
    for parts in ([(0, large)], [(128, wide)], [(0, middle)]):
        nbytes = parts[0][0] + parts[0][1].numel() * parts[0][1].element_size()
        sums = torch.zeros(sums_length(nbytes), dtype=torch.int64, device=device)
        _by_kernel(parts, sums, nbytes)
        assert torch.equal(sums.cpu(), digest_sums(parts, nbytes, factors)), parts[0][1].shape


def case_a_moved_value_changes_the_digest(device: str) -> None:
    nbytes = 4096
    values = random_bits((64, 32), torch.int16, device)
    first = torch.zeros(sums_length(nbytes), dtype=torch.int64, device=device)
    _by_kernel([(0, values)], first, nbytes)
    for changed in (values.flip(0), values.roll(1, 1), values.flip(1)):
        again = torch.zeros_like(first)
        _by_kernel([(0, changed)], again, nbytes)
        assert not torch.equal(first, again)


def case_boxes_that_do_not_fit_are_refused(device: str) -> None:
    one, other = random_bits((4, 4), torch.int16, device), random_bits((4, 5), torch.int16, device)
    for target, source in ((one, other), (one, one.to(torch.int32)), (one.view(torch.bfloat16),) * 2):
        try:
            copy_calls([(target, source)], programs=1)
        except ValueError as error:
            assert "box" in str(error)
        else:
            raise AssertionError("taken")


def _by_kernel(parts: list[tuple[int, torch.Tensor]], sums: torch.Tensor, nbytes: int) -> None:
    for call in digest_calls(parts, sums, nbytes, multipliers(sums.device), programs=2):
        call()


CASES: tuple[Callable[[str], None], ...] = (
    case_copy_moves_every_bit_and_touches_nothing_else,
    case_layouts_of_experts_there_and_back,
    case_digests_are_those_of_the_packed_bucket,
    case_digests_cross_chunks,
    case_digests_of_long_boxes,
    case_a_moved_value_changes_the_digest,
    case_boxes_that_do_not_fit_are_refused,
)

if __name__ == "__main__":
    torch.manual_seed(0)
    for case in CASES:
        case(sys.argv[1])
        print(f"ok {case.__name__}", flush=True)
