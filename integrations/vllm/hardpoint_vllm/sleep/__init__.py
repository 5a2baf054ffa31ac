"""vLLM's sleep mode on hardpoint's `Lifecycle`: every worker of an engine sleeps and wakes, or none does.

Chosen by the derived platform for engines with ``enable_sleep_mode=True``. Which calls arrive where:

    POST /sleep, LLM.sleep, AsyncLLM.sleep  ->  front   deadline of a drain, health, refusal of requests
      EngineCore.sleep, Executor.sleep      ->  core    every worker's answer; scheduling goes on if nothing changed
        one call to every worker            ->  seat    `Lifecycle`: drain, synchronise, vote, unmap, vote
          MemoryMap of the backend          ->  memory  parameters and KV cache under their tags
"""

from __future__ import annotations

from typing import Any

NAME = "hardpoint"
# Calls of the engine core that write weights, and those after which every weight has been written.
WRITERS = frozenset({"reload_weights", "start_weight_update", "update_weights", "finish_weight_update"})
WHOLE_WRITERS = frozenset({"reload_weights", "finish_weight_update"})


def install() -> bool:
    """Register the backend and replace what `overrides` lists, in this process; False where vLLM has no such backends.

    Sleep mode takes backends since vLLM 0.31; before, it is left as it is.
    """
    try:
        from vllm.device_allocator.sleep_mode_backend import SleepModeBackendFactory
        from vllm.exceptions import GracefulHTTPError  # noqa: F401 - what `front` answers with
    except ImportError:
        return False
    from hardpoint_vllm.sleep import core, front

    if NAME not in SleepModeBackendFactory._registry:
        SleepModeBackendFactory.register_backend(NAME, "hardpoint_vllm.sleep.backend", "HardpointSleepBackend")
    core.install()
    front.install()
    return True


def choose(vllm_config: Any) -> None:
    """Have an engine with sleep mode sleep with this package if the backend claims sleep; vLLM has no flag for it."""
    import hardpoint

    model = getattr(vllm_config, "model_config", None)
    if model is None or not model.enable_sleep_mode or not hasattr(model, "sleep_mode_backend"):
        return
    if hardpoint.get_backend().capabilities.sleep:
        model.sleep_mode_backend = NAME


def require_weights(core: Any, what: str) -> None:
    """LifecycleError if the weights of this engine core sleep: `what` would write into memory that is not there."""
    from hardpoint_vllm.sleep.core import roll_of, sleeps_with_hardpoint

    if sleeps_with_hardpoint(core.vllm_config):
        roll_of(core.model_executor).require_weights(what)


def weights_written(core: Any) -> None:
    """All weights have been written: what a sleep of level 2 lost is there again, and serving may go on."""
    from hardpoint_vllm.sleep.core import roll_of, sleeps_with_hardpoint

    if not sleeps_with_hardpoint(core.vllm_config):
        return
    roll = roll_of(core.model_executor)
    if roll.undefined():
        roll.call("committed")
        if not core.model_executor.is_sleeping:
            core.resume_scheduler()
