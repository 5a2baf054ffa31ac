"""Where values that are no numbers began, from the probe's reports of all ranks.

An *origin* is a layer whose input was clean and whose output is not. Everything later in the same step on the same
rank may have followed from it; on another rank only through a MoE collective of a layer in between.
"""

from __future__ import annotations

from collections.abc import Sequence

from hardpoint.explain.explanation import Explanation, Origin, rows_in_words
from hardpoint.probe.report import Report

_COLUMNS = ("rank", "step", "phase", "where", "rows", "elements", "of which padding", "num_actual_tokens", "end of qsl")


def explain_nan(reports: Sequence[Report], clean: Sequence[Report] = ()) -> Explanation:
    """Origins in the order of steps and layers, one per rank and step; what broke; what cannot be known.

    Args:
        reports: of all ranks of the run that went wrong.
        clean: of a run without the fault, for comparison.
    """
    bad = sorted((report for report in reports if report.finding == "nan"), key=_order)
    masks = [report for report in reports if report.finding == "mask"]
    origins = [report for report in bad if report.where == "after" and report.input_clean]
    firsts = _first_per_rank_and_step(origins)
    arrived = [report for report in _first_per_rank_and_step(bad) if report not in firsts and report.where == "before"]
    states = [report for report in bad if report.where == "state"]
    told = [_origin(report, masks, firsts[:number], states) for number, report in enumerate(firsts)]
    told += [_miscounted(report) for report in masks if not any(_same_step(report, first) for first in firsts)]
    return Explanation(
        subject="nan",
        summary=_summary(firsts, masks, bad),
        origins=tuple(told),
        followed=tuple(_followed([report for report in bad if not _state_of(report, firsts)], firsts)),
        unproven=tuple(_unproven(reports, bad, arrived)),
        differences=tuple(_differences(reports, clean)),
        columns=_COLUMNS,
        rows=tuple(_row(report) for report in bad),
    )


def _order(report: Report) -> tuple[int, int, bool, bool, int]:
    # In a layer of the model the experts come after attention or GDN.
    return report.step, report.layer, report.layer_kind == "moe", report.where == "after", report.ranks.dp


def _first_per_rank_and_step(reports: Sequence[Report]) -> list[Report]:
    seen: dict[tuple[object, int], Report] = {}
    for report in reports:
        seen.setdefault((report.ranks, report.step), report)
    return sorted(seen.values(), key=_order)


def _same_step(left: Report, right: Report) -> bool:
    return (left.ranks, left.step) == (right.ranks, right.step)


def _summary(firsts: Sequence[Report], masks: Sequence[Report], bad: Sequence[Report]) -> str:
    if not bad and not masks:
        return "No report of values that are no numbers, and no batch whose counts do not fit each other."
    if not firsts:
        if masks and not bad:
            return "No value that is no number, but a batch whose counts do not fit each other: it would become one."
        return "Values that are no numbers, but no layer whose input was clean: it began where nobody looked."
    began = "; ".join(_title(report) for report in firsts)
    return f"It began at {len(firsts)} place{'' if len(firsts) == 1 else 's'}: {began}."


def _title(report: Report) -> str:
    if report.padding_rows and not report.real_rows:
        counted = report.num_actual_tokens > report.real
        what = "counted as real" if counted else "not zeroed"
        return f"padding {rows_in_words(report.padding_rows)} {what} on dp_rank {report.ranks.dp}"
    kind = {"gdn": "GDN layer", "attention": "attention layer", "moe": "MoE layer"}.get(report.layer_kind, "layer")
    return f"{report.elements} elements after {kind} {report.layer} in {report.phase} on dp_rank {report.ranks.dp}"


def _state_of(state: Report, layers: Sequence[Report]) -> bool:
    """Whether `state` is what one of `layers` read, and so is told with it."""
    return state.where == "state" and any(_same_step(state, each) and state.layer == each.layer for each in layers)


