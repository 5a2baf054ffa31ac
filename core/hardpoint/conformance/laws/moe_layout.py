"""Laws of expert weights: layouts are declared, bijective, idempotent and in place; a load is complete and exact.

What the storage has to look like is checked for dense layouts, which have a public meaning. A backend's private format
is bound by all other laws: what goes in comes out, wherever it was in between.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import get_args

import torch
from hypothesis import strategies as st

from hardpoint.conformance.context import LawContext
from hardpoint.conformance.law import law
from hardpoint.conformance.laws._moe_cases import (
    LAYER,
    Case,
    Cases,
    Weights,
    check_storage,
    check_unpacked,
    checkpoint_tensors,
    own_tensors,
    scribble,
    weights,
)
from hardpoint.moe import (
    CHECKPOINT_FORMATS,
    FUSED,
    GPT_OSS,
    PER_EXPERT,
    LayoutDescriptor,
    LayoutError,
    PackedExperts,
)
from hardpoint.moe.descriptor import State


def _pack(context: LawContext, whole: Weights, case: Case) -> PackedExperts:
    tensors = checkpoint_tensors(whole, case.checkpoint)
    return context.backend.moe_layout.pack(
        tensors, case.descriptor, checkpoint=case.checkpoint, device=context.device, layer=LAYER
    )


@law(part="moe_layout", id="moe_layout.unpack-inverts-pack")
def unpack_inverts_pack(context: LawContext) -> None:
    """Unpacking what was packed gives this rank's part of the checkpoint bit by bit, NaN payloads included."""

    def check(case: Case) -> None:
        whole = weights(case.descriptor, case.seed)
        packed = _pack(context, whole, case)
        check_unpacked(context, packed, whole, case, "after pack and unpack")
        unpacked = context.backend.moe_layout.unpack(packed, case.checkpoint)
        scribble(context, packed)
        for name, tensor in own_tensors(whole, case, case.checkpoint).items():
            context.equal(unpacked[name], tensor, f"{name}, unpacked before the storage was overwritten ({case!r})")

    context.examples(check, count=75, case=Cases(context).draw())


@law(part="moe_layout", id="moe_layout.storage-is-as-declared")
def storage_is_as_declared(context: LawContext) -> None:
    """Packed storage is what its descriptor says: order, axes, parallel part, state; padding is zero."""

    def check(case: Case) -> None:
        whole = weights(case.descriptor, case.seed)
        packed = _pack(context, whole, case)
        context.check(
            packed.descriptor == case.descriptor,
            f"packed experts must carry the descriptor that was asked for, {case!r}; got {packed.descriptor}",
        )
        check_storage(context, packed, whole, case, "after pack")

    context.examples(check, count=90, case=Cases(context).draw())


@law(part="moe_layout", id="moe_layout.shape-says-nothing")
def shape_says_nothing(context: LawContext) -> None:
    """Where 2 * I_tp = H or I_tp = H a storage has the same shape in both states; the declared one decides, for w13 and
    w2 each."""
    cases = Cases(context)

    def check(case: Case, then: tuple[State, State]) -> None:
        whole = weights(case.descriptor, case.seed)
        packed = _pack(context, whole, case)
        check_storage(context, packed, whole, case, "after pack")
        target = replace(case, descriptor=replace(case.descriptor, w13_state=then[0], w2_state=then[1]))
        moved = context.backend.moe_layout.pack(packed, target.descriptor)
        check_storage(context, moved, whole, target, f"packed again from state {case!r}")
        check_unpacked(context, moved, whole, target, f"packed again from state {case!r}")

    for number, case in enumerate(cases.alike()):
        check(case, ("model", "kernel") if number % 2 else ("kernel", "model"))
        check(case, ("model", "model"))
    state = st.sampled_from(get_args(State))
    context.examples(check, count=30, case=cases.draw(ambiguous=True), then=st.tuples(state, state))


@law(part="moe_layout", id="moe_layout.twice-is-once")
def twice_is_once(context: LawContext) -> None:
    """Post-processing what is processed changes nothing, whichever of w13 and w2 it was done to; the source of a
    packing is not changed, and a second load of the same tensors gives what the first gave."""
    layout = context.backend.moe_layout

    def check(case: Case) -> None:
        whole = weights(case.descriptor, case.seed)
        kernel = replace(case, descriptor=case.descriptor.in_state("kernel"))
        first = _pack(context, whole, case)
        once = layout.pack(first, kernel.descriptor)
        check_storage(context, first, whole, case, "after it was the source of a packing")
        again = layout.pack(first, kernel.descriptor)
        twice = layout.pack(once, kernel.descriptor)
        for packed, what in ((once, "processed"), (again, "processed again"), (twice, "processed twice")):
            check_storage(context, packed, whole, kernel, f"after being {what}")
            check_unpacked(context, packed, whole, kernel, f"after being {what}")
        for round_ in ("first", "second"):
            _load(context, first, case, whole)
            check_unpacked(context, first, whole, case, f"after the {round_} load of the same tensors")

    context.examples(check, count=30, case=Cases(context).draw())


