"""The log of field report 4 as reports of the probe: what two data-parallel ranks would have written."""

from __future__ import annotations

from hardpoint.probe import Ranks, Report
from hardpoint.probe.report import Finding

MISCOUNTED = (
    "num_actual_tokens is 30 but query_start_loc ends at 26: rows 26 to 29 are padding counted as real, which no "
    "kernel writes; set num_actual_tokens to query_start_loc[-1]"
)


def report(
    dp: int,
    step: int,
    layer: int,
    kind: str,
    where: str,
    *,
    rows: dict[int, int],
    finding: Finding = "nan",
    **more: object,
) -> Report:
    """One report with the batches of the log: prefill in step 0, decode afterwards."""
    if step:
        batch = {"num_actual_tokens": 4, "query_start_loc": (0, 1, 2, 3, 4), "seq_lens": (8, 6, 12, 8)}
    elif dp:
        batch = {"num_actual_tokens": 30, "query_start_loc": (0, 7, 12, 23, 30), "seq_lens": (7, 5, 11, 7)}
    else:
        batch = {"num_actual_tokens": 30, "query_start_loc": (0, 5, 10, 18, 26), "seq_lens": (5, 5, 8, 8)}
    fields = {
        "finding": finding,
        "ranks": Ranks(dp=dp, ep=2 * dp),
        "step": step,
        "phase": "decode" if step else "prefill",
        "shape": (4 if step else 30, 2048),
        "dtype": "bfloat16",
        "layer": layer,
        "layer_kind": kind,
        "layer_name": f"model.layers.{layer}." + {"gdn": "linear_attn", "attention": "self_attn.attn"}.get(kind, "mlp"),
        "where": where,
        "rows": tuple(rows),
        "counts": tuple(rows.values()),
        "input_clean": where == "after" or None,
        **batch,
        **more,
    }
    return Report(**fields)  # type: ignore[arg-type]


def log() -> list[Report]:
    """dp_rank 0: rows 26 to 29 after full attention in layer 3; dp_rank 1: 86 elements of a row after GDN layer 1."""
    whole = dict.fromkeys(range(26, 30), 2048)
    return [
        report(0, 0, -1, "", "", rows={}, finding="mask", faults=(MISCOUNTED,), input_clean=None),
        report(0, 0, 3, "attention", "after", rows=whole),
        report(0, 0, 3, "moe", "before", rows=whole, input_clean=None),
        report(0, 0, 4, "gdn", "before", rows=whole, input_clean=None),
        report(1, 1, 1, "gdn", "after", rows={2: 86}),
        report(1, 1, 1, "moe", "before", rows={2: 2048}, input_clean=None),
    ]
