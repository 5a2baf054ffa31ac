"""The data-parallel rule of Ascend NPUs. Data alone; `DpRule` says what each field means."""

from __future__ import annotations

from hardpoint.dp import DpRule

DP_RULE = DpRule(
    pad_to="max",
    multiple_of="tp",
    uniform_when="ep",
    barrier_before_moe=False,
    async_scheduling=True,
    reasons={
        "multiple_of": "MC2 dispatch and sequence parallelism split the padded batch over the tensor-parallel ranks: "
        "vllm-ascend pads to ceil(max / tp) * tp (ascend_forward_context.py, 182b75ea8)",
        "uniform_when": "MC2 and all-to-all take one count for all ranks and a mask of real tokens; the decision "
        "follows the synced mode, which vllm-ascend's own does not (it takes the local one)",
        "barrier_before_moe": "HCCL waits for a late rank; no report says otherwise",
        "async_scheduling": "vllm-ascend runs with it, and no report says that it breaks EP+DP",
    },
)
