"""Weight-transfer engine ``hardpoint``: an update arrives whole, verified and agreed on, or the old weights stay."""

from __future__ import annotations

NAME = "hardpoint"


def register() -> None:
    """Register engine and trainer side with vLLM's factories, once per process. Their modules are imported on use."""
    from vllm.distributed.weight_transfer import factory

    _register(factory.WeightTransferEngineFactory, "engine", "HardpointWeightTransferEngine")
    trainers = getattr(factory, "WeightTransferTrainerFactory", None)  # not in 0.26
    if trainers is not None:
        _register(trainers, "trainer", "HardpointTrainerEngine")


def _register(registry: object, module: str, name: str) -> None:
    if NAME not in registry._registry:  # type: ignore[attr-defined]
        registry.register_engine(NAME, f"hardpoint_vllm.weight_transfer.{module}", name)  # type: ignore[attr-defined]
