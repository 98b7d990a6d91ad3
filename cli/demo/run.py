"""The fleet of a running stack: started, watched to its end, summed up."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from rich.console import Console

from cli.demo.plan import Plan, Planned, Report, read_reports
from cli.demo.services import Services
from cli.demo.stack import Stack
from cli.demo.view import View, runs, summary
from cli.demo.watch import Watch
from cli.demo.work import FLEETS
from ops.runtime.child import Child

_EVERY_S: Final = 0.25
_WAIT_S: Final = 70.0
_DEADLINE_S: Final = 90.0
_AUDIT_S: Final = 20.0
_POLL_S: Final = 0.1


def run(console: Console, stack: Stack, rounds: int) -> int:
    """Let the fleet work, and show it; 0 only if every run ended as it must."""
    with ExitStack() as resources:
        services = resources.enter_context(Services())
        watch = resources.enter_context(Watch(stack.settings))
        planned = _launch(stack, services.port, rounds, resources)
        return _attend(console, stack, watch, planned)


def _launch(stack: Stack, services_port: int, rounds: int, resources: ExitStack) -> list[Planned]:
    """Start the processes of the fleet; returns all runs that they have to do."""
    everything: list[Planned] = []
    for name, works in FLEETS.items():
        planned = tuple(
            Planned(execution_id=f"{work.name}-{n}", work=work.name) for n in range(1, rounds + 1) for work in works
        )
        everything.extend(planned)
        plan = Plan(
            bootstrap=stack.settings.bootstrap,
            services_port=services_port,
            every_s=_EVERY_S,
            wait_s=_WAIT_S,
            runs=planned,
        )
        path = stack.folder / f"fleet-{name}.json"
        plan.save(path)
        modules = (
            (("cli.demo.graph", "serve"), ("cli.demo.graph", "run")) if name == "graph" else (("cli.demo.fleet",),)
        )
        for module in modules:
            command = [sys.executable, "-m", *module, str(path)]
            child = Child(
                command, log=stack.folder / f"fleet-{name}-{module[-1].rpartition('.')[2]}.log", env=os.environ
            )
            resources.callback(child.stop, 5.0)
    return everything


def _attend(console: Console, stack: Stack, watch: Watch, planned: list[Planned]) -> int:
    """Show what happens until every run has ended or the time is up, then sum up."""
    deadline_s = time.monotonic() + _DEADLINE_S
    with View(console) as view:
        while True:
            with watch.lock:
                known = runs(planned, watch.board, _reports(stack.folder))
                view.show(known, stack.restarts)
                ended = all(run.ended for run in known)
            if ended or time.monotonic() > deadline_s:
                break
            time.sleep(_POLL_S)
    if not stack.await_audited(_AUDIT_S):
        console.print(f"the audit is not complete after {_AUDIT_S:g} s", style="bold red", highlight=False)
    clock = "by the clocks of the clients" if stack.in_memory else "by the broker's timestamps of both records"
    summary(console, known, restarts=stack.restarts, clock=clock, folder=stack.folder, kept=not stack.in_memory)
    return 0 if all(run.as_expected for run in known) else 1


def _reports(folder: Path) -> dict[str, Report]:
    found = [report for name in FLEETS for report in read_reports(folder / f"fleet-{name}.jsonl")]
    return {report.execution_id: report for report in found}
