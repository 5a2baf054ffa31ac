"""A target and its drafter in one update: what they share is declared and written once, the rest is its own."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hardpoint.sync.plan import Offer, PlanRefused, Receiver, Sources, SyncPlan, make_plan
from hardpoint.sync.plan.execute import new_buffer
from hardpoint.sync.transaction import Mode, Room
from hardpoint_vllm.weight_transfer.first_load import record_of, watch
from hardpoint_vllm.weight_transfer.planned.served import DRAFT, Served, ServedModel
from hardpoint_vllm.weight_transfer.planned.staging import ModelWeights

pytestmark = pytest.mark.vllm


class Model(torch.nn.Module):
    """Modules ``embed``, ``head`` and `own`, each with a weight that is loaded by its name."""

    def __init__(self, own: str) -> None:
        super().__init__()
        for name in ("embed", "head", own):
            module = torch.nn.Module()
            module.weight = torch.nn.Parameter(torch.zeros(4, 3), requires_grad=False)
            self.add_module(name, module)

    def load_weights(self, pairs: Any) -> None:
        mine = dict(self.named_parameters())
        for name, tensor in pairs:
            if name in mine:
                mine[name].data.copy_(tensor)


def tensors(version: int, prefix: str = "") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(version)
    names = ("embed.weight", "head.weight", "target.weight", f"{prefix}mtp.weight")
    return {name: torch.rand((4, 3), generator=generator) for name in names}


def loaded(own: str, given: dict[str, torch.Tensor]) -> Model:
    from vllm.model_executor.model_loader.reload import record_metadata_for_reloading

    model = Model(own)
    record_metadata_for_reloading(model)
    watch(model)
    model.load_weights(iter(given.items()))
    return model


def served(own_checkpoint: bool) -> tuple[Served, Model, Model]:
    """As vLLM makes them: the drafter is loaded with an embedding and a head, and then gets the target's."""
    given = tensors(0)
    target, drafter = loaded("target", given), loaded("mtp", given)
    drafter.embed, drafter.head = target.embed, target.head
    first, second = record_of(target), record_of(drafter)
    assert first is not None and second is not None
    config = SimpleNamespace(dtype=torch.float32)
    prefix = DRAFT if own_checkpoint else ""
    return (
        Served(ServedModel(target, config, first), ServedModel(drafter, config, second, DRAFT, prefix)),
        target,
        drafter,
    )


def plan_of(models: Served, offered: dict[str, torch.Tensor]) -> SyncPlan:
    declared = models.declaration()
    ignored = [(name, "nobody takes it") for name in declared.ignored]
    return make_plan(Offer.of(offered), [Receiver(1, declared.destinations)], ignored=ignored, bucket_bytes=64)


class Standing:
    def room(self) -> Room:
        return Room(1 << 30, 1 << 30)

    def pause(self) -> None:
        """It stands."""

    def run(self, call: Callable[[], Any]) -> Any:
        return call()


def staged(models: Served, plan: SyncPlan, version: int, prefix: str, mode: Mode) -> Any:
    staging = ModelWeights(plan, 1, models, torch.device("cpu"), Standing()).stage(mode)  # type: ignore[arg-type]
    staging.stream_into(None, lambda: None)  # type: ignore[arg-type]
    sources = Sources(plan, tensors(version, prefix))
    for bucket in plan.buckets:
        buffer = new_buffer(bucket)
        sources.pack(bucket, buffer)
        staging.target.land(bucket, buffer)
    staging.prepare()
    return staging


def holds(target: Model, drafter: Model, version: int, prefix: str) -> bool:
    wanted = tensors(version, prefix)
    found = {**dict(target.named_parameters()), f"{prefix}mtp.weight": drafter.get_parameter("mtp.weight")}
    return drafter.embed is target.embed and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_shared_parameters_are_declared_once_and_the_drafters_own_under_its_prefix() -> None:
    models, target, drafter = served(own_checkpoint=False)
    names = [of.parameter for of in models.declaration().destinations]
    assert sorted(names) == ["draft.mtp.weight", "embed.weight", "head.weight", "target.weight"]
    assert len(list(models.modules())) == len({*target.modules(), *drafter.modules()})
    assert dict(models.named_parameters()).keys() == set(names)


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.UNDO, Mode.OFF])
@pytest.mark.parametrize("prefix", ["", DRAFT])
def test_both_have_an_update_or_neither(mode: Mode, prefix: str) -> None:
    models, target, drafter = served(bool(prefix))
    plan = plan_of(models, tensors(1, prefix))
    addresses = [of.data_ptr() for _, of in models.named_parameters()]
    staged(models, plan, 1, prefix, mode).commit()
    assert holds(target, drafter, 1, prefix)
    if mode is not Mode.OFF:
        staging = staged(models, plan, 2, prefix, mode)
        assert holds(target, drafter, 2, prefix), "there is something to go back from"
        assert staging.abort()
        assert holds(target, drafter, 1, prefix)
    assert [of.data_ptr() for _, of in models.named_parameters()] == addresses


@pytest.mark.parametrize("missing", ["mtp.weight", "embed.weight"])
def test_an_update_without_the_drafter_or_what_they_share_is_refused_by_name(missing: str) -> None:
    models, _, _ = served(own_checkpoint=False)
    with pytest.raises(PlanRefused, match=missing):
        plan_of(models, {name: tensor for name, tensor in tensors(1).items() if name != missing})


def test_a_drafters_own_copy_of_what_is_shared_may_come_and_goes_nowhere() -> None:
    models, _, _ = served(own_checkpoint=True)
    plan = plan_of(models, {**tensors(1, DRAFT), "draft.embed.weight": torch.zeros(4, 3)})
    assert plan.sent_bytes == 4 * 4 * 3 * 4


def test_without_the_drafter_its_tensors_may_come_and_go_nowhere() -> None:
    _, target, _ = served(own_checkpoint=False)
    first = record_of(target)
    assert first is not None
    plan_of(Served(ServedModel(target, None, first)), tensors(1))
