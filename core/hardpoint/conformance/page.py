"""The report as one self-contained HTML page: no network, light and dark, readable without its script."""

from __future__ import annotations

import re
from html import escape
from importlib import resources

from hardpoint.conformance.chart import coverage_chart
from hardpoint.conformance.results import LawResult, Report, Status, tally

_COLOUR = {
    Status.PASSED: "var(--passed)",
    Status.FAILED: "var(--failed)",
    Status.KNOWN_FAILURE: "var(--known)",
    Status.NOT_APPLICABLE: "var(--idle)",
    Status.NOT_CLAIMED: "var(--none)",
}
_PLURAL = {
    Status.PASSED: "passed",
    Status.FAILED: "failed",
    Status.KNOWN_FAILURE: "known failures",
    Status.NOT_APPLICABLE: "not applicable",
    Status.NOT_CLAIMED: "not claimed",
}


def render(report: Report) -> str:
    """The page, as text."""
    name = report.subject.name or report.subject.label
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(name)}: hardpoint conformance</title>
<link rel="icon" href="data:,">
<style>
{_asset("page.css")}</style>
</head>
<body>
<main>
{_header(report, name)}
{_verdict(report)}
{_numbers(report)}
{_problems(report)}
{_failures(report)}
<h2>Coverage by part</h2>
<div class="card chart">{coverage_chart(report, _COLOUR)}</div>
<h2>What was tested</h2>
{_facts(report)}
<h2>Laws</h2>
{_filters(report)}
{"".join(_part(report, part) for part in report.parts())}
<p class="nothing" hidden>No law matches.</p>
<footer>A required law cannot be skipped. A claimed law is due where the backend declares the fact that it is about;
what is not declared is listed as not claimed. Not applicable is what this machine has too few devices for. Every law
runs in a child process, with a deadline and a fixed seed.</footer>
</main>
<script>
{_asset("page.js")}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return resources.files("hardpoint.conformance").joinpath(name).read_text(encoding="utf-8")


def _header(report: Report, name: str) -> str:
    when = report.started.replace("T", " ").replace("Z", " UTC")
    return f"""<header>
<p class="kicker">hardpoint conformance</p>
<h1>{escape(name)}</h1>
<p class="lead">{escape(report.subject.summary or report.subject.label)} · {escape(when)}</p>
</header>"""


def _verdict(report: Report) -> str:
    counts = tally(report.results)
    due = len(report.results) - counts[Status.NOT_CLAIMED] - counts[Status.NOT_APPLICABLE]
    if not report.available:
        title, detail = "There is no such backend here", "nothing could be run"
    elif not report.subject.name:
        title, detail = "The backend cannot be built", "nothing could be run"
    elif failed := counts[Status.FAILED]:
        title, detail = f"Breaks {failed} {'law' if failed == 1 else 'laws'}", f"of {due} that are due"
    elif report.problems:
        title, detail = "The run has a problem", f"{counts[Status.PASSED]} of {due} laws that are due hold"
    elif known := counts[Status.KNOWN_FAILURE]:
        title, detail = (
            "No new failure",
            f"{counts[Status.PASSED]} of {due} laws that are due hold, {known} known not to",
        )
    else:
        title, detail = "Keeps every law that is due", f"{counts[Status.PASSED]} of {due}"
    if not report.complete:
        detail += "; a selection, not the whole kit"
    word, mark = ("kept", "✓") if report.kept else ("broken", "✗")
    return f'<div class="verdict {word}" role="status"><b>{mark} {title}</b><span>{detail}</span></div>'


def _numbers(report: Report) -> str:
    cards = [
        f'<div class="card number"><b>{count}</b><span><i style="background:{_COLOUR[status]}"></i>'
        f"{_PLURAL[status]}</span></div>"
        for status, count in tally(report.results).items()
        if count or status in (Status.PASSED, Status.FAILED)
    ]
    cards.append(f'<div class="card number"><b>{report.seconds:.1f} s</b><span>wall time</span></div>')
    return f'<div class="numbers">{"".join(cards)}</div>'


def _problems(report: Report) -> str:
    if not report.problems:
        return ""
    lines = "".join(f"<p>{escape(problem)}</p>" for problem in report.problems)
    return f'<div class="card problems" role="alert">{lines}</div>'


def _failures(report: Report) -> str:
    """What failed, first of all and with links; the tables below have the rest."""
    failed = [result for result in report.results if result.status is Status.FAILED]
    if not failed or not report.subject.name:
        return ""
    items = "".join(
        f'<li><a href="#{escape(result.id)}">{escape(result.id)}</a><p>{escape(_short(result.reason))}</p></li>'
        for result in failed
    )
    return f'<h2>What failed</h2><ul class="card failures">{items}</ul>'


