"""Everything of vLLM that is overridden or patched, and why. `hardpoint doctor` prints it, tests hold it to the truth.

A row comes with the override it tells of: `tests/integrations/vllm/test_overrides.py` compares this table with what an
engine process has replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from hardpoint.overrides import Kind, Override
from hardpoint.probe import wanted
from hardpoint_vllm.versions import SUPPORTED

_LOADERS = "vllm.model_executor.model_loader.base_loader"
_FACTORY = "vllm.distributed.weight_transfer.factory"
_ATTENTION = "vllm.v1.attention.backends.registry"
_MOE = "vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method"


def table() -> list[Override]:
    """Rows in the order they are installed; `installed` is about this process. What another plugin does has no row."""
    from hardpoint_vllm.compat.host import host

    here = host()
    return [row for row in _rows() if not here.leaves(row.owner)]


def _rows() -> list[Override]:
    from hardpoint_vllm.compat import rows as compat

    return [
        _row(
            f"{_LOADERS}:process_weights_after_loading",
            "patch",
            "tripwire.hook",
            "a raw load_weights into weights that were packed for a kernel gives wrong tokens without an error",
            _patched(_LOADERS, None, "process_weights_after_loading"),
            "also with HARDPOINT_BACKEND unset; cannot change results; HARDPOINT_TRIPWIRE=warn|off",
        ),
        _row(
            f"{_FACTORY}:WeightTransferEngineFactory.register_engine",
            "registration",
            "weight_transfer.engine",
            "weight transfer as a transaction, on every device; vLLM's own are CUDA only and commit half updates",
            lambda: "hardpoint" in getattr(_member(_FACTORY, "WeightTransferEngineFactory"), "_registry", ()),
            "used where weight_transfer_config names backend 'hardpoint'; the trainer side is registered beside it",
        ),
        _platform(),
        _row(
            f"{_MOE}:UnquantizedFusedMoEMethod.process_weights_after_loading",
            "registration",
            "moe.unquantized",
            "stock 0.31 and 0.32 pack experts on the first load alone, so reload_weights on CPU corrupts them; their "
            "CPU experts ignore the expert map, which ends in a segfault with expert parallelism",
            _moe,
            "through register_oot; adds nothing on 0.26, which packs on every load",
        ),
        _row(
            f"{_LOADERS}:initialize_model",
            "patch",
            "weight_transfer.first_load",
            "an update must bring what the first load took, and only the first load shows what that is",
            _patched(_LOADERS, None, "initialize_model"),
            "watches models whose weight transfer is hardpoint's, and nothing else",
        ),
        _row(
            "vllm.v1.engine.core:EngineCore.collective_rpc",
            "patch",
            "weight_transfer.core_hook",
            "caches made with the old weights must go with them, and workers cannot reach the scheduler; and an error "
            "in a worker shifts the answers of vLLM's multi-process executor by one",
            _patched("vllm.v1.engine.core", "EngineCore", "collective_rpc"),
            "acts on the weight-transfer calls of engines that use hardpoint's, and passes everything else on",
        ),
        _row(
            "vllm.v1.worker.dp_utils:_synchronize_dp_ranks",
            "patch",
            "parallel.padding",
            "data-parallel ranks bring different token counts into MoE collectives in eager steps, and hang there",
            _patched("vllm.v1.worker.dp_utils", None, "_synchronize_dp_ranks"),
            "adds what the backend's DpRule asks for; sync_cudagraph_and_dp_padding of the newer runner likewise",
        ),
        *(_exchange(target) for target in _EXCHANGES),
        *(_attention(name) for name in _attention_names()),
        *_sleep(),
        *_front(),
        *compat.rows(),
        *(_probe() if wanted() else ()),
        *(_triton() if _launches_triton() else ()),
    ]


_DERIVED = {
    "cpu": "worker that can be a pipeline stage, ragged collectives with a deadline; stock asserts with PP=2, has no "
    "all_gatherv with DP+EP",
    "cuda": "collectives of vLLM's groups on record; the barrier and the scheduler of the backend's rule",
    "xpu": "one gather into one tensor, where stock misuses all_gather; collectives of vLLM's groups on record; the "
    "barrier and the scheduler of the backend's rule",
}


def _platform() -> Override:
    from hardpoint_vllm.platform import PLATFORMS

    found = _device_type() if _device_type() in PLATFORMS else "cpu"
    module, _, name = PLATFORMS[found].base.rpartition(".")
    return _row(
        f"{module}:{name}",
        "subclass",
        f"platform.{found}",
        f"{_DERIVED[found]}; keeps the in-tree _enum, so is_cpu() and the rest answer as before",
        _derived,
        "skipped by vLLM where VLLM_TARGET_DEVICE=cpu; nothing else depends on it",
    )


_EXCHANGES = (
    "vllm.v1.worker.dp_utils:_run_ar",
    "vllm.config.parallel:ParallelConfig.has_unfinished_dp",
    "vllm.config.parallel:ParallelConfig.sync_dp_state",
)


def _exchange(target: str) -> Override:
    module, _, path = target.partition(":")
    owner, _, name = path.rpartition(".")
    return _row(
        target,
        "patch",
        "parallel.exchange",
        "a data-parallel engine that died or stalls is a line about a socket, after gloo's own timeout; here it has a "
        "name",
        _patched(module, owner or None, name),
        "changes the error alone",
    )


def _probe() -> list[Override]:
    return [
        _row(
            "vllm.v1.worker.gpu_worker:Worker.load_model",
            "patch",
            "probe_hooks.attach",
            "hooks on the layers of the model say where the first value that is no number came from",
            _patched("vllm.v1.worker.gpu_worker", "Worker", "load_model"),
            "only with HARDPOINT_PROBE; also with HARDPOINT_BACKEND unset",
        )
    ]


def _front() -> list[Override]:
    from hardpoint_vllm.control.rows import rows

    return rows()


_SLEEP = {
    "vllm.v1.executor.abstract:Executor": ("sleep.core", ("sleep", "wake_up", "discard")),
    "vllm.v1.engine.core:EngineCore": ("sleep.core", ("sleep", "wake_up", "add_request")),
    "vllm.v1.engine.async_llm:AsyncLLM": ("sleep.front", ("sleep", "wake_up", "check_health", "add_request")),
    "vllm.v1.engine.llm_engine:LLMEngine": ("sleep.front", ("sleep", "wake_up", "add_request")),
}


def _sleep() -> list[Override]:
    factory = "vllm.device_allocator.sleep_mode_backend"
    rows = [
        _row(
            f"{factory}:SleepModeBackendFactory.register_backend",
            "registration",
            "sleep.backend",
            "sleep in which no rank unmaps before all agree; stock has no vote, no deadline, no way back, none on CPU",
            lambda: "hardpoint" in getattr(_member(factory, "SleepModeBackendFactory"), "_registry", ()),
            "used by engines with enable_sleep_mode on a platform of hardpoint's; vLLM 0.31 and later",
        )
    ]
    for owner, (ours, names) in _SLEEP.items():
        module, _, cls = owner.partition(":")
        rows += [
            _row(
                f"{owner}.{name}",
                "patch",
                ours,
                "stock serves from unmapped memory after a sleep that failed on one rank, while health says 200",
                _patched(module, cls, name),
                "acts on engines that sleep with hardpoint, and passes everything else on",
            )
            for name in names
        ]
    return rows


def _attention_names() -> tuple[str, ...]:
    from hardpoint_vllm.parallel.zero_tail import BACKENDS

    return BACKENDS.get(_device_type(), ())


def _attention(name: str) -> Override:
    from hardpoint_vllm.parallel.zero_tail import installed

    return _row(
        f"{_ATTENTION}:register_backend",
        "registration",
        "parallel.zero_tail",
        "attention output is torch.empty at the padded size, and no kernel writes the rows past the tokens (NaN)",
        lambda: _ATTENTION in sys.modules and installed(name),
        f"{name}, under the same name; num_actual_tokens never exceeds query_start_loc[-1]",
    )


def _triton() -> list[Override]:
    from hardpoint_vllm.triton import gdn, guard

    rows = [
        _row(
            "triton.runtime.jit:JITFunction.run",
            "patch",
            "triton.guard",
            "Triton launches on the thread's current device, and vLLM's threads and colocated trainers change it",
            guard.installed,
            "also with HARDPOINT_BACKEND unset, and Autotuner.run likewise; HARDPOINT_GUARD=off|strict",
        )
    ]
    for module, name in gdn.LAYERS.items():
        rows.append(
            _row(
                f"{module}:{name}",
                "registration",
                "triton.gdn",
                "kernels of a GDN layer that are not Triton's launch on the thread's current device too",
                _registered(name),
                "through register_oot, when vLLM imports the layer; HARDPOINT_KERNELS puts other kernels into Qwen's",
            )
        )
    return rows


def _launches_triton() -> bool:
    """The platform of this process runs on a device with Triton kernels; on others there is nothing to replace."""
    from hardpoint_vllm.triton.guard import NO_TRITON

    return _device_type() not in NO_TRITON


def _device_type() -> str:
    """Device type of the platform of this process, empty if vLLM has not chosen one."""
    platform = getattr(sys.modules.get("vllm.platforms"), "_current_platform", None)
    return getattr(platform, "device_type", "") or ""


def _registered(name: str) -> Callable[[], bool]:
    def answer() -> bool:
        found = (_member("vllm.model_executor.custom_op", "op_registry_oot") or {}).get(name)
        return getattr(found, "__module__", "").startswith("hardpoint_vllm.")

    return answer


def _row(target: str, kind: Kind, owner: str, reason: str, installed: Callable[[], bool], note: str) -> Override:
    return Override(
        target=target,
        kind=kind,
        owner=f"hardpoint_vllm.{owner}",
        reason=reason,
        versions=SUPPORTED,
        installed=installed(),
        note=note,
    )


def _member(module: str, name: str | None) -> Any:
    # From sys.modules: asking what is installed must not import vLLM.
    owner = sys.modules.get(module)
    return owner if name is None or owner is None else getattr(owner, name, None)


def _patched(module: str, owner: str | None, name: str) -> Callable[[], bool]:
    from hardpoint_vllm.patching import is_wrapped

    return lambda: is_wrapped(_member(module, owner), name)


def _derived() -> bool:
    # The class is asked: vLLM's platforms answer None for any attribute that they lack.
    platform = getattr(sys.modules.get("vllm.platforms"), "_current_platform", None)
    return hasattr(type(platform), "hardpoint_backend")


def _moe() -> bool:
    registry = _member("vllm.model_executor.custom_op", "op_registry_oot") or {}
    found = registry.get("UnquantizedFusedMoEMethod")
    return getattr(found, "__module__", "").startswith("hardpoint_vllm.")
