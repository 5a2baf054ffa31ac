"""An update that does not fit is refused before a byte moves, by the name of the tensor and the rank that needs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardpoint.errors import SyncError
from hardpoint.moe import FUSED, GPT_OSS
from hardpoint.sync import TensorSpec
from hardpoint.sync.plan import (
    Coordinates,
    Destination,
    ModelSpec,
    Offer,
    Part,
    PlanRefused,
    Receiver,
    Sources,
    Storages,
    make_plan,
)
from support.plan_models import Small

MODEL = Small()
TENSORS = MODEL.tensors()
SPEC = MODEL.spec()
OFFER = Offer.of(TENSORS)
RANKS = {1: Coordinates(0, 2), 2: Coordinates(1, 2)}
EXPERT = "model.layers.1.mlp.experts.4.up_proj.weight"
KEY = "model.layers.0.self_attn.k_proj.weight"


def refused(offer: Offer, spec: ModelSpec = SPEC) -> PlanRefused:
    with pytest.raises(PlanRefused) as caught:
        make_plan(offer, spec.receivers(RANKS), ignored=spec.ignored)
    return caught.value


def kinds(error: PlanRefused) -> set[tuple[str, str]]:
    return {(refusal.kind, refusal.tensor) for refusal in error.refusals}


def changed(name: str, change: Callable[[TensorSpec], TensorSpec | None]) -> Offer:
    specs = [change(spec) if spec.name == name else spec for spec in OFFER.tensors]
    return Offer(tuple(spec for spec in specs if spec is not None))


def test_the_whole_checkpoint_is_accepted() -> None:
    make_plan(OFFER, SPEC.receivers(RANKS))


@settings(max_examples=60)
@given(st.integers(0, len(OFFER.tensors) - 1))
def test_any_missing_tensor_is_named_with_who_needs_it(number: int) -> None:
    lost = OFFER.tensors[number].name
    error = refused(changed(lost, lambda spec: None))
    assert kinds(error) == {("missing", lost)}
    assert error.refusals[0].rank == 1 and "rank 1 needs it for" in str(error)


@settings(max_examples=60)
@given(st.integers(0, len(OFFER.tensors) - 1), st.data())
def test_any_wrong_shape_dtype_or_copy_is_named(number: int, data: st.DataObject) -> None:
    spec = OFFER.tensors[number]
    what = data.draw(st.sampled_from(["shape", "dtype", "duplicate", "extra"]))
    if what == "shape":
        error = refused(changed(spec.name, lambda one: replace(one, shape=(*one.shape, 2))))
        assert str(list(spec.shape)) in str(error) and str([*spec.shape, 2]) in str(error)
    elif what == "dtype":
        error = refused(changed(spec.name, lambda one: replace(one, dtype="float16")))
        assert "float16" in str(error) and spec.dtype in str(error)
    elif what == "duplicate":
        error = refused(Offer((*OFFER.tensors, spec)))
    else:
        spec = replace(spec, name=f"{spec.name}.other")
        error = refused(Offer((*OFFER.tensors, spec)))
    assert kinds(error) == {(what, spec.name)}


def test_everything_that_is_wrong_is_told_at_once() -> None:
    specs = [spec for spec in OFFER.tensors if spec.name != EXPERT]
    specs = [replace(spec, dtype="float32") if spec.name == KEY else spec for spec in specs]
    specs.append(TensorSpec("model.layers.9.mlp.gate.weight", (6, 8), "bfloat16"))
    error = refused(Offer(tuple(specs)))
    assert kinds(error) == {("missing", EXPERT), ("dtype", KEY), ("extra", "model.layers.9.mlp.gate.weight")}
    assert all(name in str(error) for _, name in kinds(error))


@pytest.mark.parametrize("expert", [6, 99])
def test_an_expert_that_the_layer_does_not_have(expert: int) -> None:
    name = EXPERT.replace(".4.", f".{expert}.")
    error = refused(Offer((*OFFER.tensors, TensorSpec(name, (4, 8), "bfloat16"))))
    assert kinds(error) == {("extra", name)}


def test_a_fused_checkpoint_where_experts_are_expected_one_by_one() -> None:
    error = refused(Offer.of(Small(checkpoint=FUSED).tensors(), FUSED))
    assert {kind for kind, _ in kinds(error)} == {"layout"}
    assert "model.layers.1.mlp.experts.gate_up_proj is in the fused checkpoint format" in str(error)


def test_experts_one_by_one_where_a_fused_checkpoint_is_expected() -> None:
    error = refused(OFFER, Small(checkpoint=FUSED).spec())
    assert ("layout", "model.layers.1.mlp.experts.0.gate_proj.weight") in kinds(error)
    assert "per-expert checkpoint format" in str(error)


def test_a_fused_format_is_never_guessed_and_must_be_the_declared_one() -> None:
    """Here gate_up of gpt-oss [E, H, 2I] and fused [E, 2I, H] have one shape, 2 * I = H."""
    tensors = Small(checkpoint=GPT_OSS).tensors()
    name = "model.layers.1.mlp.experts.gate_up_proj"
    assert tensors[name].shape == Small(checkpoint=FUSED).tensors()[name].shape
    silent = refused(Offer.of(tensors), Small(checkpoint=GPT_OSS).spec())
    assert ("layout", name) in kinds(silent) and "not declared" in str(silent)
    other = refused(Offer.of(tensors, GPT_OSS), Small(checkpoint=FUSED).spec())
    assert ("layout", name) in kinds(other) and "gpt-oss" in str(other) and "fused" in str(other)


def test_an_adapter_is_told_from_a_stranger() -> None:
    name = "model.layers.0.self_attn.q_proj.lora_A.default.weight"
    error = refused(Offer((*OFFER.tensors, TensorSpec(name, (2, 8), "bfloat16"))))
    assert kinds(error) == {("adapter", name)} and "merge it" in str(error)


def test_a_tied_head_may_come_and_an_untied_one_may_not_be_left_out() -> None:
    tied = Small(tied=True)
    spec = tied.spec()
    both = Offer.of(tied.tensors())
    alone = Offer(tuple(one for one in both.tensors if one.name != "lm_head.weight"))
    for offer in (both, alone):
        make_plan(offer, spec.receivers(RANKS), ignored=spec.ignored)
    assert kinds(refused(alone)) == {("missing", "lm_head.weight")}


def part(tensor: str, low: int, size: int) -> Part:
    return Part((tensor,), (4, 2), "", 0, (2, 1), (low, 0), (size, 2))


@pytest.mark.parametrize(
    ("parts", "grid", "strides", "said"),
    [
        ((part("a", 0, 4), part("b", 4, 3)), (8, 2), (2, 1), "Nothing writes element [7, 0]"),
        ((part("a", 0, 4), part("b", 3, 4)), (8, 2), (2, 1), "would be written twice, by a and b"),
        ((part("a", 0, 4), part("b", 5, 4)), (8, 2), (2, 1), "beyond the grid [8, 2]"),
        ((part("a", 0, 4), part("b", 4, 4)), (8, 2), (1, 1), "does not name each element"),
        ((part("a", 0, 4), part("b", 4, 4)), (8, 2), (3, 1), "does not name each element"),
    ],
)
def test_a_declaration_that_does_not_cover_its_storage_once(
    parts: tuple[Part, ...], grid: tuple[int, ...], strides: tuple[int, ...], said: str
) -> None:
    """What a receiver declares is proved, not believed."""
    destination = Destination("w", "bfloat16", (8, 2), grid, strides, parts)
    offer = Offer(tuple(TensorSpec(name, (4, 2), "bfloat16") for name in "ab"))
    with pytest.raises(PlanRefused) as caught:
        make_plan(offer, [Receiver(1, (destination,))])
    assert {refusal.kind for refusal in caught.value.refusals} == {"coverage"}
    assert said in str(caught.value) and "w [8, 2] on rank 1" in str(caught.value)


def odd(**changes: Any) -> Part:
    """The second half of the grid, wrongly."""
    return part("b", 4, 4)._replace(**changes)


@pytest.mark.parametrize(
    ("second", "zeros", "said"),
    [
        (odd(offset=1), (), "reads elements 1 to 8 of b, which has 8 in its shape [4, 2]"),
        (odd(strides=(4, 1)), (), "reads elements 0 to 13 of b, which has 8"),
        (odd(strides=(2,)), (), "or a number for each of 2 axes"),
        (odd(tensors=()), (), "does not name its tensors"),
        (odd(sizes=(4, 2, 1)), (), "or a number for each of 2 axes"),
        (odd(), (((0,), (1, 1)),), "beyond the grid"),
        (odd(), (((0, 0), (1,)),), "beyond the grid"),
    ],
)
def test_a_declaration_that_reads_beside_its_tensor_or_is_no_box(second: Part, zeros: Any, said: str) -> None:
    """The trainer's memory beside a tensor must not travel, and a strange declaration is refused, not stumbled over."""
    destination = Destination("w", "bfloat16", (8, 2), (8, 2), (2, 1), (part("a", 0, 4), second), zeros)
    offer = Offer(tuple(TensorSpec(name, (4, 2), "bfloat16") for name in "ab"))
    with pytest.raises(PlanRefused) as caught:
        make_plan(offer, [Receiver(1, (destination,))])
    assert said in str(caught.value) and "w [8, 2] on rank 1" in str(caught.value)


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (Coordinates(0, 3), "cannot be shared out"),
        (Coordinates(0, 16), "cannot be shared out"),
        (Coordinates(0, 8), "cannot be shared out"),
    ],
)
def test_sizes_that_cannot_be_cut(at: Coordinates, said: str) -> None:
    with pytest.raises(SyncError, match=said):
        SPEC.destinations(at)