def _short(text: str, limit: int = 280) -> str:
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " …"


def _facts(report: Report) -> str:
    subject = report.subject
    rows = [
        ("Backend", escape(subject.label)),
        ("Device type", f"{escape(subject.device_type)}, plugin API {subject.api[0]}.{subject.api[1]}"),
        ("Devices", "<br>".join(escape(device) for device in subject.devices)),
        *_declared(subject.claims),
        ("Tolerances", "<br>".join(escape(line) for line in subject.tolerances)),
        ("Versions", _chips([f"{package} {version}" for package, version in subject.versions])),
        ("Seed", str(report.seed)),
    ]
    if not subject.name:
        rows = [row for row in rows if row[0] in ("Backend", "Seed")]
    listed = "".join(f"<dt>{title}</dt><dd>{value}</dd>" for title, value in rows if value)
    return f'<dl class="card facts">{listed}</dl>'


def _declared(claims: tuple[str, ...]) -> list[tuple[str, str]]:
    """Claims by kind: ``dtype float32`` is float32 under "dtypes"; a claim of one word is under "Declares"."""
    kinds: dict[str, list[str]] = {}
    for claim in claims:
        kind, _, value = claim.rpartition(" ")
        kinds.setdefault(f"{kind[:1].upper()}{kind[1:]}s" if kind else "Declares", []).append(value)
    return [(escape(kind), _chips(values)) for kind, values in kinds.items()]


def _chips(values: list[str]) -> str:
    return "".join(f'<span class="chip">{escape(value)}</span>' for value in values)


def _filters(report: Report) -> str:
    buttons = [f'<button type="button" data-status="" aria-pressed="true">all {len(report.results)}</button>']
    buttons += [
        f'<button type="button" data-status="{_slug(status)}" aria-pressed="false">{_PLURAL[status]} {count}</button>'
        for status, count in tally(report.results).items()
        if count
    ]
    search = '<input type="search" placeholder="find a law" aria-label="find a law">'
    return f'<div class="filters">{"".join(buttons)}{search}</div>'


def _part(report: Report, part: str) -> str:
    results = [result for result in report.results if result.part == part]
    passed = sum(result.status is Status.PASSED for result in results)
    seconds = sum(result.seconds for result in results)
    head = f"<h3>{escape(part)}<span>{passed} of {len(results)} passed · {seconds:.1f} s</span></h3>"
    columns = '<colgroup><col class="result"><col><col class="time"></colgroup>'
    titles = "<thead><tr><th>result</th><th>law</th><th>time</th></tr></thead>"
    rows = "".join(_law(result) for result in results)
    table = f"<table>{columns}{titles}<tbody>{rows}</tbody></table>"
    return f'<section class="card part" id="{escape(part)}">{head}{table}</section>'


def _law(result: LawResult) -> str:
    details = []
    if result.reason:
        details.append(f'<p class="reason">{escape(result.reason)}</p>')
    if result.status in (Status.FAILED, Status.KNOWN_FAILURE):
        details.append(f'<p class="rerun">Run again: <code>{escape(result.rerun)}</code></p>')
    for title, text in (
        ("notes", "\n".join(result.notes)),
        ("printed by the backend", result.printed),
        ("traceback", result.traceback),
    ):
        if text:
            details.append(f"<details><summary>{title}</summary><pre>{escape(text)}</pre></details>")
    about = result.claim or "required"
    if max(result.ranks, default=1) > 1:
        about += f" · worlds of {' and '.join(str(world) for world in result.ranks)}"
    slug = _slug(result.status)
    return (
        f'<tr class="law {slug}" id="{escape(result.id)}">'
        f'<td><span class="status {slug}">{result.status.value}</span></td>'
        f'<td><div class="id">{escape(result.id)}<em>{escape(about)}</em></div>'
        f'<p class="statement">{_prose(result.statement)}</p>{"".join(details)}</td>'
        f'<td class="time">{_time(result.seconds)}</td></tr>'
    )


def _prose(text: str) -> str:
    """Escaped, with names in backticks set as code."""
    return re.sub(r"`+([^`]+)`+", r"<code>\1</code>", escape(text))


def _time(seconds: float) -> str:
    if seconds == 0:
        return ""
    if seconds < 0.001:
        return "&lt;1 ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _slug(status: Status) -> str:
    return status.value.replace(" ", "-")
