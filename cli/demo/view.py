"""What the demo shows: a live table on a terminal, plain lines otherwise, and the summary."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import which
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.demo.board import Board, Story, percentile
from cli.demo.job import Work
from cli.demo.plan import Planned, Report
from cli.demo.work import WORKS

_QUERY: Final = "SELECT execution_id, failure_type, recovery_strategy, result_success FROM recovery_audit LIMIT 5"


@dataclass(frozen=True, slots=True)
class Run:
    """All that is known of one run."""

    planned: Planned
    story: Story
    report: Report | None

    @property
    def work(self) -> Work:
        return WORKS[self.planned.work]

    @property
    def recovered(self) -> bool:
        """The agent has what its work was for, and the recovery says success. The one does not know of the other."""
        return self.story.recovered and self.report is not None and self.report.right

    @property
    def as_expected(self) -> bool:
        """It ended as such a run must end."""
        if self.work.ends == "recovered":
            return self.recovered
        if self.story.result is None or self.story.recovered:
            return False
        return bool(self.story.escalated) == (self.work.ends == "escalated")

    @property
    def ended(self) -> bool:
        """Nothing more will come."""
        if self.story.result is None:
            return False
        return self.report is not None or not self.story.recovered


def runs(planned: Iterable[Planned], board: Board, reports: Mapping[str, Report]) -> list[Run]:
    """Each planned run with what is known of it."""
    return [Run(p, board.story(p.execution_id), reports.get(p.execution_id)) for p in planned]


class View:
    """Draws on a terminal, and says each ending in a line elsewhere. A context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._started_s = time.monotonic()
        self._said: set[str] = set()
        self._live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, known: list[Run], restarts: int) -> None:
        """Bring what is shown up to date."""
        if self._live is not None:
            self._live.update(table(known, f"{self._elapsed_s():.0f} s{_restarted(restarts)}"))
            return
        for run in known:
            if run.ended and run.planned.execution_id not in self._said:
                self._said.add(run.planned.execution_id)
                self.console.print(f"[{self._elapsed_s():5.1f} s] {line(run)}", markup=False, highlight=False)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_s


def _restarted(restarts: int) -> str:
    return f", {restarts} worker{'s' if restarts > 1 else ''} restarted" if restarts else ""


def line(run: Run) -> str:
    """One run in one line."""
    story = run.story
    how = " then ".join(story.strategies) or "no command"
    took = f", command after {story.command_ms[0]} ms" if story.command_ms else ""
    return f"{run.planned.execution_id}: {run.work.failing} ({story.verdict}) -> {how}: {story.ending}{took}"


def table(known: list[Run], title: str) -> Table:
    """A row for each kind of work."""
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("work", "what goes wrong", "verdict", "commanded"):
        shown.add_column(column, no_wrap=True, overflow="ellipsis")
    shown.add_column("back", no_wrap=True, min_width=5)
    shown.add_column("to command", no_wrap=True, min_width=10, justify="right")
    for name, work in WORKS.items():
        mine = [run for run in known if run.planned.work == name]
        if mine:
            shown.add_row(*_row(work, mine))
    return shown


def _row(work: Work, mine: list[Run]) -> tuple[Text | str, ...]:
    verdicts = [run.story.verdict for run in mine if run.story.verdict]
    commanded = max((run.story.strategies for run in mine), key=len)
    times = [ms for run in mine for ms in run.story.command_ms]
    ended = sum(run.ended for run in mine)
    right = sum(run.as_expected for run in mine)
    if work.ends == "recovered":
        back = Text(f"{right}/{len(mine)}", "green" if right == len(mine) else "red" if ended > right else "yellow")
    else:
        back = Text(mine[-1].story.ending.partition(":")[0], "cyan" if right == len(mine) else "yellow")
    return (
        work.name,
        work.failing,
        verdicts[0].partition("/")[2] if verdicts else "",
        " > ".join(commanded),
        back,
        f"{max(times)} ms" if times else "",
    )


def summary(console: Console, known: list[Run], *, restarts: int, clock: str, folder: Path, kept: bool) -> None:
    """What came of it all, and where to look next."""
    recoverable = [run for run in known if run.work.ends == "recovered"]
    by_strategy = Counter(run.story.strategies[-1] for run in known if run.recovered)
    tried = Counter(strategy for run in known for strategy in run.story.strategies)
    times = [ms for run in known for ms in run.story.command_ms]
    say = partial(console.print, markup=False, highlight=False)
    say(
        f"\nfailures {sum(run.story.failures for run in known)}   "
        f"recovered {sum(run.recovered for run in recoverable)} of {len(recoverable)} that can   "
        f"escalated {sum(bool(run.story.escalated) for run in known)}   "
        f"no failure at all {sum(run.as_expected for run in known if run.work.ends == 'not_a_failure')}"
        f"{_restarted(restarts)}"
    )
    for strategy, attempts in sorted(tried.items()):
        say(f"  {strategy:22} {by_strategy[strategy]} of {attempts} commands")
    say(f"from failure to command: p50 {percentile(times, 0.5)} ms, p99 {percentile(times, 0.99)} ms ({clock})")
    for run in known:
        if not run.as_expected:
            report = f"; the agent: {run.report.error or run.report.output}" if run.report else ""
            say(f"  NOT as it should: {line(run)}{report}")
    example = next((run for run in known if len(run.story.strategies) > 1 and run.recovered), known[0])
    audit = f"--clickhouse chdb://{folder}/clickhouse"
    program = "omium-recovery" if which("omium-recovery") else Path(sys.executable).with_name("omium-recovery")
    say("\nwhere to look next:")
    say(f"  {program} explain {example.planned.execution_id} {audit}")
    say(f"  {program} sql '{_QUERY}' {audit}")
    if kept:
        say(f"  {program} up --data {folder}    # brings its topics back; then, with the settings that it prints:")
        say(f"  {program} tail commands --from-start --no-follow")
    say(f"  logs of every process: {folder}")
