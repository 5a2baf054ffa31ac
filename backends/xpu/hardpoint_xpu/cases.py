"""What XPU asks for beyond the kit's laws; each case proves the claim `hardpoint_xpu.facts.MARK`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.distributed as dist

from hardpoint.attention import TOKEN_BUFFERS
from hardpoint.communicator import Communicator, Rendezvous
from hardpoint.conformance import ExtraCase, LawContext
from hardpoint.dp import GraphMode
from hardpoint.dp.moe_communicator import moe_communicator
from hardpoint.moe import FUSED, LayoutDescriptor
from hardpoint_xpu.facts import MARK, VARIABLE

_SECONDS = 4.0  # deadline of the collectives: right ones take milliseconds, hanging ones are waited for


def token_buffers_begin_as_zero(context: LawContext) -> None:
    """Every new token buffer is zero before any kernel has written it, GDN's z included."""
    for kind in TOKEN_BUFFERS:
        for dtype in (torch.bfloat16, torch.float32):
            made = context.backend.attention_buffers.allocate(kind, (7, 5), dtype=dtype, device=context.device)
            context.equal(made, torch.zeros(7, 5, dtype=dtype), f"a new {kind} buffer of {dtype}")


def expert_weights_are_transposed(context: LawContext) -> None:
    """Kernels get experts as ``w13 [E, H, 2I]`` and ``w2 [E, I, H]``, gate first; 4-bit weights stay ``[E, N, K]``."""
    layout = context.backend.moe_layout
    model = LayoutDescriptor(2, 6, 3, torch.float32, w13_state="model", w2_state="model")
    fused = context.host_randn(2, 6, 6)  # [E, 2I, H]
    down = context.host_randn(2, 6, 3)  # [E, H, I]
    names = {"experts.gate_up_proj": context.to_device(fused), "experts.down_proj": context.to_device(down)}
    packed = layout.pack(names, layout.kernel_layout(model), checkpoint=FUSED)
    for what, storage, whole in (("w13_weight", packed.w13_weight, fused), ("w2_weight", packed.w2_weight, down)):
        shape = (whole.shape[0], whole.shape[2], whole.shape[1])
        context.check(tuple(storage.shape) == shape, f"{what} is {tuple(storage.shape)}, expected {shape}")
        context.equal(storage, whole.transpose(1, 2).contiguous(), what)
    again = layout.pack(packed, layout.kernel_layout(packed.descriptor))
    context.equal(again.w13_weight, fused.transpose(1, 2).contiguous(), "w13_weight packed a second time")
    four_bits = replace(model, hidden_size=8, intermediate_size=4, dtype=torch.uint8, values_per_element=2)
    axes = layout.kernel_layout(four_bits).axes
    context.check(axes == "[E,N,K]", f"4-bit weights are laid out {axes}, the grouped GEMM reads [E,N,K]")


def one_card_goes_by_the_host(context: LawContext) -> None:
    """Collectives end, with the right values, where the affinity mask shows each process a single card."""
    with _mask("0"):
        group = _open(context, "one-card")
        try:
            value = context.full(3, value=1.0 + context.rank)
            group.all_reduce(value)
            context.equal(value, torch.full((3,), 3.0), "a sum over two ranks with one card each")
            _gather(context, group, "a gather over two ranks with one card each")
        finally:
            group.close()


def masks_that_differ_go_by_the_host(context: LawContext) -> None:
    """All ranks take the same transport, also where only one of them is in a known-bad set-up."""
    with _mask("0" if context.rank == 0 else None):
        group = _open(context, "mixed")
        try:
            value = context.full(3, value=1.0 + context.rank)
            group.broadcast(value, src=1)
            context.equal(value, torch.full((3,), 2.0), "a broadcast between a rank with one card and one with all")
        finally:
            group.close()


