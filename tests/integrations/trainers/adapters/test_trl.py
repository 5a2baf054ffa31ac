"""The TRL adapters against the real package: where they take hold, that they let go, and what AsyncGRPO calls."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hardpoint.errors import HardpointError
from hardpoint.sync import UpdateAborted
from hardpoint_trainers import WeightPublisher, checkpoint_tensors
from hardpoint_trainers.adapters.replaced import replaced
from hardpoint_trainers.adapters.route import Route
from support.colocated import ReceivingEngine
from support.sync_processes import gloo
from support.trainer_models import tiny_trainer_moe


def test_a_name_is_put_back_also_after_an_error() -> None:
    module = SimpleNamespace(__name__="trl.somewhere", name=1)
    with pytest.raises(KeyError), replaced(module, "name", 2):  # type: ignore[arg-type]
        assert module.name == 2
        raise KeyError
    assert module.name == 1


def test_a_module_that_has_moved_on_is_a_sentence() -> None:
    import json

    expected = pytest.raises(HardpointError, match=r"Expected VLLMGeneration in json .*docs/trainers.md")
    with expected, replaced(json, "VLLMGeneration", 1):
        pass


class TestWithTheRealPackage:
    """In an environment with TRL 1.16."""

    @pytest.fixture(autouse=True)
    def _needs_it(self) -> None:
        pytest.importorskip("trl.generation.vllm_generation", reason="TRL is not installed here; see `make trainers`")

    def test_every_trainer_with_a_vllm_of_its_own_can_be_published(self) -> None:
        import sys

        from trl import GRPOTrainer, RLOOTrainer

        from hardpoint_trainers.adapters.trl import published
        from hardpoint_trainers.adapters.trl.generation import PublishedGeneration

        for trainer in (GRPOTrainer, RLOOTrainer):
            module = sys.modules[trainer.__module__]
            theirs = module.VLLMGeneration
            seen: list[Any] = []

            class Stub(trainer):  # type: ignore[misc, valid-type]
                def __init__(self, *args: Any, _module: Any = module, _seen: list[Any] = seen) -> None:
                    _seen.append((_module.VLLMGeneration, args))

            Stub.__module__ = trainer.__module__
            made = published(Stub)(1, 2)
            assert isinstance(made, trainer)
            assert issubclass(seen[0][0], PublishedGeneration)
            assert seen[0][1] == (1, 2)
            assert module.VLLMGeneration is theirs
            assert f"{theirs.__name__}(" in inspect.getsource(trainer)

    def test_what_is_overridden_is_what_trl_calls(self) -> None:
        from trl.generation.vllm_generation import VLLMGeneration

        from hardpoint_trainers.adapters.trl.generation import PublishedGeneration

        for name in ("_init_vllm", "sync_weights"):
            theirs = inspect.signature(getattr(VLLMGeneration, name)).parameters
            assert list(theirs) == list(inspect.signature(getattr(PublishedGeneration, name)).parameters)
        assert "self._init_vllm()" in inspect.getsource(VLLMGeneration.__init__)
        colocate = inspect.getsource(VLLMGeneration._init_vllm)
        assert "self.llm = LLM(" in colocate
        assert 'distributed_executor_backend="external_launcher"' in colocate

    def test_async_grpo_gets_a_weight_transfer_of_its_own_protocol(self) -> None:
        from trl.experimental.async_grpo.async_grpo_trainer import AsyncGRPOTrainer, WeightTransferProtocol

        from hardpoint_trainers.adapters.trl import AsyncWeightTransfer

        assert "weight_transfer" in inspect.signature(AsyncGRPOTrainer).parameters
        for name, method in inspect.getmembers(WeightTransferProtocol, inspect.isfunction):
            if not name.startswith("_"):
                ours = getattr(AsyncWeightTransfer, name)
                assert list(inspect.signature(method).parameters) == list(inspect.signature(ours).parameters)

    def test_async_grpo_publishes_what_trl_gathers_and_resumes_after_a_refusal(self) -> None:
        from trl.experimental.async_grpo.async_grpo_trainer import _iter_vllm_named_params

        from hardpoint_trainers.adapters.trl import AsyncWeightTransfer

        model, engine, calls = tiny_trainer_moe(), ReceivingEngine(), []
        post = SimpleNamespace(post=lambda path, body: calls.append(path))
        transfer = AsyncWeightTransfer(model, post)  # type: ignore[arg-type]
        publisher = WeightPublisher(communicator=gloo, deadline=10.0, path="whole")
        transfer.route = Route(publisher, ((engine, 1),), deadline=10.0, alone=True)

        def sync() -> None:
            transfer.pause()
            transfer.send_weights((name, tensor.detach()) for name, tensor in _iter_vllm_named_params(model))
            transfer.resume()

        sync()
        expected = checkpoint_tensors(model)
        assert engine.live.keys() == expected.keys()
        assert all(torch.equal(engine.live[name], expected[name]) for name in expected)
        engine.refuse = "not now"
        with pytest.raises(UpdateAborted, match="not now"):
            sync()
        assert calls == ["/pause?mode=keep", "/resume"] * 2
        transfer.destroy()
        engine.close()
