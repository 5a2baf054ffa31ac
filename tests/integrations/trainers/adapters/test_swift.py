"""ms-swift: its table of trainers and the replaced methods against the real package, the sync itself by its parts."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hardpoint.errors import HardpointError
from hardpoint_trainers import WeightPublisher
from hardpoint_trainers.adapters.route import Route
from hardpoint_trainers.adapters.swift.mixin import Publishing
from support.colocated import ReceivingEngine
from support.sync_processes import gloo


class _Trainer(Publishing):
    """The attributes of an ms-swift trainer that the mixin reads."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.accelerator = SimpleNamespace(unwrap_model=lambda wrapped: wrapped, process_index=0, num_processes=1)
        self.vllm_mode, self.rollout_enable_lora, self.base_sync_done = "colocate", False, False


def test_a_full_sync_is_one_transaction_per_call() -> None:
    engine, model = ReceivingEngine(), torch.nn.Linear(3, 2)
    trainer = _Trainer(model)
    publisher = WeightPublisher(communicator=gloo, deadline=10.0, path="whole")
    trainer.hardpoint_route = Route(publisher, ((engine, 1),), deadline=10.0)
    for value in (1.0, 2.0):
        with torch.no_grad():
            model.weight.fill_(value)
        trainer._move_full_model_to_vllm()
        assert torch.equal(engine.live["weight"], model.weight)
    assert trainer.base_sync_done
    assert engine.calls == ["join", *["start", "update", "finish"] * 2]
    trainer.hardpoint_route.close()
    engine.close()


@pytest.mark.parametrize(
    ("attribute", "value", "said"),
    [
        ("vllm_mode", "server", "takes weights by endpoints of its own"),
        ("rollout_enable_lora", True, "Set --vllm_enable_lora false"),
    ],
)
def test_what_it_does_not_serve_is_refused_before_anything_moves(attribute: str, value: Any, said: str) -> None:
    trainer = _Trainer(torch.nn.Linear(3, 2))
    setattr(trainer, attribute, value)
    with pytest.raises(HardpointError, match=said):
        trainer._move_full_model_to_vllm()


def test_the_plugin_file_is_where_the_module_says() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "hardpoint_trainers.adapters.swift"], capture_output=True, text=True, check=True
    )
    assert "register()" in Path(ran.stdout.strip()).read_text()


class TestWithTheRealPackage:
    """In an environment with ms-swift."""

    @pytest.fixture(autouse=True)
    def _needs_it(self) -> None:
        pytest.importorskip("swift.rlhf_trainers", reason="ms-swift is not installed here; `make trainers` runs this")

    def test_ms_swift_finds_our_trainers_after_importing_the_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from swift.trainers.trainer_factory import TrainerFactory
        from swift.utils.import_utils import _LazyModule  # noqa: F401 - the package is whole

        import hardpoint_trainers.adapters.swift as adapter

        monkeypatch.setattr(TrainerFactory, "TRAINER_MAPPING", dict(TrainerFactory.TRAINER_MAPPING))
        adapter.register()
        adapter.register()
        for kind in adapter.TRAINERS:
            made = TrainerFactory.get_trainer_cls(SimpleNamespace(rlhf_type=kind))
            assert made.__mro__[1] is Publishing

    def test_another_plugins_trainer_is_not_replaced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from swift.trainers.trainer_factory import TrainerFactory

        from hardpoint_trainers.adapters.swift import register

        monkeypatch.setattr(TrainerFactory, "TRAINER_MAPPING", {"grpo": "their.Trainer"})
        with pytest.raises(HardpointError, match=r"found their.Trainer"):
            register()

    def test_ms_swift_has_and_calls_the_methods_that_are_replaced(self) -> None:
        from swift.rlhf_trainers.rollout_mixin import RolloutTrainerMixin

        for name in ("_prepare_vllm_engine", "_move_full_model_to_vllm"):
            theirs = inspect.signature(getattr(RolloutTrainerMixin, name))
            assert list(theirs.parameters) == list(inspect.signature(getattr(Publishing, name)).parameters)
        source = inspect.getsource(RolloutTrainerMixin)
        assert "self._move_full_model_to_vllm()" in source
        assert "self.engine = self._prepare_vllm_engine()" in source
        assert "vllm_engine_kwargs = self.args.vllm_engine_kwargs or {}" in source
        assert "engine_kwargs=vllm_engine_kwargs" in source
