"""The report as one self-contained HTML page: no network, light and dark, readable without its script."""

from __future__ import annotations

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
{_numbers(report)}
{_problems(report)}
<h2>Coverage by part</h2>
<div class="card chart">{coverage_chart(report, _COLOUR)}</div>
<h2>What was tested</h2>
{_facts(report)}
<h2>Laws</h2>
{_filters(report)}
{"".join(_part(report, part) for part in report.parts())}
<footer>A required law cannot be skipped. A claimed law is due where the backend declares the fact that it is about;
what is not declared is listed as not claimed. Every law runs in a process of its own kind, with a deadline and a fixed
seed.</footer>
</main>
<script>
{_asset("page.js")}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return resources.files("hardpoint.conformance").joinpath(name).read_text(encoding="utf-8")


def _header(report: Report, name: str) -> str:
    failed = report.count(Status.FAILED)
    selection = "" if report.complete else " of this selection"
    if report.kept:
        verdict = f'<div class="verdict kept">✓ keeps every law{selection}</div>'
    elif failed:
        laws = "law" if failed == 1 else "laws"
        verdict = f'<div class="verdict broken">✗ breaks {failed} {laws}</div>'
    else:
        verdict = '<div class="verdict broken">✗ the run has problems</div>'
    return f"""<header><div>
<p class="kicker">hardpoint conformance</p>
<h1>{escape(name)}</h1>
<p class="lead">{escape(report.subject.summary or report.subject.label)}</p>
</div>{verdict}</header>"""


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


def _facts(report: Report) -> str:
    subject = report.subject
    rows = [
        ("Backend", escape(subject.label)),
        ("Device type", f"{escape(subject.device_type)}, plugin API {subject.api[0]}.{subject.api[1]}"),
        ("Devices", "<br>".join(escape(device) for device in subject.devices)),
        ("Declares", _chips(subject.claims)),
        ("Tolerances", "<br>".join(escape(line) for line in subject.tolerances)),
        ("Versions", _chips(tuple(f"{package} {version}" for package, version in subject.versions))),
        ("Seed", str(report.seed)),
        ("Started", escape(report.started)),
    ]
    if not subject.name:
        rows = [row for row in rows if row[0] in ("Backend", "Seed", "Started")]
    listed = "".join(f"<dt>{title}</dt><dd>{value}</dd>" for title, value in rows if value)
    return f'<dl class="card facts">{listed}</dl>'


def _chips(values: tuple[str, ...]) -> str:
    return "".join(f'<span class="chip">{escape(value)}</span>' for value in values)


def _filters(report: Report) -> str:
    buttons = [f'<button type="button" data-status="" aria-pressed="true">all {len(report.results)}</button>']
    buttons += [
        f'<button type="button" data-status="{_slug(status)}" aria-pressed="false">{_PLURAL[status]} {count}</button>'
        for status, count in tally(report.results).items()
        if count
    ]
    return f'<div class="filters">{"".join(buttons)}</div>'


def _part(report: Report, part: str) -> str:
    results = [result for result in report.results if result.part == part]
    passed = sum(result.status is Status.PASSED for result in results)
    seconds = sum(result.seconds for result in results)
    head = f"<h3>{escape(part)}<span>{passed} of {len(results)} passed · {seconds:.1f} s</span></h3>"
    return f'<section class="card part">{head}{"".join(_law(result) for result in results)}</section>'


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
    time = f"{result.seconds * 1000:.0f} ms" if result.seconds < 1 else f"{result.seconds:.1f} s"
    slug = _slug(result.status)
    return (
        f'<div class="law {slug}"><div class="status {slug}">{result.status.value}</div>'
        f'<div><div class="id">{escape(result.id)}<em>{escape(about)}</em></div>'
        f'<p class="statement">{escape(result.statement)}</p>{"".join(details)}</div>'
        f'<div class="time">{time if result.seconds else ""}</div></div>'
    )


def _slug(status: Status) -> str:
    return status.value.replace(" ", "-")
