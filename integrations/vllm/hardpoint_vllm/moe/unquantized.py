"""vLLM's unquantised MoE method, with experts that pack their weights on every load instead of on the first alone.

vLLM 0.31 and 0.32 call the experts' own `process_weights_after_loading` (the prepack of the CPU kernels,
``experts/cpu_moe.py``) from ``_setup_kernel`` under ``if not is_weight_update``. A reload hence leaves w13 and w2 in
checkpoint layout under a kernel that reads its own: same shapes, no error, wrong tokens, even with identical weights.
In 0.26 the CPU path repacks by itself and nothing is added here.

Experts of the CPU kernels ignore which of them a rank holds: see `hardpoint_vllm.parallel.experts`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from vllm.model_executor.custom_op import op_registry_oot
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

from hardpoint_vllm.parallel.experts import with_expert_map

if TYPE_CHECKING:
    import torch

NAME = UnquantizedFusedMoEMethod.__name__
_logger = logging.getLogger("vllm.hardpoint.moe")


class HardpointUnquantizedFusedMoEMethod(UnquantizedFusedMoEMethod):  # type: ignore[misc]
    """Post-load processing that gives the same kernel weights however often it runs; CPU experts by the expert map."""

    def __init__(self, moe: Any) -> None:
        super().__init__(moe)
        chosen: Any = getattr(self, "experts_cls", None)
        if moe.moe_parallel_config.use_ep and getattr(chosen, "__module__", "").endswith(".experts.cpu_moe"):
            self.experts_cls = with_expert_map(chosen)

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Process `layer.w13_weight` and `layer.w2_weight`, in checkpoint layout, for the kernel."""
        kernel = self.moe_kernel
        super().process_weights_after_loading(layer)
        if kernel is None or self.moe_kernel is not kernel:
            return  # built just now: stock has run the experts' own processing
        kernel.fused_experts.process_weights_after_loading(layer)


def install() -> bool:
    """Register the method; False if another one is registered already, ours or a stranger's (named in the log)."""
    registered = op_registry_oot.get(NAME)
    if registered is HardpointUnquantizedFusedMoEMethod:
        return False
    if registered is not None:
        _logger.warning(
            "hardpoint: %s is already replaced by %s.%s, which stays; whether experts survive a reload is up to it",
            NAME,
            registered.__module__,
            registered.__qualname__,
        )
        return False
    UnquantizedFusedMoEMethod.register_oot(HardpointUnquantizedFusedMoEMethod)
    return True