def _origin(report: Report, masks: Sequence[Report], earlier: Sequence[Report], states: Sequence[Report]) -> Origin:
    evidence = [
        f"{report.ranks}, step {report.step}, {report.phase}: {report.elements} values of {list(report.shape)} "
        f"{report.place} ({report.layer_name}) are no numbers, in {rows_in_words(report.rows)}; its input was clean.",
        f"The batch: num_actual_tokens={report.num_actual_tokens}, query_start_loc={list(report.query_start_loc)}, "
        f"seq_lens={list(report.seq_lens)}.",
    ]
    evidence += [
        f"The counts do not fit: {'; '.join(mask.faults)}."
        for mask in masks
        if _same_step(mask, report) and mask.faults
    ]
    apart = _apart(report, earlier)
    if apart:
        evidence.append(apart)
    if report.padding_rows and not report.real_rows:
        return _padding(report, evidence)
    if report.layer_kind == "gdn":
        return _state(report, evidence, next((state for state in states if _state_of(state, [report])), None))
    if report.layer_kind == "moe":
        return Origin(
            _title(report),
            tuple(evidence),
            "A MoE layer gives finite values for finite input: an expert's weights, or rows of other ranks, are not.",
            "Check the expert weights of the ranks of this group, and the padding rows that they bring.",
            (
                "whether an expert's weights or a row of another rank is to blame: what other ranks' experts got is "
                "not in a report of this rank",
            ),
        )
    return Origin(
        _title(report),
        tuple(evidence),
        "A kernel gives finite values for finite input and writes every row of a real token.",
        "Run the same batch with HARDPOINT_BACKEND=cpu, or with another attention backend, and compare.",
        ("whether the kernel computed the values or left the rows unwritten", "whether the KV cache held them before"),
    )


def _padding(report: Report, evidence: list[str]) -> Origin:
    rows = rows_in_words(report.padding_rows)
    if report.num_actual_tokens > report.real:
        counted = rows_in_words(range(report.real, report.num_actual_tokens))
        evidence.append(
            f"query_start_loc ends at {report.real} and num_actual_tokens says {report.num_actual_tokens}: {counted} "
            "belong to no request, no kernel writes them, and they hold what the allocator left."
        )
        rule = (
            "num_actual_tokens is the end of query_start_loc (DpRule: padding never counts as real); rows past it are "
            "zero (AttentionBuffers.finish)."
        )
        advice = "Set num_actual_tokens to query_start_loc[-1], and zero the output past it."
    else:
        evidence.append(
            f"{rows.capitalize()} are past the end of query_start_loc ({report.real}): no kernel writes them."
        )
        rule = "Rows past the tokens are zero (AttentionBuffers.finish)."
        advice = "Zero the output past num_actual_tokens, in the attention layer and in the model's own buffer."
    return Origin(_title(report), tuple(evidence), rule, advice)


def _state(report: Report, evidence: list[str], state: Report | None) -> Origin:
    width = report.shape[1] if len(report.shape) > 1 else 0
    part = [f"{count} of {width} in row {row}" for row, count in zip(report.rows, report.counts, strict=True)]
    evidence.append(
        f"Real rows are hit, in part: {', '.join(part)}. Attention padding cannot do that; state that is read can."
        if any(count < width for count in report.counts)
        else "Real rows are hit as a whole."
    )
    rule = (
        "A request without state reads zero, and a slot is reset when it is given out (AttentionBuffers.read_state, "
        "reset_state)."
    )
    advice = "Reset the state of a slot when a request gets it, and mask what a new request reads with where."
    which = (
        "whether the slot of that request was never initialised, or whether an earlier step wrote NaN into it "
        "(through a MoE combine, for example)"
    )
    if report.state_clean:
        evidence.append(
            "The state that it read was scanned before the layer, and was clean: the layer made the values."
        )
        rule = "A kernel gives finite values for finite input and finite state, and writes every row of a real token."
        advice = "Run the same batch with HARDPOINT_BACKEND=cpu, or with another GDN kernel, and compare."
        return Origin(
            _title(report),
            tuple(evidence),
            rule,
            advice,
            ("whether a kernel or the weights of the layer are to blame",),
        )
    if report.state_clean is None:
        return Origin(_title(report), tuple(evidence), rule, advice, (f"{which}: the state itself was not scanned",))
    slots = "" if state is None else f", of {_requests(state)}"
    evidence.append(f"The state that it read held values that are no numbers before the layer ran{slots}.")
    return Origin(_title(report), tuple(evidence), rule, advice, (which,))


