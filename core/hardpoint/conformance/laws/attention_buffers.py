"""Laws of attention and GDN buffers: no value that nobody wrote is ever visible, and nothing that was written is lost.

The laws play the kernel: they write the rows of real tokens and leave what a real allocator may leave in the rest.
"""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from hardpoint.attention import STATE_BUFFERS, TOKEN_BUFFERS, BufferKind, check_token_counts
from hardpoint.conformance.context import LawContext
from hardpoint.conformance.law import law
from hardpoint.errors import AttentionError

# What uninitialised memory decodes as; a finite value times zero is a zero that proves nothing.
_GARBAGE = (float("nan"), float("inf"), float("-inf"), -3.0)
_garbage = st.sampled_from(_GARBAGE)
_token_kind = st.sampled_from(TOKEN_BUFFERS)
_state_kind = st.sampled_from(STATE_BUFFERS)
_trailing = st.sampled_from([(3,), (2, 4), (1,)])


def _dtypes(context: LawContext) -> list[torch.dtype]:
    """Dtypes that attention writes and the backend computes in."""
    named = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    return [dtype for name, dtype in named.items() if name in context.backend.capabilities.dtypes]


def _written(
    context: LawContext, kind: BufferKind, shape: tuple[int, ...], dtype: torch.dtype, garbage: float, real: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A buffer as a kernel leaves it, rows ``[0, real)`` written and `garbage` after them; and its host values."""
    buffer = context.backend.attention_buffers.allocate(kind, shape, dtype=dtype, device=context.device)
    host = torch.full(shape, garbage, dtype=dtype)
    host[:real] = context.host_randn(real, *shape[1:], dtype=dtype)
    if real:
        host[0, ..., 0] = float("nan")  # a NaN that a kernel computed is news, not garbage
    buffer.copy_(context.to_device(host))
    return buffer, host


def _cleared(host: torch.Tensor, real: int) -> torch.Tensor:
    expected = host.clone()
    expected[real:] = 0
    return expected


def _finished(context: LawContext, buffer: torch.Tensor, result: object, expected: torch.Tensor, what: str) -> None:
    """Fail unless the buffer holds `expected` (zeros of either sign are zeros) and `result` is the buffer itself."""
    context.check(isinstance(result, torch.Tensor), f"{what}: finish must return the buffer, returned {result!r}")
    for tensor, name in ((buffer, "the buffer"), (result, "what finish returned")):
        assert isinstance(tensor, torch.Tensor)
        found = context.to_host(tensor)
        context.check(
            found.shape == expected.shape and found.dtype == expected.dtype,
            f"{what}: {name} became {tuple(found.shape)} {found.dtype}",
        )
        found = torch.where(found == 0, torch.zeros_like(found), found)
        context.equal(found, torch.where(expected == 0, torch.zeros_like(expected), expected), f"{what}: {name}")


@law(part="attention_buffers", id="attention_buffers.allocation-is-as-asked")
def allocation_is_as_asked(context: LawContext) -> None:
    """A buffer has the shape, dtype and device asked for, and shares memory with no other buffer of any kind."""
    buffers = context.backend.attention_buffers
    for dtype in _dtypes(context):
        made: list[tuple[str, torch.Tensor]] = []
        for index in context.device_indices:
            device = context.on(index)
            for kind in (*TOKEN_BUFFERS, *STATE_BUFFERS):
                for shape in ((4, 3), (4, 3), (0, 3), (5, 2, 6)):
                    buffer = buffers.allocate(kind, shape, dtype=dtype, device=device)
                    context.check(
                        (tuple(buffer.shape), buffer.dtype, buffer.device) == (shape, dtype, device),
                        f"{kind} buffer of {shape} {dtype} on {device} asked for, got {tuple(buffer.shape)} "
                        f"{buffer.dtype} on {buffer.device}",
                    )
                    made.append((f"{kind} buffer of {shape} {dtype} on {device}", buffer))
        # Small integers are exact in every dtype.
        for number, (_, buffer) in enumerate(made):
            buffer.fill_(float(number))
        for number, (what, buffer) in enumerate(made):
            expected = torch.full(tuple(buffer.shape), float(number), dtype=dtype)
            context.equal(buffer, expected, f"{what} after all others were written")


@law(part="attention_buffers", id="attention_buffers.tail-is-zero")
def tail_is_zero(context: LawContext) -> None:
    """After `finish` every row past the actual tokens is zero, whatever was there and wherever the count lives, also
    rows of a larger batch before; the rows before the tail are untouched to the bit, and the buffer is the same
    memory."""

    def check(
        kind: BufferKind,
        dtype: torch.dtype,
        rows: int,
        padding: int,
        trailing: tuple[int, ...],
        garbage: float,
        on_device: bool,
        fewer: int,
    ) -> None:
        buffer, host = _written(context, kind, (rows + padding, *trailing), dtype, garbage, rows)
        seen = buffer.view_as(buffer)
        what = f"{kind} {dtype}, {rows} tokens and {padding} rows of padding that held {garbage}"
        for real in (rows, max(rows - fewer, 0)):
            count: int | torch.Tensor = real
            if on_device:
                count = context.to_device(torch.tensor([real], dtype=torch.int32))
            result = context.backend.attention_buffers.finish(buffer, count)
            _finished(context, seen, result, _cleared(host, real), what)
            what = f"{what}, then a batch of {max(rows - fewer, 0)} tokens in the same buffer"

    for on_device in (False, True):
        check("output", torch.float32, 3, 300, (2, 16), float("nan"), on_device, 1)
        check("core_output", torch.float32, 129, 1, (5,), float("inf"), on_device, 0)
    context.examples(
        check,
        count=60,
        kind=_token_kind,
        dtype=st.sampled_from(_dtypes(context)),
        rows=st.integers(0, 6),
        padding=st.integers(0, 5),
        trailing=_trailing,
        garbage=_garbage,
        on_device=st.booleans(),
        fewer=st.integers(0, 2),
    )


@law(part="attention_buffers", id="attention_buffers.no-metadata-is-all-zero")
def no_metadata_is_all_zero(context: LawContext) -> None:
    """Without metadata (profile and warm-up runs) no kernel wrote anything: after `finish` the whole buffer is zero."""
    for kind in TOKEN_BUFFERS:
        for dtype in _dtypes(context):
            for garbage in _GARBAGE:
                buffer, host = _written(context, kind, (5, 2, 3), dtype, garbage, 0)
                result = context.backend.attention_buffers.finish(buffer, None)
                _finished(context, buffer, result, _cleared(host, 0), f"{kind} {dtype} without metadata")


@law(part="attention_buffers", id="attention_buffers.query-start-loc-bounds-tokens")
def query_start_loc_bounds_tokens(context: LawContext) -> None:
    """Rows that num_actual_tokens counts but query_start_loc does not cover are padding, and so are rows that it covers
    and num_actual_tokens does not count: `finish` clears them, wherever the two live (FR4: num_actual_tokens 30,
    query_start_loc [0, 5, 10, 18, 26], rows 26 to 29)."""
    finish = context.backend.attention_buffers.finish

    def check(
        lengths: list[int], counted: int, beyond: int, garbage: float, count_on: bool, starts_on: bool, kind: BufferKind
    ) -> None:
        starts = [sum(lengths[:request]) for request in range(len(lengths) + 1)]
        said = max(starts[-1] + counted, 0)
        real, rows = min(starts[-1], said), max(starts[-1], said) + beyond
        buffer, host = _written(context, kind, (rows, 4), torch.float32, garbage, real)
        count = context.to_device(torch.tensor(said)) if count_on else said
        locations = context.to_device(torch.tensor(starts, dtype=torch.int32)) if starts_on else starts
        result = finish(buffer, count, query_start_loc=locations)
        what = f"{kind}, num_actual_tokens {said}, query_start_loc {starts}, {rows} rows of {garbage}"
        _finished(context, buffer, result, _cleared(host, real), what)

    for count_on, starts_on in ((False, False), (False, True), (True, False), (True, True)):
        check([5, 5, 8, 8], 4, 0, float("nan"), count_on, starts_on, "output")  # FR4, dp_rank 0
        check([7, 5, 11, 7], 0, 0, float("nan"), count_on, starts_on, "output")  # FR4, dp_rank 1
    context.examples(
        check,
        count=40,
        lengths=st.lists(st.integers(0, 4), max_size=4),
        counted=st.integers(-2, 3),
        beyond=st.integers(0, 3),
        garbage=_garbage,
        count_on=st.booleans(),
        starts_on=st.booleans(),
        kind=_token_kind,
    )
    faults = check_token_counts(
        num_actual_tokens=30, query_start_loc=[0, 5, 10, 18, 26], seq_lens=[5, 5, 8, 8], hidden_rows=30
    )
    context.check([fault.rows for fault in faults] == [range(26, 30)], f"rows 26 to 29 must be named, got {faults}")
    faults = check_token_counts(
        num_actual_tokens=30, query_start_loc=[0, 7, 12, 23, 30], seq_lens=[7, 5, 11, 7], hidden_rows=30
    )
    context.check(not faults, f"the counts of dp_rank 1 fit each other, got {faults}")


@law(part="attention_buffers", id="attention_buffers.masks-select")
def masks_select(context: LawContext) -> None:
    """A masked row is zero, NaN and infinity included, since a mask selects and never multiplies; a kept row is
    untouched to the bit; the rows that were masked from stay as they were."""

    def check(keep: list[bool], garbage: float, kept_nan: bool, trailing: tuple[int, ...], dtype: torch.dtype) -> None:
        host = context.host_randn(len(keep), *trailing, dtype=dtype)
        for row, kept in enumerate(keep):
            if not kept:
                host[row] = garbage
            elif kept_nan:
                host[row, ..., 0] = float("nan")
        rows = context.to_device(host)
        mask = context.to_device(torch.tensor(keep, dtype=torch.bool))
        result = context.backend.attention_buffers.mask_rows(rows, mask)
        expected = host.clone()
        expected[[row for row, kept in enumerate(keep) if not kept]] = 0
        what = f"mask {keep} over rows of {garbage}, {dtype}"
        _finished(context, result, result, expected, what)
        context.equal(rows, host, f"{what}: the rows that were masked from")

    context.examples(
        check,
        count=50,
        keep=st.lists(st.booleans(), min_size=1, max_size=6),
        garbage=_garbage,
        kept_nan=st.booleans(),
        trailing=_trailing,
        dtype=st.sampled_from(_dtypes(context)),
    )


@law(part="attention_buffers", id="attention_buffers.state-starts-at-zero")
def state_starts_at_zero(context: LawContext) -> None:
    """Every slot of new conv and recurrent state is zero, also where freed memory that held NaN is used again."""
    for kind in STATE_BUFFERS:
        for dtype in _dtypes(context):
            for shape in ((6, 2, 4), (64, 128)):
                for _ in range(3):
                    freed = context.full(*shape, value=float("nan"), dtype=dtype)
                    context.backend.device.synchronize(context.device_index)
                    del freed
                    state = context.backend.attention_buffers.allocate(kind, shape, dtype=dtype, device=context.device)
                    context.equal(state, torch.zeros(shape, dtype=dtype), f"new {kind} {dtype}")


@law(part="attention_buffers", id="attention_buffers.reset-clears-its-slots-only")
def reset_clears_its_slots_only(context: LawContext) -> None:
    """Resetting slots makes them zero, NaN included, and leaves every other slot as it was; slot -1 is padding and
    never the last slot."""

    def check(
        slots: list[int], size: int, kind: BufferKind, garbage: float, on_device: bool, dtype: torch.dtype
    ) -> None:
        slots = [slot for slot in slots if slot < size]
        host = torch.full((size, 2, 3), garbage, dtype=dtype)
        state = context.backend.attention_buffers.allocate(kind, (size, 2, 3), dtype=dtype, device=context.device)
        state.copy_(context.to_device(host))
        seen = state.view_as(state)
        given = context.to_device(torch.tensor(slots, dtype=torch.int64)) if on_device else slots
        context.backend.attention_buffers.reset_state(state, given)
        expected = host.clone()
        expected[[slot for slot in slots if slot >= 0]] = 0
        _finished(context, seen, state, expected, f"{kind} of {size} slots after a reset of {slots}")

    context.examples(
        check,
        count=50,
        slots=st.lists(st.integers(-1, 4), max_size=5),
        size=st.integers(1, 5),
        kind=_state_kind,
        garbage=_garbage,
        on_device=st.booleans(),
        dtype=st.sampled_from(_dtypes(context)),
    )


@law(part="attention_buffers", id="attention_buffers.reads-need-initial-state")
def reads_need_initial_state(context: LawContext) -> None:
    """A request without initial state, and padding slot -1, read zero whatever their slot holds; the others read their
    own slot to the bit; reading changes nothing."""

    def check(reads: list[tuple[int, bool]], garbage: float, kind: BufferKind, dtype: torch.dtype) -> None:
        used = {slot for slot, has in reads if has and slot >= 0}
        host = torch.full((5, 2, 3), garbage, dtype=dtype)
        for slot in used:
            host[slot] = context.host_randn(2, 3, dtype=dtype)
            host[slot, 0, 0] = float("nan")
        state = context.backend.attention_buffers.allocate(kind, (5, 2, 3), dtype=dtype, device=context.device)
        state.copy_(context.to_device(host))
        slots = context.to_device(torch.tensor([slot for slot, _ in reads], dtype=torch.int64))
        has_initial = context.to_device(torch.tensor([has for _, has in reads], dtype=torch.bool))
        rows = context.backend.attention_buffers.read_state(state, slots, has_initial)
        expected = torch.stack([host[slot] if has and slot >= 0 else torch.zeros_like(host[0]) for slot, has in reads])
        what = f"{kind} read at (slot, has_initial_state) {reads}, other slots hold {garbage}"
        _finished(context, rows, rows, expected, what)
        context.equal(state, host, f"{what}: the state itself")

    context.examples(
        check,
        count=50,
        reads=st.lists(st.tuples(st.integers(-1, 4), st.booleans()), min_size=1, max_size=5),
        garbage=_garbage,
        kind=_state_kind,
        dtype=st.sampled_from(_dtypes(context)),
    )


@law(part="attention_buffers", id="attention_buffers.poison-shows")
def poison_shows(context: LawContext) -> None:
    """In poison mode every element of a new buffer, state too, is NaN (integers: the largest value) until it is
    written, finished or reset; the backend's own buffers are not changed by asking for it."""
    buffers = context.backend.attention_buffers
    poisoned = buffers.poisoned()
    for dtype in (*_dtypes(context), torch.int32):
        for kind in (*TOKEN_BUFFERS, *STATE_BUFFERS):
            buffer = poisoned.allocate(kind, (4, 3), dtype=dtype, device=context.device)
            found = context.to_host(buffer)
            shown = found.isnan() if dtype.is_floating_point else found == torch.iinfo(dtype).max
            context.check(shown.all(), f"poisoned {kind} {dtype} must show in every element, found {found.tolist()}")
            zero = torch.zeros((4, 3), dtype=dtype)
            if kind in TOKEN_BUFFERS:
                expected = _cleared(found, 1)
                context.equal(poisoned.finish(buffer, 1), expected, f"poisoned {kind} after one token")
            else:
                poisoned.reset_state(buffer, [0, 1, 2, 3])
                context.equal(buffer, zero, f"poisoned {kind} after a reset")
                plain = buffers.allocate(kind, (4, 3), dtype=dtype, device=context.device)
                context.equal(plain, zero, f"new {kind} {dtype} without poison, after poison was asked for")


@law(part="attention_buffers", id="attention_buffers.impossible-counts-are-refused")
def impossible_counts_are_refused(context: LawContext) -> None:
    """Counts and slots on the host that the buffer cannot hold are refused with AttentionError, and change nothing."""
    buffers = context.backend.attention_buffers
    buffer, host = _written(context, "output", (4, 3), torch.float32, 7.0, 4)
    for count, starts in ((5, None), (-1, None), (4, [0, 5]), (5, [0, 4])):
        with context.refuses(f"finish with {count} tokens and query_start_loc {starts} on 4 rows", AttentionError):
            buffers.finish(buffer, count, query_start_loc=starts)
    context.equal(buffer, host, "the buffer after refused counts")
    state = buffers.allocate("conv_state", (3, 2), dtype=torch.float32, device=context.device)
    state.fill_(1.0)
    for slots in ([3], [-2], [0, 17]):
        with context.refuses(f"a reset of slots {slots} of 3", AttentionError):
            buffers.reset_state(state, slots)
    context.equal(state, torch.ones(3, 2), "the state after refused resets")
