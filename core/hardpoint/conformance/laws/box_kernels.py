"""Laws of box kernels: strided boxes are copied bit by bit, and digested as the packed bucket that they stand for."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from hardpoint.conformance.context import LawContext
from hardpoint.conformance.law import law
from hardpoint.conformance.laws._work import keep_busy
from hardpoint.sync.digest import CHUNK_WORDS, sums_digest, tensor_digest
from hardpoint.sync.stream import sums_length

_DTYPES = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SHAPES = ((7,), (64,), (3, 20), (16, 64), (2, 9, 24), (2, 3, 4, 5))
_itemsize = st.sampled_from(sorted(_DTYPES))
_shape = st.sampled_from(_SHAPES)
_order = st.integers(0, 23)
_margin = st.integers(0, 9)


@law(part="box_kernels", id="box_kernels.copy-moves-every-bit-and-nothing-else", deadline=60)
def copy_moves_every_bit_and_nothing_else(context: LawContext) -> None:
    """A copy leaves every word of every source in its destination, whatever the width, alignment and strides of both,
    and no other byte of any storage is changed. It can be launched again, and reads what is there then."""

    def check(itemsize: int, shapes: list[tuple[int, ...]], order: int, margin: int) -> None:
        index = context.device_indices[-1]
        storages, boxes, sources, expected = [], [], [], []
        for number, shape in enumerate(shapes):
            storage = _bits(context, tuple(size + margin for size in shape), itemsize)
            source = _turned(_bits(context, shape, itemsize), order + number)
            storages.append(context.to_device(storage, index))
            boxes.append(_inside(storages[-1], source.shape, margin, order + number))
            sources.append(_kept(context, source.contiguous() if order % 2 else source, index))
            _inside(storage, source.shape, margin, order + number).copy_(source)
            expected.append(storage)
        launch = context.backend.box_kernels.copy(list(zip(boxes, sources, strict=True)), alone=bool(margin % 2))
        launch()
        for found, wanted in zip(storages, expected, strict=True):
            context.equal(found, wanted, f"boxes {shapes} of {itemsize} bytes, order {order}, margin {margin}")
        for box in boxes:
            box.zero_()
        launch()
        for found, wanted in zip(storages, expected, strict=True):
            context.equal(found, wanted, f"the same boxes {shapes} after a second launch")

    context.examples(
        check,
        count=15,
        itemsize=_itemsize,
        shapes=st.lists(_shape, min_size=1, max_size=4),
        order=_order,
        margin=_margin,
    )


@law(part="box_kernels", id="box_kernels.digest-is-that-of-the-packed-bucket", deadline=60)
def digest_is_that_of_the_packed_bucket(context: LawContext) -> None:
    """The sums of boxes are those of a bucket that holds them row-major at their bytes and zeros between, as
    `tensor_digest` takes it: for every width and order, across chunks, and where the bucket ends inside a word."""

    def check(itemsize: int, shapes: list[tuple[int, ...]], order: int, start: int) -> None:
        index = context.device_indices[-1]
        boxes, parts, end = [], [], start
        for number, shape in enumerate(shapes):
            box = _turned(_bits(context, shape, itemsize), order + number)
            at = -(-end // 64) * 64
            boxes.append((at, box))
            parts.append((at, _kept(context, box, index)))
            end = at + box.numel() * itemsize
        packed = torch.zeros(end, dtype=torch.uint8)
        for at, box in boxes:
            packed[at : at + box.numel() * itemsize] = box.contiguous().reshape(-1).view(torch.uint8)
        sums = torch.zeros(sums_length(end), dtype=torch.int64, device=context.on(index))
        context.backend.box_kernels.digest(parts, sums, end)()
        found = sums_digest(f"uint8[{end}]", context.to_host(sums).numpy().astype("<i8").tobytes())
        wanted = tensor_digest(packed)
        context.check(
            found == wanted,
            f"boxes {shapes} of {itemsize} bytes from byte {start} on, order {order}: expected the digest of their "
            f"bucket, {wanted.hex()}, found {found.hex()}",
        )

    context.examples(
        check,
        count=15,
        itemsize=_itemsize,
        shapes=st.lists(_shape, min_size=1, max_size=4),
        order=_order,
        start=st.sampled_from([0, 64, 4 * CHUNK_WORDS - 128]),
    )


@law(part="box_kernels", id="box_kernels.launches-run-in-the-callers-stream", deadline=60)
def launches_run_in_the_callers_stream(context: LawContext) -> None:
    """A launch reads what the caller's current stream has computed by then, late work included, on whichever device the
    boxes are; what is queued behind it sees its result."""
    device = context.backend.device
    for index in context.device_indices:
        source, target = (context.full(256, value=0, dtype=torch.int32, index=index) for _ in range(2))
        after = context.full(256, value=0, dtype=torch.int32, index=index)
        sums = torch.zeros(1, dtype=torch.int64, device=context.on(index))
        copy = context.backend.box_kernels.copy([(target, source)])
        digest = context.backend.box_kernels.digest([(0, target)], sums, 1024)
        device.synchronize(index)
        with device.use_stream(device.stream(index)):
            keep_busy(context, index)
            source += 7
            copy()
            digest()
            after += target
            seen = sums.clone()
        sevens = torch.full((256,), 7, dtype=torch.int32)
        context.equal(after, sevens, f"what was copied after late work, device {index}")
        found = sums_digest("uint8[1024]", context.to_host(seen).numpy().astype("<i8").tobytes())
        wanted = tensor_digest(sevens.view(torch.uint8))
        context.check(found == wanted, f"the digest on device {index} is not of what was copied after late work")


def _bits(context: LawContext, shape: tuple[int, ...], itemsize: int) -> torch.Tensor:
    size = torch.Size(shape).numel() * itemsize
    raw = torch.randint(0, 256, (size,), generator=context.generator, dtype=torch.uint8)
    return raw.view(_DTYPES[itemsize]).reshape(shape)


def _order_of(rank: int, number: int) -> list[int]:
    """One of the orders of `rank` dimensions."""
    left, found = list(range(rank)), []
    for size in range(rank, 0, -1):
        found.append(left.pop(number % size))
        number //= size
    return found


def _turned(tensor: torch.Tensor, number: int) -> torch.Tensor:
    return tensor.permute(_order_of(tensor.dim(), number))


def _inside(storage: torch.Tensor, shape: torch.Size, margin: int, number: int) -> torch.Tensor:
    """A box of `shape` in a storage that is `margin` larger in every dimension, dimensions in some order."""
    seen = _turned(storage, number)
    for dim, size in enumerate(shape):
        seen = seen.narrow(dim, margin // 2, size)
    return seen


def _kept(context: LawContext, view: torch.Tensor, index: int) -> torch.Tensor:
    """`view` on a device, with the strides that it has on the host."""
    whole = torch.zeros(1 + sum((n - 1) * s for n, s in zip(view.shape, view.stride(), strict=True)), dtype=view.dtype)
    whole.as_strided(view.shape, view.stride()).copy_(view)
    return context.to_device(whole, index).as_strided(view.shape, view.stride())
