"""The digest says whether two ranks would do the same; and a plan that is known is not made again."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hardpoint.sync.plan import Coordinates, Offer, Planner, PlanRefused, SyncPlan, make_plan
from support.plan_models import Small

RANKS = {1: Coordinates(0, 2), 2: Coordinates(1, 2)}


def plan(model: Small, ranks: dict[int, Coordinates] | None = None, bucket: int = 4096) -> SyncPlan:
    spec = model.spec()
    offer = Offer.of(model.tensors(), model.checkpoint)
    return make_plan(offer, spec.receivers(ranks or RANKS), ignored=spec.ignored, bucket_bytes=bucket)


def test_the_digest_is_of_what_the_plan_does() -> None:
    model = Small()
    digests = {
        "base": plan(model).digest,
        "bucket": plan(model, bucket=128).digest,
        "order of halves": plan(replace(model, experts=replace(model.experts, order="w31"))).digest,
        "axes": plan(replace(model, experts=replace(model.experts, axes="[E,K,N]"))).digest,
        "padding": plan(replace(model, experts=replace(model.experts, padded_intermediate=8))).digest,
        "ranks swapped": plan(model, {1: RANKS[2], 2: RANKS[1]}).digest,
        "another receiver": plan(model, RANKS | {3: Coordinates(0, 2, dp_rank=1, dp_size=2)}).digest,
        "placement": plan(model, {1: Coordinates(ep_rank=0, ep_size=2), 2: Coordinates(ep_rank=1, ep_size=2)}).digest,
    }
    assert len(set(digests.values())) == len(digests)
    assert plan(Small()).digest == digests["base"]


def test_every_process_gets_the_same_digest() -> None:
    """Whatever its hash seed: sets and dictionaries must not decide an order."""
    code = (
        "from support.plan_models import Small\nfrom hardpoint.sync.plan import Coordinates, Offer, make_plan\n"
        "m = Small()\nr = {1: Coordinates(ep_rank=0, ep_size=3), 2: Coordinates(ep_rank=1, ep_size=3),"
        " 3: Coordinates(ep_rank=2, ep_size=3), 4: Coordinates(ep_rank=0, ep_size=2),"
        " 5: Coordinates(ep_rank=1, ep_size=2)}\n"
        "print(make_plan(Offer.of(m.tensors()), m.spec().receivers(r), bucket_bytes=256).digest)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join([str(Path(__file__).parents[3]), *sys.path])},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1 and len(found.pop().strip()) == 64


def test_replanning_after_no_change_is_free() -> None:
    model = Small()
    planner = Planner(model.spec(), RANKS)
    first = planner.plan(Offer.of(model.tensors(1)))
    assert planner.plan(Offer.of(model.tensors(2))) is first  # other values, same names, shapes and dtypes


def test_replanning_after_a_change_is_not_the_old_plan() -> None:
    model = Small()
    planner = Planner(model.spec(), RANKS)
    tensors = model.tensors()
    first = planner.plan(Offer.of(tensors))
    turned = planner.plan(Offer.of(dict(reversed(tensors.items()))))
    assert turned is not first and turned.digest != first.digest
    assert planner.plan(Offer.of(tensors)) is first
    planner.plan(Offer.of(dict(sorted(tensors.items()))))  # a third: the oldest is given up
    assert planner.plan(Offer.of(tensors)).digest == first.digest


def test_peft_and_wrapper_names_are_the_same_plan() -> None:
    model = Small()
    tensors = model.tensors()

    def wrapped(name: str) -> str:
        if name.endswith("q_proj.weight"):
            name = name.replace("q_proj.weight", "q_proj.base_layer.weight")
        if name == "lm_head.weight":
            name = "lm_head.modules_to_save.default.weight"
        return f"_orig_mod.base_model.model.{name}".replace("layers.0.", "layers.0._fsdp_wrapped_module.")

    named = {wrapped(name): tensor for name, tensor in tensors.items()}
    planner = Planner(model.spec(), RANKS)
    assert planner.plan(Offer.of(named)) is planner.plan(Offer.of(tensors))


def test_two_names_that_become_one_are_a_duplicate() -> None:
    tensors = Small().tensors()
    name = "model.layers.0.self_attn.q_proj.weight"
    both = tensors | {f"base_model.model.{name}".replace(".weight", ".base_layer.weight"): torch.clone(tensors[name])}
    with pytest.raises(PlanRefused, match=f"Tensor {name} is sent twice"):
        Planner(Small().spec(), RANKS).plan(Offer.of(both))
