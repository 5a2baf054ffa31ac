"""The data-parallel rule of the host. Data alone; `DpRule` says what each field means."""

from __future__ import annotations

from hardpoint.dp import DpRule

DP_RULE = DpRule(
    pad_to="max",
    multiple_of=1,
    uniform_when="ep",
    barrier_before_moe=False,
    async_scheduling=False,
    reasons={
        "uniform_when": "gloo ends the process (SIGABRT) that is sent more rows than it expects, and leaves garbage on "
        "the rank that is sent less (tests/field_reports/test_fr4_expert_data_parallel.py)",
        "multiple_of": "no kernel or collective of the host asks for one",
        "barrier_before_moe": "a gloo collective waits for a late rank by itself",
        "async_scheduling": "the host is the device: there is nothing to run ahead of (vLLM's CPU platform agrees)",
    },
)
