"""`omium-recovery demo` and `omium-recovery up`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console

from cli.demo.plan import Plan, Planned, Report, read_reports
from cli.demo.services import Services
from cli.demo.stack import WORKERS, Stack, StackError, lacking
from cli.demo.view import View, runs, summary
from cli.demo.watch import Watch
from cli.demo.work import FLEETS
from ops.broker import BrokerError
from ops.runtime.child import Child
from ops.runtime.topics import TopicsError

DEMO_FOLDER: Final = Path(".demo/run")
UP_FOLDER: Final = Path(".demo/up")
ROUNDS: Final = 2
_EVERY_S: Final = 0.25
_WAIT_S: Final = 70.0
_DEADLINE_S: Final = 90.0
_AUDIT_S: Final = 20.0
_POLL_S: Final = 0.1
_UNSAFE: Final = (
    "WITHOUT KAFKA ({why}): librdkafka's in-process broker takes its place, and recover works without transactions.\n"
    "Nothing is guaranteed here and nothing is kept. Install Java 17 and Maven for the real thing."
)


def demo(folder: Path = DEMO_FOLDER, *, in_memory: bool = False, rounds: int = ROUNDS) -> int:
    """Run it all; 0 only if every agent that can recover did, and the others ended as they must.

    Ends by itself. With `in_memory`, or where Java or Maven is missing, no real broker is used.
    """
    console = Console(soft_wrap=True)
    missing = "as asked" if in_memory else lacking()
    if missing:
        console.print(_UNSAFE.format(why=missing), style="bold yellow", highlight=False, markup=False)
    console.print("omium demo: scripted models, everything else is real. Ctrl-C ends it.", highlight=False)
    try:
        with _interruptible(), ExitStack() as resources:
            stack = resources.enter_context(_started(folder, in_memory=bool(missing), fresh=True, console=console))
            services = resources.enter_context(Services())
            watch = resources.enter_context(Watch(stack.settings))
            planned = _launch(stack, services.port, rounds, resources)
            return _attend(console, stack, watch, planned)
    except (StackError, BrokerError, TopicsError) as error:
        console.print(f"error: {error}", style="bold red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("ended before its end")
        return 130


def up(folder: Path | None = None) -> int:
    """Keep broker, workers and ClickHouse running until Ctrl-C or SIGTERM."""
    console = Console(soft_wrap=True)
    if missing := lacking():
        console.print(_UNSAFE.format(why=missing), style="bold yellow", highlight=False, markup=False)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        # Where every command looks without being told, if nobody else is there.
        with _started(folder or UP_FOLDER, in_memory=bool(missing), fresh=False, console=console, port=9092) as stack:
            for worker in WORKERS:
                console.print(f"{worker}: {stack.metrics_url(worker)}", highlight=False, markup=False)
            console.print("ready. Ctrl-C ends it, the data stays. For the other commands:", highlight=False)
            for name, value in stack.environment().items():
                console.print(f"export {name}={value}", highlight=False, markup=False)
            ended.wait()
    except (StackError, BrokerError, TopicsError) as error:
        console.print(f"error: {error}", style="bold red", markup=False)
        return 1
    return 0


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends us as Ctrl-C does: in order."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _started(
    folder: Path, *, in_memory: bool, fresh: bool, console: Console, port: int | None = None
) -> Iterator[Stack]:
    """The stack, running; a status line says what is waited for."""
    stack = Stack(folder, in_memory=in_memory, fresh=fresh, port=port)
    began = time.monotonic()
    try:
        with console.status("starting"):
            stack.start(
                lambda what: console.print(f"[{time.monotonic() - began:5.1f} s] starting {what}", markup=False)
            )
        yield stack
    finally:
        stack.stop()


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