@law(part="moe_layout", id="moe_layout.load-equals-pack")
def load_equals_pack(context: LawContext) -> None:
    """Loading a checkpoint into packed storage, in any order of names and any state, gives what packing it gives, with
    nothing left of what was there before; padding is zero."""

    def check(case: Case, seed: int) -> None:
        old, new = weights(case.descriptor, case.seed), weights(case.descriptor, seed)
        packed = _pack(context, old, case)
        scribble(context, packed)
        _load(context, packed, case, new, shuffle=seed)
        check_storage(context, packed, new, case, "after a load into packed storage")
        check_unpacked(context, packed, new, case, "after a load into packed storage")

    context.examples(check, count=60, case=Cases(context).draw(), seed=st.integers(0, 999))


def _load(context: LawContext, packed: PackedExperts, case: Case, whole: Weights, *, shuffle: int = 0) -> PackedExperts:
    """One load session, names in shuffled order; checks what `write` and `missing` say on the way."""
    session = context.backend.moe_layout.load(packed, case.checkpoint)
    items = list(checkpoint_tensors(whole, case.checkpoint).items())
    random.Random(shuffle).shuffle(items)
    written = sum(session.write(name, tensor) for name, tensor in items)
    context.check(
        written == 3 * len(case.owned),
        f"a load must write {3 * len(case.owned)} (expert, shard) regions, write() counted {written} ({case!r})",
    )
    context.check(not session.missing(), f"everything was written, missing() says {session.missing()} ({case!r})")
    return session.finish()


@law(part="moe_layout", id="moe_layout.addresses-stay")
def addresses_stay(context: LawContext) -> None:
    """A load and a copy write into the storage that is there: captured graphs and other views of it see the new
    weights."""
    layout = context.backend.moe_layout

    def check(case: Case, seed: int) -> None:
        old, new = weights(case.descriptor, case.seed), weights(case.descriptor, seed)
        for way in ("load", "copy_into"):
            packed = _pack(context, old, case)
            tensors = (packed.w13_weight, packed.w2_weight)
            addresses = [tensor.data_ptr() for tensor in tensors]
            # A simulated device has no addresses; a view taken before sees what happens to the storage on any device.
            seen = replace(packed, w13_weight=tensors[0].view_as(tensors[0]), w2_weight=tensors[1].view_as(tensors[1]))
            if way == "load":
                after = _load(context, packed, case, new)
            else:
                layout.copy_into(_pack(context, new, case), packed)
                after = packed
            context.check(
                [after.w13_weight.data_ptr(), after.w2_weight.data_ptr()] == addresses
                and [packed.w13_weight.data_ptr(), packed.w2_weight.data_ptr()] == addresses,
                f"{way} must keep the addresses of w13_weight and w2_weight; they moved ({case!r})",
            )
            check_unpacked(context, seen, new, case, f"seen through a view taken before {way}")
            scribble(context, after)
            if case.descriptor.format == "dense":
                context.equal(seen.w13_weight, after.w13_weight, f"w13_weight returned by {way} is other storage")
                context.equal(seen.w2_weight, after.w2_weight, f"w2_weight returned by {way} is other storage")

    context.examples(check, count=30, case=Cases(context).draw(), seed=st.integers(0, 999))


@law(part="moe_layout", id="moe_layout.copy-into-transforms")
def copy_into_transforms(context: LawContext) -> None:
    """Copying packed experts into storage of another layout or state gives what packing gives there; the source stays
    as it was."""

    def check(pair: tuple[Case, Case], seed: int) -> None:
        ours, theirs = pair
        old, new = weights(ours.descriptor, seed), weights(ours.descriptor, ours.seed)
        source, destination = _pack(context, new, ours), _pack(context, old, theirs)
        scribble(context, destination)
        context.backend.moe_layout.copy_into(source, destination)
        check_storage(context, destination, new, theirs, f"after a copy from {ours!r}")
        check_unpacked(context, destination, new, theirs, f"after a copy from {ours!r}")
        check_storage(context, source, new, ours, "after it was the source of a copy")

    context.examples(check, count=45, pair=Cases(context).pairs(), seed=st.integers(0, 999))


