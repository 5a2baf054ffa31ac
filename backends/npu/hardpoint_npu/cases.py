"""What NPUs ask for beyond the kit's laws; they prove the claims `hardpoint_npu.facts.MARK` and ``NZ``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from hardpoint.attention import TOKEN_BUFFERS
from hardpoint.conformance import ExtraCase, LawContext
from hardpoint.dp import GraphMode
from hardpoint.errors import CaptureRefused, LaunchRefused, LayoutError
from hardpoint.moe import FUSED, LayoutDescriptor, PackedExperts
from hardpoint_npu.facts import MARK, NZ, NZ_NAME, PROGRAMS
from hardpoint_npu.grid import persistent_grid


def token_buffers_begin_as_zero(context: LawContext) -> None:
    """Every new token buffer is zero before any kernel has written it."""
    for kind in TOKEN_BUFFERS:
        for dtype in (torch.bfloat16, torch.float32):
            made = context.backend.attention_buffers.allocate(kind, (7, 5), dtype=dtype, device=context.device)
            context.equal(made, torch.zeros(7, 5, dtype=dtype), f"a new {kind} buffer of {dtype}")


def expert_weights_are_transposed(context: LawContext) -> None:
    """Kernels get plain experts as ``w13 [E, H, 2I]`` and ``w2 [E, I, H]``, gate first."""
    layout: Any = context.backend.moe_layout
    fused, down, names = _experts(context, torch.float32)
    model = LayoutDescriptor(2, 24, 20, torch.float32, w13_state="model", w2_state="model")
    packed = layout.pack(names, layout.kernel_layout(model), checkpoint=FUSED)
    for what, storage, whole in (("w13_weight", packed.w13_weight, fused), ("w2_weight", packed.w2_weight, down)):
        shape = (whole.shape[0], whole.shape[2], whole.shape[1])
        context.check(tuple(storage.shape) == shape, f"{what} is {tuple(storage.shape)}, expected {shape}")
        context.equal(storage, whole.transpose(1, 2).contiguous(), what)
    again = layout.pack(packed, layout.kernel_layout(packed.descriptor))
    context.equal(again.w13_weight, fused.transpose(1, 2).contiguous(), "w13_weight packed a second time")


def nz_has_a_true_inverse(context: LawContext) -> None:
    """What goes into NZ comes out bit by bit: packed, packed twice, loaded, copied in, at the same address, and never
    by declaration alone. Sizes that fill no fractal included."""
    layout: Any = context.backend.moe_layout
    for dtype in (torch.bfloat16, torch.float16, torch.int8):
        fused, down, names = _experts(context, dtype)
        model = LayoutDescriptor(2, 24, 20, dtype, w13_state="model", w2_state="model")
        plain = replace(layout.kernel_layout(model), format="dense")
        private = replace(plain, format=NZ_NAME)

        def check(packed: PackedExperts, what: str, fused: Any = fused, down: Any = down, dtype: Any = dtype) -> None:
            for name in ("w13_weight", "w2_weight"):
                found = layout.runtime.format_of(getattr(packed, name))
                context.check(found == NZ, f"{name} {what} ({dtype}) has ACL format {found}, expected {NZ}")
            out = layout.unpack(packed, FUSED)
            context.equal(out["experts.gate_up_proj"], fused, f"gate_up_proj {what} ({dtype})")
            context.equal(out["experts.down_proj"], down, f"down_proj {what} ({dtype})")

        packed = layout.pack(names, private, checkpoint=FUSED)
        check(packed, "packed into NZ")
        context.check(layout.pack(packed, private) is packed, "packing NZ experts as they are gave others")
        check(layout.pack(layout.pack(packed, plain), private), "through plain and back into NZ")
        zeros = {name: torch.zeros_like(tensor) for name, tensor in names.items()}
        target = layout.pack(zeros, private, checkpoint=FUSED)
        address = target.w13_weight.data_ptr(), target.w2_weight.data_ptr()
        session = layout.load(target, FUSED)
        for name, tensor in names.items():
            session.write(name, tensor)
        check(session.finish(), "loaded into NZ")
        target = layout.pack(zeros, private, checkpoint=FUSED)
        address = target.w13_weight.data_ptr(), target.w2_weight.data_ptr()
        layout.copy_into(layout.pack(names, plain, checkpoint=FUSED), target)
        check(target, "copied from plain into NZ")
        found = target.w13_weight.data_ptr(), target.w2_weight.data_ptr()
        context.check(found == address, f"the NZ storages moved from {address} to {found}")
        lie = replace(layout.pack(names, plain, checkpoint=FUSED), descriptor=private)
        with context.refuses("a plain storage that is declared NZ", LayoutError, naming=["w13_weight", NZ_NAME]):
            layout.unpack(lie, FUSED)
    wide = LayoutDescriptor(2, 24, 20, torch.float32, format=NZ_NAME)
    with context.refuses("float32 in NZ", LayoutError, naming=["float32"]):
        layout.pack(names, wide, checkpoint=FUSED)


def grids_stay_within_the_limit(context: LawContext) -> None:
    """More programs than the chip starts are refused before anything runs; a persistent grid covers it all."""
    launcher: Any = context.backend.launcher
    runtime = _runtime(context)
    try:
        kernel = runtime.fill_kernel()
    except ImportError as error:
        kernel = None
        context.note(f"no kernel could be compiled ({error}): only the refusals were tried")
    refused = _Compiled() if kernel is None else kernel
    n = PROGRAMS + 5
    out = torch.zeros(n, dtype=torch.int32, device=context.device)
    for grid in ((n,), (256, 256), (1 << 20, 1, 1), lambda given: (n,)):
        with context.refuses(f"the grid {grid}", LaunchRefused, naming=[str(PROGRAMS)]):
            launcher.launch(refused, out, n, grid=grid)
    with context.refuses("a bound launch of too many programs", LaunchRefused, naming=[str(PROGRAMS)]):
        launcher.bind(refused, out, n, grid=(n,))
    reason = launcher.explain(refused, out, n, grid=(n,)).refusal
    context.check(reason is not None and str(PROGRAMS) in reason, f"explain of {n} programs says {reason!r}")
    context.equal(out, torch.zeros(n, dtype=torch.int32), "the output after refused launches")
    if kernel is None:
        return
    grid = persistent_grid(n, runtime.core_count(context.device_index))
    launcher.launch(kernel, out, n, grid=grid)
    context.equal(out, torch.arange(n, dtype=torch.int32), f"{n} items by a persistent grid {grid}")


def graphs_stay_within_the_streams(context: LawContext) -> None:
    """A capture beyond the device's streams is refused before it begins; a dropped graph makes room."""
    graphs: Any = context.backend.graphs
    index = context.device_index
    value = context.full(4, value=0.0)
    kept = []
    most = _runtime(context).graph_stream_budget()
    if most > 64:
        context.note(f"this device has streams for {most} graphs; the limit is tried where it is small")
    for _ in range(min(most, 64) + 1):
        if graphs.supported(index) is not None:
            break
        with graphs.capture(index) as graph:
            value.add_(1.0)
        kept.append(graph)
    if most > 64:
        return
    reason = graphs.supported(index)
    context.check(reason is not None and "streams" in reason, f"after {len(kept)} graphs a capture is {reason!r}")
    with context.refuses("a capture beyond the streams", CaptureRefused, naming=["streams"]), graphs.capture(index):
        value.add_(1.0)
    kept.pop()
    del graph
    with graphs.capture(index) as graph:
        value.add_(2.0)
    graph.replay()
    context.equal(value, torch.full((4,), 2.0), "a graph that was captured after another one was dropped")


