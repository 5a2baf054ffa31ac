"""What post-load processing derives of weights is new after a commit and old after an abort, in every mode.

vLLM's own layerwise reload on a layer whose kernel layout is not the checkpoint's: halves swapped, a product of the
weights kept beside it (as absorbed projections and packed weights are), and one on a helper object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hardpoint.errors import SyncError
from hardpoint.sync.plan import Offer, Receiver, Sources, SyncPlan, make_plan
from hardpoint.sync.plan.execute import new_buffer
from hardpoint.sync.transaction import Mode, Room
from hardpoint_vllm.weight_transfer.first_load import FirstLoad
from hardpoint_vllm.weight_transfer.placement import Watch, destinations
from hardpoint_vllm.weight_transfer.planned.served import Served, ServedModel
from hardpoint_vllm.weight_transfer.planned.staging import ModelWeights

pytestmark = pytest.mark.vllm
MODES = [Mode.SHADOW, Mode.UNDO, Mode.OFF]


class Standing:
    """A gate at which the worker stands already."""

    def __init__(self, room: Room | None = None) -> None:
        self.paused = 0
        self.free = room or Room(1 << 30, 1 << 30)

    def room(self) -> Room:
        return self.free

    def pause(self) -> None:
        self.paused += 1

    def run(self, call: Callable[[], Any]) -> Any:
        return call()


def _model() -> tuple[torch.nn.Module, dict[str, torch.Tensor], SyncPlan]:
    """A loaded model with one such layer and a norm, the checkpoint, and the plan of its loaders."""
    from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
    from vllm.model_executor.model_loader.reload import record_metadata_for_reloading

    class Method(QuantizeMethodBase):  # type: ignore[misc]
        def create_weights(self, layer: torch.nn.Module, *args: Any, **kwargs: Any) -> None: ...
        def apply(self, layer: torch.nn.Module, *args: Any, **kwargs: Any) -> None: ...

        def process_weights_after_loading(self, layer: Any) -> None:
            weight = layer.weight.data
            product = weight.float() @ weight.float().t()
            if hasattr(layer, "absorbed"):  # in place, as vLLM does for captured graphs
                layer.absorbed.copy_(product)
            else:
                layer.absorbed = product
            self.scale = weight.abs().amax()
            layer.weight.data = torch.cat([weight[4:], weight[:4]])

    model = torch.nn.Module()
    model.proj, model.norm = torch.nn.Module(), torch.nn.Module()  # type: ignore[assignment]
    model.proj.weight = torch.nn.Parameter(torch.zeros(8, 6), requires_grad=False)  # type: ignore[union-attr]
    model.norm.weight = torch.nn.Parameter(torch.zeros(6), requires_grad=False)  # type: ignore[union-attr]
    model.proj.quant_method = Method()  # type: ignore[union-attr]
    record_metadata_for_reloading(model)
    given = tensors(0)
    watch = Watch(dict(model.named_parameters()))
    with watch:
        for name, tensor in given.items():
            watch.give(name, tensor)
            dict(model.named_parameters())[name].data.copy_(tensor)
    model.proj.quant_method.process_weights_after_loading(model.proj)  # type: ignore[union-attr, operator]
    plan = make_plan(Offer.of(given), [Receiver(1, destinations(watch.placed))], bucket_bytes=128)
    return model, given, plan


def tensors(version: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(version)
    return {
        "proj.weight": torch.rand((8, 6), generator=generator),
        "norm.weight": torch.rand((6,), generator=generator),
    }


def state(model: Any) -> dict[str, torch.Tensor]:
    return {
        "proj": model.proj.weight.detach().clone(),
        "norm": model.norm.weight.detach().clone(),
        "absorbed": model.proj.absorbed.clone(),
        "scale": model.proj.quant_method.scale.clone(),
    }


def expected(version: int) -> dict[str, torch.Tensor]:
    weight = tensors(version)["proj.weight"]
    return {
        "proj": torch.cat([weight[4:], weight[:4]]),
        "norm": tensors(version)["norm.weight"],
        "absorbed": weight @ weight.t(),
        "scale": weight.abs().amax(),
    }


def same(model: Any, version: int) -> bool:
    found, wanted = state(model), expected(version)
    return all(torch.equal(found[name], wanted[name]) for name in wanted)


def land(staging: Any, plan: SyncPlan, version: int, buckets: int | None = None) -> None:
    """The first `buckets` of an update, or all."""
    sources = Sources(plan, tensors(version))
    staging.stream_into(None, lambda: None)
    for bucket in plan.buckets[:buckets]:
        buffer = new_buffer(bucket)
        sources.pack(bucket, buffer)
        staging.target.land(bucket, buffer)


def weights(model: torch.nn.Module, plan: SyncPlan, gate: Standing, breaks: bool = False) -> ModelWeights:
    placed = {of.parameter: None for of in plan.destinations_for(1)}
    first = FirstLoad({}, frozenset(), placed)  # type: ignore[arg-type]
    served = Served(ServedModel(model, SimpleNamespace(dtype=torch.float32), first))
    if breaks:
        loads = served.load

        def broken(staged: Mapping[str, torch.Tensor]) -> None:
            loads({"proj.weight": staged["proj.weight"]})
            raise MemoryError("no room for the second half")

        served.load = broken  # type: ignore[method-assign]
    return ModelWeights(plan, 1, served, torch.device("cpu"), gate)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
def test_a_commit_makes_derived_state_anew_at_the_same_addresses(mode: Mode) -> None:
    model, _, plan = _model()
    assert same(model, 0)
    addresses = [tensor.data_ptr() for tensor in (model.proj.weight, model.norm.weight, model.proj.absorbed)]  # type: ignore[union-attr]
    gate = Standing()
    for version in (1, 2):
        staging = weights(model, plan, gate).stage(mode)
        land(staging, plan, version)
        staging.prepare()
        staging.commit()
        assert same(model, version)
    found = [tensor.data_ptr() for tensor in (model.proj.weight, model.norm.weight, model.proj.absorbed)]  # type: ignore[union-attr]
    assert found == addresses
    assert gate.paused == (0 if mode is Mode.SHADOW else 2), "in place, the worker stands still from the beginning"


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.UNDO])
@pytest.mark.parametrize("prepared", [False, True])
def test_an_abort_restores_derived_state(mode: Mode, prepared: bool) -> None:
    model, _, plan = _model()
    before = {name: id(value) for name, value in vars(model.proj).items()}
    staging = weights(model, plan, Standing()).stage(mode)
    land(staging, plan, 1, None if prepared else 1)
    if prepared:
        staging.prepare()
        assert same(model, 1), "there is something to go back from"
    assert staging.abort()
    assert same(model, 0)
    assert {name: id(value) for name, value in vars(model.proj).items()} == before


@pytest.mark.parametrize("mode", MODES)
def test_a_load_that_breaks_half_way_is_undone_or_said_to_be_lost_and_a_full_update_mends_it(mode: Mode) -> None:
    model, _, plan = _model()
    staging = weights(model, plan, Standing(), breaks=True).stage(mode)
    land(staging, plan, 1)
    with pytest.raises(MemoryError):
        staging.prepare()
    assert staging.abort() is (mode is not Mode.OFF)
    assert same(model, 0) is (mode is not Mode.OFF)
    staging = weights(model, plan, Standing()).stage(mode)
    land(staging, plan, 2)
    staging.prepare()
    staging.commit()
    assert same(model, 2)


def test_off_that_has_written_nothing_loses_nothing() -> None:
    model, _, plan = _model()
    assert weights(model, plan, Standing()).stage(Mode.OFF).abort()
    assert same(model, 0)


def test_parameters_are_overwritten_where_they_lie_and_what_does_not_fit_lands_beside() -> None:
    model, _, plan = _model()
    target = weights(model, plan, Standing()).stage(Mode.UNDO).target
    assert [of.data_ptr() for of in target.named.values()] == [
        dict(model.named_parameters())[name].data_ptr() for name in target.named
    ]
    model.proj.weight = torch.nn.Parameter(torch.zeros(0), requires_grad=False)  # type: ignore[union-attr]  # packed
    target = weights(model, plan, Standing()).stage(Mode.UNDO).target
    assert target.named["norm.weight"].data_ptr() == model.norm.weight.data_ptr()  # type: ignore[union-attr, operator]
    with pytest.raises(SyncError, match=r"proj\.weight is one.*no room for 192 bytes beside them \(100 free\)"):
        weights(model, plan, Standing(Room(100, 1 << 30))).stage(Mode.UNDO)


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.UNDO])
def test_old_values_that_do_not_fit_in_host_memory_are_no_update(mode: Mode) -> None:
    model, _, plan = _model()
    with pytest.raises(SyncError, match=f"Mode {mode.value} keeps the .* bytes that serve in host memory"):
        weights(model, plan, Standing(Room(1 << 30, 100))).stage(mode)
