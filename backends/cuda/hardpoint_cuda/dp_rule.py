"""The data-parallel rule of NVIDIA GPUs. Data alone; `DpRule` says what each field means."""

from __future__ import annotations

from hardpoint.dp import DpRule

DP_RULE = DpRule(
    pad_to="none",
    multiple_of=1,
    uniform_when="graph",
    barrier_before_moe=False,
    async_scheduling=True,
    reasons={
        "pad_to": "ragged gathers and scatters work over NCCL: padding an eager step would only cost the arithmetic of "
        "rows that nobody reads",
        "uniform_when": "a captured graph holds the shapes of its collectives, so replaying ranks bring equal counts, "
        "which an eager step does not need",
        "barrier_before_moe": "NCCL orders collectives in their streams, and a late rank is waited for",
        "async_scheduling": "counts are agreed on over a CPU group before the step is launched, "
        "so running ahead is safe",
    },
)
