"""What the command prints: a line per law as it comes, a table by part, and every failure with its rerun command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from hardpoint.conformance.results import LawResult, Report, Status, tally
from hardpoint.conformance.self_test import SelfTestReport

_STYLE = {
    Status.PASSED: "green",
    Status.FAILED: "bold red",
    Status.KNOWN_FAILURE: "yellow",
    Status.NOT_APPLICABLE: "dim",
    Status.NOT_CLAIMED: "dim",
}


@contextmanager
def progress(console: Console, label: str) -> Iterator[_Bar]:
    """A progress bar on a terminal, nothing elsewhere."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield _Bar(bar, label)


class _Bar:
    def __init__(self, bar: Progress, label: str) -> None:
        self._bar = bar
        self._label = label
        self._task = bar.add_task(label, total=None)

    def advance(self, name: str, total: int) -> None:
        self._bar.update(self._task, total=total, advance=1, description=f"{self._label}: {name}")


def show_report(console: Console, report: Report) -> None:
    """Table by part, then failures, then one line of totals."""
    subject = report.subject
    console.print(f"[bold]{escape(subject.label)}[/]  {escape(subject.summary)}")
    if subject.devices:
        console.print(f"{len(subject.devices)} x {subject.device_type}, seed {report.seed}", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("part", "passed", "failed", "known", "not claimed", "not applicable", "seconds"):
        table.add_column(title, justify="left" if title == "part" else "right")
    for part in report.parts():
        results = [result for result in report.results if result.part == part]
        counts = tally(results)
        order = (Status.PASSED, Status.FAILED, Status.KNOWN_FAILURE, Status.NOT_CLAIMED, Status.NOT_APPLICABLE)
        cells = [f"[{_STYLE[status]}]{counts[status]}[/]" if counts[status] else "" for status in order]
        table.add_row(part, *cells, f"{sum(result.seconds for result in results):.1f}")
    console.print(table)
    for status in (Status.KNOWN_FAILURE, Status.FAILED):
        for result in report.results:
            if result.status is status and subject.name:  # a backend that cannot be built is one problem, told below
                _show_failure(console, result)
    names = [result.claim or result.id for result in report.results if result.status is Status.NOT_CLAIMED]
    if names:
        console.print(f"[dim]not claimed: {escape(', '.join(dict.fromkeys(names)))}[/]", highlight=False)
    for result in report.results:
        if result.status is Status.NOT_APPLICABLE:
            console.print(f"[dim]not applicable: {result.id}: {escape(result.reason)}[/]", highlight=False)
    for problem in report.problems:
        console.print(f"[bold red]problem:[/] {escape(problem)}", highlight=False)
    counts = tally(report.results)
    word = "[bold green]kept[/]" if report.kept else "[bold red]broken[/]"
    totals = ", ".join(f"{count} {status.value}" for status, count in counts.items() if count)
    console.print(f"{word}: {totals}, in {report.seconds:.1f} s", highlight=False)


def _show_failure(console: Console, result: LawResult) -> None:
    console.print(f"[{_STYLE[result.status]}]{result.status.value}[/] {result.id}", highlight=False)
    console.print(f"  law:   {escape(result.statement)}", highlight=False)
    console.print(f"  found: {escape(result.reason)}", highlight=False)
    console.print(f"  rerun: {escape(result.rerun)}", highlight=False, soft_wrap=True)


def show_self_test(console: Console, report: SelfTestReport) -> None:
    """What slipped through, laws without a mutant, and the two ratios."""
    for law, reason in report.baseline:
        console.print(f"[bold red]baseline[/] {law} fails on {escape(report.label)} itself: {escape(reason)}")
    for change in report.changes:
        if not change.ok:
            kind = "legal variant" if change.law is None else "mutant"
            console.print(f"[bold red]{kind}[/] {change.change}: {escape(change.statement)}", highlight=False)
            console.print(f"  found: {escape(change.reason)}", highlight=False)
    for law in report.uncovered:
        console.print(f"[bold red]no mutant[/] names {law}; plant one in mutants/{law.partition('.')[0]}.py")
    planted, legal = report.planted, report.legal
    caught, passed = sum(change.ok for change in planted), sum(change.ok for change in legal)
    word = "[bold green]sound[/]" if report.ok else "[bold red]not sound[/]"
    ratios = f"caught/planted {caught}/{len(planted)}, passed/legal {passed}/{len(legal)}"
    console.print(
        f"{word}: {ratios}, on {escape(report.label)}, seed {report.seed}, in {report.seconds:.1f} s",
        highlight=False,
    )