def _requests(state: Report) -> str:
    rows = ", ".join(map(str, state.rows))
    return f"request{'' if len(state.rows) == 1 else 's'} {rows} of the batch ({state.elements} values)"


def _apart(report: Report, earlier: Sequence[Report]) -> str:
    others = [first for first in earlier if first.ranks != report.ranks]
    if not others:
        return ""
    words = "; ".join(f"{_title(first)} (step {first.step}, layer {first.layer})" for first in others)
    return (
        "This is a separate origin: the input of the layer was clean on this rank, so nothing came to it with the "
        f"hidden states of this step, and so not from {words}."
    )


def _miscounted(report: Report) -> Origin:
    beyond = range(report.real, report.num_actual_tokens)
    what = f"{rows_in_words(beyond)} counted as real" if beyond else "counts that do not fit each other"
    return Origin(
        f"padding {what} on dp_rank {report.ranks.dp}" if beyond else f"{what} on dp_rank {report.ranks.dp}",
        tuple(f"{report.ranks}, step {report.step}, {report.phase}: {fault}." for fault in report.faults),
        "num_actual_tokens is the end of query_start_loc, and the hidden states hold that many rows.",
        "Set num_actual_tokens to query_start_loc[-1] where the batch's metadata is built.",
    )


def _followed(bad: Sequence[Report], firsts: Sequence[Report]) -> list[str]:
    lines = []
    for report in bad:
        if report in firsts:
            continue
        causes = [first for first in firsts if _order(first) <= _order(report) and first.ranks == report.ranks]
        cause = f"after {_title(causes[-1])}" if causes else "with no earlier report on this rank"
        lines.append(
            f"{report.ranks}, step {report.step}: {report.elements} values {report.place}, "
            f"{rows_in_words(report.rows)}, {cause}."
        )
    return lines


def _unproven(reports: Sequence[Report], bad: Sequence[Report], arrived: Sequence[Report]) -> list[str]:
    lines = []
    if bad:
        lines.append(
            "Each kind of layer, phase and rank reports once, the first time: what came later, or came again, "
            "is not on record."
        )
    seen = sorted({report.ranks.dp for report in reports})
    missing = sorted(set(range(max(seen, default=0) + 1)) - set(seen))
    if missing:
        lines.append(
            f"No report of dp_rank {', '.join(map(str, missing))}: it was clean, not probed, or its files are not here."
        )
    lines += [
        f"{report.ranks}, step {report.step}: the input {report.place} was not clean, no layer before it reports; it "
        "came from a layer that is not watched, from the embedding, or from another rank."
        for report in arrived
        if not any(other.ranks == report.ranks and _order(other) < _order(report) for other in bad)
    ]
    steps = {report.ranks.dp: report.step for report in bad}
    if len(set(steps.values())) > 1:
        lines.append(
            "Steps are counted per process: that step numbers of two ranks mean the same moment is likely, as "
            "data-parallel ranks step together, and not recorded."
        )
    return lines


def _differences(reports: Sequence[Report], clean: Sequence[Report]) -> list[str]:
    lines: list[str] = []
    for report in sorted(reports, key=_order):
        if report.finding == "nan":
            continue
        like = [other for other in clean if (other.ranks, other.phase) == (report.ranks, report.phase)]
        for other in like[:1]:
            for name in ("num_actual_tokens", "query_start_loc", "seq_lens", "shape"):
                mine, theirs = getattr(report, name), getattr(other, name)
                if mine != theirs:
                    lines.append(
                        f"{report.ranks}, first {report.phase} step: {name} is {_plain(mine)}, in the clean run "
                        f"{_plain(theirs)}."
                    )
                    break
    if clean and not lines:
        lines.append("The first batches of both runs have the same counts: the difference is elsewhere.")
    return lines


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _row(report: Report) -> tuple[str, ...]:
    return (
        str(report.ranks),
        str(report.step),
        report.phase,
        report.place,
        rows_in_words(report.rows),
        str(report.elements),
        str(len(report.padding_rows)),
        str(report.num_actual_tokens),
        str(report.real),
    )