def expert_ranks_meet_first(context: LawContext) -> None:
    """The group of dispatch and combine lets its ranks meet before every gather and scatter."""
    assert context.store is not None
    store = dist.PrefixStore("moe", context.store)  # type: ignore[attr-defined]  # torch exports it lazily
    meeting = Rendezvous(store, context.rank, context.world_size, "experts", _SECONDS, context.device_index)
    group = moe_communicator(context.backend, meeting)
    try:
        _gather(context, group, "a gather of expert ranks")
        counts = [3, 1]
        output = context.full(4, value=-1.0)
        group.all_gather_ragged(output, context.full(counts[context.rank], value=float(context.rank)), counts)
        context.equal(output, torch.tensor([0.0, 0.0, 0.0, 1.0]), "a ragged gather of expert ranks")
        kept = context.full(2, value=0.0)
        group.reduce_scatter(kept, context.full(4, value=1.0 + context.rank))
        context.equal(kept, torch.full((2,), 3.0), "a scatter of expert ranks")
        kept = context.full(counts[context.rank], value=0.0)
        group.reduce_scatter_ragged(kept, context.full(4, value=1.0 + context.rank), counts)
        context.equal(kept, torch.full((counts[context.rank],), 3.0), "a ragged scatter of expert ranks")
    finally:
        group.close()


def expert_ranks_bring_equal_counts(context: LawContext) -> None:
    """With experts every rank is padded to the same count, eager steps too, and scheduling never runs ahead."""
    rule = context.backend.dp_rule
    plan = rule.plan((26, 30, 0), synced_mode=GraphMode.NONE, expert_parallel=True)
    context.check(plan.uniform, f"an eager step of 26, 30 and 0 tokens is padded to {plan.num_padded_tokens}")
    context.check(plan.num_actual_tokens == (26, 30, 0), f"padding changed the actual counts: {plan.num_actual_tokens}")
    context.check(not rule.async_scheduling, "asynchronous scheduling is on")


def graphs_and_sleep_exclude_each_other(context: LawContext) -> None:
    """A backend has graphs or sleep, never both; the one that it lacks is refused with a reason."""
    declared, graphs = context.backend.capabilities, context.backend.graphs
    context.check(not (declared.graph and declared.sleep), "graphs and sleep are both declared")
    reason = graphs.supported(context.device_index)
    if declared.sleep:
        context.check(reason is not None and "sleep" in reason, f"with sleep on, graphs answer {reason!r}")
    else:
        context.check(declared.graph == (reason is None), f"graph={declared.graph} is declared, graphs say {reason!r}")


def _gather(context: LawContext, group: Communicator, what: str) -> None:
    output = context.full(2 * context.world_size, value=-1.0)
    group.all_gather(output, context.full(2, value=float(context.rank)))
    context.equal(output, torch.arange(context.world_size).repeat_interleave(2).float(), what)


def _open(context: LawContext, name: str) -> Communicator:
    assert context.store is not None
    store = dist.PrefixStore(name, context.store)  # type: ignore[attr-defined]
    return context.backend.communicator(
        Rendezvous(store, context.rank, context.world_size, name, _SECONDS, context.device_index)
    )


@contextmanager
def _mask(value: str | None) -> Iterator[None]:
    """The affinity mask of this process, for what reads the variable; a driver that runs does not look again."""
    before = os.environ.get(VARIABLE)
    try:
        if value is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = value
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


def _case(name: str, function: object, ranks: tuple[int, ...] = (1,)) -> ExtraCase:
    assert callable(function)
    statement = " ".join((function.__doc__ or "").split())
    return ExtraCase(f"xpu.{name}", statement, function, claim=MARK, ranks=ranks, deadline=40.0)


CASES: tuple[ExtraCase, ...] = (
    _case("token-buffers-begin-as-zero", token_buffers_begin_as_zero),
    _case("expert-weights-are-transposed", expert_weights_are_transposed),
    _case("one-card-goes-by-the-host", one_card_goes_by_the_host, (2,)),
    _case("masks-that-differ-go-by-the-host", masks_that_differ_go_by_the_host, (2,)),
    _case("expert-ranks-meet-first", expert_ranks_meet_first, (2,)),
    _case("expert-ranks-bring-equal-counts", expert_ranks_bring_equal_counts),
    _case("graphs-and-sleep-exclude-each-other", graphs_and_sleep_exclude_each_other),
)
