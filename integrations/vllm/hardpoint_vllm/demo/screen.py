"""What people see: one line per step while it runs and when it is done, one per check, and a table at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from hardpoint_vllm.demo.checks import Check, ModelReport

_WIDTH = 112  # lines longer than this are hard to read, however wide the terminal


class Step:
    """The running step: `progress` moves its bar, `found` says what came of it."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task
        self.text = ""

    def progress(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)

    def found(self, text: str) -> None:
        self.text = text


class Screen:
    """Writes to `console`; on a pipe the bars are left out and every line still comes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._width = min(console.width, _WIDTH)

    def opening(self, models: Sequence[str], backend: str) -> None:
        """Say what is about to happen."""
        names = " and ".join(models)
        self.console.print(
            Panel(
                f"Stock vLLM serves a small {names} on backend [bold]{escape(backend)}[/bold] while a trainer in "
                "another process changes the weights. After every change vLLM must answer as transformers does with "
                "the same weights, token by token. Two faults are planted on purpose and must be noticed.",
                title="hardpoint demo",
                title_align="left",
                width=self._width,
                padding=(0, 1),
            )
        )

    def model(self, title: str, what: str) -> None:
        """Head the steps of a model."""
        self.console.print(Text.assemble("\n", (title, "bold"), f"  {what}, bf16"), width=self._width)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show a step while it runs; its line stays."""
        started = time.monotonic()
        columns = (
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            step = Step(bar, bar.add_task(title, total=None))
            try:
                yield step
            except BaseException:
                self._line("[red]✗[/red]", title, "failed", started)
                raise
        self._line("[dim]·[/dim]", title, step.text, started)

    def check(self, check: Check) -> None:
        """One claim and its verdict."""
        mark, style = ("✓", "green") if check.passed else ("✗", "bold red")
        grid = self._grid()
        grid.add_row(f"[{style}]{mark}[/{style}]", Text(check.claim, style), Text(check.found, style), "")
        self.console.print(grid)

    def quote(self, sentence: str) -> None:
        """An error sentence as its user would see it."""
        if sentence:
            self.console.print(Padding(Text(sentence, "italic dim"), (0, 0, 0, 6)), width=self._width)

    def closing(self, reports: Sequence[ModelReport], seconds: float, kept: str | None) -> None:
        """The table, times and the verdict."""
        table = Table(title="What was proven", title_justify="left", width=self._width)
        table.add_column("claim", ratio=3)
        for report in reports:
            table.add_column(report.title, ratio=2)
        claims = {check.key: check.claim for report in reports for check in report.checks}
        for key, claim in claims.items():
            table.add_row(claim, *(_verdict(report, key) for report in reports))
        table.add_section()
        table.add_row("seconds", *(f"{sum(t.seconds for t in report.timings):.1f}" for report in reports), style="dim")
        self.console.print()
        self.console.print(table)
        for report in reports:
            if report.failure:
                self.console.print(Text(f"\n{report.title}: {report.failure}", "red"))
        total = sum(len(report.checks) for report in reports)
        failed = sum(not check.passed for report in reports for check in report.checks)
        if all(report.passed for report in reports):
            self.console.print(f"[bold green]PASS[/bold green]  {total} checks in {seconds:.0f} s.")
        else:
            ended = [report.title for report in reports if report.failure]
            early = f" {' and '.join(ended)} did not get to the end." if ended else ""
            self.console.print(
                f"[bold red]FAIL[/bold red]  {failed} of {total} checks failed in {seconds:.0f} s.{early}"
            )
        if kept:
            self.console.print(Text(f"Checkpoints, logs and reports are in {kept}", "dim"))

    def _line(self, mark: str, title: str, text: str, started: float) -> None:
        grid = self._grid()
        grid.add_row(mark, title, Text(text, "dim"), Text(f"{time.monotonic() - started:.1f} s", "dim"))
        self.console.print(grid)

    def _grid(self) -> Table:
        grid = Table.grid(padding=(0, 1), expand=False)
        grid.width = self._width
        grid.add_column(width=3, justify="right")
        grid.add_column(ratio=5)
        grid.add_column(ratio=4)
        grid.add_column(width=7, justify="right")
        return grid


def _verdict(report: ModelReport, key: str) -> Text:
    check = next((check for check in report.checks if check.key == key), None)
    if check is None:
        return Text("not reached", "yellow")
    return Text(f"✓ {check.found}", "green") if check.passed else Text(f"✗ {check.found}", "bold red")