@law(part="moe_layout", id="moe_layout.ranks-make-the-whole")
def ranks_make_the_whole(context: LawContext) -> None:
    """The parts of all tensor and expert parallel ranks together are the checkpoint: each element on one rank, none
    left out."""
    layout = context.backend.moe_layout

    def check(experts: int, tp: int, ep: int, rows: int, hidden: int, mapped: bool, seed: int) -> None:
        owners = [random.Random(seed).randrange(ep) for _ in range(experts)]
        model = LayoutDescriptor(experts, hidden, rows * tp, dtype=torch.float32, tp_size=tp, ep_size=ep)
        whole = weights(model, seed)
        tensors = checkpoint_tensors(whole, PER_EXPERT)
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in tensors}
        for rank in range(tp * ep):
            local = [expert for expert in range(experts) if owners[expert] == rank // tp]
            local.reverse()
            expert_map = tuple(local.index(expert) if expert in local else -1 for expert in range(experts))
            coordinates = replace(
                model, tp_rank=rank % tp, ep_rank=rank // tp, expert_map=expert_map if mapped else None
            )
            packed = layout.pack(tensors, layout.kernel_layout(coordinates), device=context.device, layer=LAYER)
            for name, part in layout.unpack(packed).items():
                context.check(name in parts, f"rank {rank} unpacked {name}, which is not in the checkpoint")
                parts[name].append(context.to_host(part))
        for name, tensor in tensors.items():
            context.check(
                len(parts[name]) == tp,
                f"{name} must be on the {tp} tensor-parallel ranks of one expert-parallel rank, found on "
                f"{len(parts[name])}",
            )
            context.equal(torch.cat(parts[name], dim=1 if "down_proj" in name else 0), tensor, f"{name} of all ranks")

    small = st.integers(1, 3)
    context.examples(
        check, count=24, experts=st.integers(1, 5), tp=small, ep=small, rows=small, hidden=small,
        mapped=st.booleans(), seed=st.integers(0, 999),
    )  # fmt: skip


@law(part="moe_layout", id="moe_layout.kernel-layout-keeps-the-model")
def kernel_layout_keeps_the_model(context: LawContext) -> None:
    """The layout that a backend's kernels read is of the same experts: sizes, dtype and coordinates are unchanged, both
    storages are in kernel state, and asking again gives the same."""
    layout = context.backend.moe_layout
    kept = ("num_experts", "hidden_size", "intermediate_size", "dtype", "values_per_element", "tp_rank", "tp_size",
            "ep_rank", "ep_size", "expert_to_local")  # fmt: skip

    def check(case: Case) -> None:
        model = case.descriptor.in_state("model")
        kernel = layout.kernel_layout(model)
        for name in kept:
            found, expected = getattr(kernel, name), getattr(model, name)
            context.check(found == expected, f"kernel_layout changed {name} from {expected} to {found} ({case!r})")
        context.check(
            kernel.w13_state == kernel.w2_state == "kernel",
            f"kernel_layout must declare kernel state, got {kernel.w13_state} and {kernel.w2_state}",
        )
        again = layout.kernel_layout(kernel)
        context.check(again == kernel, f"kernel_layout of its own answer {kernel} is {again}")

    context.examples(check, count=90, case=Cases(context).draw())


@law(part="moe_layout", id="moe_layout.each-element-once")
def each_element_once(context: LawContext) -> None:
    """Within one load a second write of an expert's shard is refused by name, also of one that is on another rank, and
    changes nothing; a load that lacks anything does not finish and names all that it lacks."""
    layout = context.backend.moe_layout

    def check(case: Case, seed: int) -> None:
        whole, other = weights(case.descriptor, case.seed), weights(case.descriptor, seed + 1)
        packed = _pack(context, other, case)
        tensors, others = checkpoint_tensors(whole, case.checkpoint), checkpoint_tensors(other, case.checkpoint)
        left_out = set(random.Random(seed).sample(sorted(tensors), min(2, len(tensors))))
        needed = {name for name in left_out if name in own_tensors(whole, case, case.checkpoint)}
        session = layout.load(packed, case.checkpoint)
        for name in tensors.keys() - left_out:
            session.write(name, tensors[name])
            with context.refuses(f"a second write of {name}", LayoutError, naming=(name,)):
                session.write(name, others[name])
        context.check(
            set(session.missing()) == needed, f"missing() must be {sorted(needed)}, is {sorted(session.missing())}"
        )
        if needed:
            with context.refuses(f"finishing without {sorted(needed)}", LayoutError, naming=sorted(needed)):
                session.finish()
        for name in left_out:
            session.write(name, tensors[name])
        session.finish()
        check_unpacked(context, packed, whole, case, "after a load with refused second writes")

    context.examples(check, count=30, case=Cases(context).draw(), seed=st.integers(0, 999))


@law(part="moe_layout", id="moe_layout.misfits-are-refused")
def misfits_are_refused(context: LawContext) -> None:
    """A tensor of the wrong name, layer, expert, shape or dtype, and a copy between different ranks' parts, are refused
    with LayoutError that names it; nothing is written and nothing is converted."""
    layout = context.backend.moe_layout
    model = LayoutDescriptor(3, 4, 6, dtype=torch.float32, tp_size=2, tp_rank=1)
    case = Case(layout.kernel_layout(model), (0, 1, 2), PER_EXPERT, 7)
    whole, other = weights(model, 7), weights(model, 8)
    packed = _pack(context, whole, case)
    good = checkpoint_tensors(other, PER_EXPERT)
    gate, down = (f"{LAYER}.experts.1.{shard}_proj.weight" for shard in ("gate", "down"))
    wrong: list[tuple[str, torch.Tensor, str]] = [
        (f"{LAYER}.experts.1.middle_proj.weight", good[gate], "a name of no shard"),
        (f"{LAYER}.experts.3.gate_proj.weight", good[gate], "an expert that the layer does not have"),
        (gate.replace("layers.3", "layers.4"), good[gate], "a tensor of another layer"),
        (gate, good[gate].t().contiguous(), "a transposed tensor"),
        (gate, good[gate][:3], "a tensor that was cut already"),
        (down, good[down][:, 3:], "a tensor that was cut already"),
        (gate, torch.cat([good[gate], good[gate][:1]]), "a tensor with a row too many"),
        (gate, good[gate][None], "a tensor with a dimension too many"),
        (gate, good[gate].to(torch.bfloat16), "another dtype"),
        (gate, good[gate].to(torch.float64), "another dtype"),
        (f"{LAYER}.experts.gate_up_proj", torch.cat([other.gate, other.up], dim=1), "another checkpoint format"),
    ]
    for name, tensor, what in wrong:
        session = layout.load(packed, PER_EXPERT)
        with context.refuses(f"{what}, {name} {tuple(tensor.shape)} {tensor.dtype},", LayoutError, naming=(name,)):
            session.write(name, tensor)
    for name, other_model in (
        ("tp_rank", replace(model, tp_rank=0)),
        ("expert_map", replace(model, expert_map=(2, 1, 0))),
        ("hidden_size", replace(model, hidden_size=8)),
        ("dtype", replace(model, dtype=torch.float16)),
    ):
        descriptor = layout.kernel_layout(other_model)
        theirs = replace(case, descriptor=descriptor, owned=descriptor.local_experts)
        source = _pack(context, weights(descriptor, 9), theirs)
        with context.refuses(f"copying experts with another {name}", LayoutError):
            layout.copy_into(source, packed)
    with context.refuses("packing nothing", LayoutError):
        layout.pack({}, case.descriptor, device=context.device)
    check_unpacked(context, packed, whole, case, "after refused writes")


@law(part="moe_layout", id="moe_layout.formats-are-declared")
def formats_are_declared(context: LawContext) -> None:
    """One and the same shape read in two declared checkpoint formats gives each its own experts: fused tensors are
    split as their format says, never by their shape."""
    layout = context.backend.moe_layout
    # 2I = H = I' makes [E,2I,H] and [E,H,2I] alike; so do I = H for down.
    for hidden, rows in ((4, 2), (4, 4)):
        for checkpoint in CHECKPOINT_FORMATS:
            model = LayoutDescriptor(2, hidden, rows, dtype=torch.float32)
            case = Case(layout.kernel_layout(model), (0, 1), checkpoint, 3)
            whole = weights(model, 3)
            packed = _pack(context, whole, case)
            check_unpacked(context, packed, whole, case, f"packed from the {checkpoint.name} format")
            for other in (PER_EXPERT, FUSED, GPT_OSS):
                read = replace(case, checkpoint=other)
                check_unpacked(context, packed, whole, read, f"packed from {checkpoint.name}, unpacked as {other.name}")
