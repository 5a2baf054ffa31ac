"""The data-parallel rule of Intel GPUs. Data alone; `DpRule` says what each field means."""

from __future__ import annotations

from hardpoint.dp import DpRule

DP_RULE = DpRule(
    pad_to="max",
    multiple_of=1,
    uniform_when="ep",
    barrier_before_moe=True,
    async_scheduling=False,
    reasons={
        "uniform_when": "XCCL hangs in MoE collectives to which ranks bring different token counts: 26 and 30 on four "
        "Arc B60, eager, TP=2, DP=2, EP (field report FR4, item 1)",
        "barrier_before_moe": "XCCL hangs when a rank enters a MoE collective late (FR4, item 5)",
        "async_scheduling": "it has to be off with EP+DP on XPU (FR4, item 3; the report does not say what goes wrong)",
        "multiple_of": "nothing on record asks for more than equal counts",
    },
)