def graph_tasks_take_updates(context: LawContext) -> None:
    """Replays after an update use the task's new arguments, those before it the old ones; the rest stays."""
    graphs: Any = context.backend.graphs
    index = context.device_index
    value, out = context.full(4, value=1.0), context.full(4, value=0.0)
    with graphs.capture(index) as graph:
        out.zero_()
        with graphs.task(graph) as task:
            out.add_(value, alpha=3)
        out.mul_(2.0)
    context.equal(out, torch.zeros(4), "the output after a capture with a task")
    graph.replay()
    context.equal(out, torch.full((4,), 6.0), "a replay before the update")
    with graphs.update(task):
        out.add_(value, alpha=5)
    context.equal(out, torch.full((4,), 6.0), "the output after an update, which runs nothing")
    graph.replay()
    context.equal(out, torch.full((4,), 10.0), "a replay after the update")
    graph.replay()
    context.equal(out, torch.full((4,), 10.0), "a second replay after the update")
    with context.refuses("a task outside a capture", CaptureRefused), graphs.task(graph):
        pass


def counts_are_multiples_of_tp(context: LawContext) -> None:
    """Padded counts are equal on all ranks under experts, and multiples of the tensor-parallel size."""
    rule = context.backend.dp_rule
    plan = rule.plan((26, 29, 0), tp=4, synced_mode=GraphMode.NONE, expert_parallel=True)
    context.check(plan.uniform, f"26, 29 and 0 tokens are padded to {plan.num_padded_tokens}")
    uneven = [count for count in plan.num_padded_tokens if count % 4]
    context.check(not uneven, f"with tensor-parallel size 4, counts are {plan.num_padded_tokens}")


def _experts(context: LawContext, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Host ``[E, 2I, H]`` and ``[E, H, I]`` for E=2, H=24, I=20, and the same on the device under the fused names."""
    fused = (torch.arange(2 * 40 * 24) % 113).to(dtype).reshape(2, 40, 24)
    down = (torch.arange(2 * 24 * 20) % 101 + 7).to(dtype).reshape(2, 24, 20)
    names = {"experts.gate_up_proj": context.to_device(fused), "experts.down_proj": context.to_device(down)}
    return fused, down, names


class _Compiled:
    """Stands for a compiled kernel where none can be had; never launched."""

    __name__ = "fill"

    def run(self) -> None: ...


def _runtime(context: LawContext) -> Any:
    layout: Any = context.backend.moe_layout
    return layout.runtime


def _case(name: str, function: object, claim: str = MARK) -> ExtraCase:
    assert callable(function)
    statement = " ".join((function.__doc__ or "").split())
    return ExtraCase(f"npu.{name}", statement, function, claim=claim, deadline=40.0)


CASES: tuple[ExtraCase, ...] = (
    _case("token-buffers-begin-as-zero", token_buffers_begin_as_zero),
    _case("expert-weights-are-transposed", expert_weights_are_transposed),
    _case("nz-has-a-true-inverse", nz_has_a_true_inverse, NZ_NAME),
    _case("grids-stay-within-the-limit", grids_stay_within_the_limit),
    _case("graphs-stay-within-the-streams", graphs_stay_within_the_streams),
    _case("graph-tasks-take-updates", graph_tasks_take_updates),
    _case("counts-are-multiples-of-tp", counts_are_multiples_of_tp),
)