def test_no_receivers_a_rank_twice_and_a_bad_bucket() -> None:
    receivers = SPEC.receivers(RANKS)
    with pytest.raises(SyncError, match="at least one receiver"):
        make_plan(OFFER, [])
    with pytest.raises(SyncError, match="Rank 1 is given twice"):
        make_plan(OFFER, [receivers[0], receivers[0]])
    with pytest.raises(SyncError, match="multiple of 64"):
        make_plan(OFFER, receivers, bucket_bytes=100)


def test_tensors_and_parameters_must_be_what_was_planned() -> None:
    plan = make_plan(OFFER, SPEC.receivers(RANKS))
    with pytest.raises(SyncError, match=f"{EXPERT}.*plan again"):
        Sources(plan, TENSORS | {EXPERT: TENSORS[EXPERT].float()})
    with pytest.raises(SyncError, match=f"{EXPERT}.*not given"):
        Sources(plan, {name: tensor for name, tensor in TENSORS.items() if name != EXPERT})
    good = {of.parameter: torch.empty(of.shape, dtype=getattr(torch, of.dtype)) for of in plan.destinations_for(1)}
    w2 = "model.layers.1.mlp.experts.w2_weight"
    with pytest.raises(SyncError, match="w2_weight on rank 1 is declared"):
        Storages(plan, 1, good | {w2: good[w2].transpose(1, 2)})
    with pytest.raises(SyncError, match="does not exist"):
        Storages(plan, 1, {name: tensor for name, tensor in good.items() if name != w2})
