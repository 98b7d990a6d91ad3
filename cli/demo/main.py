"""`omium-recovery demo` and `omium-recovery up`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from rich.console import Console

from cli.context import say
from cli.demo.stack import WORKERS, Stack, StackError, lacking
from ops.broker import BrokerError
from ops.runtime.topics import TopicsError

DEMO_FOLDER: Final = Path(".demo/run")
UP_FOLDER: Final = Path(".demo/up")
ROUNDS: Final = 2
_AGENTS: Final = ("omium", "langgraph", "chdb")
_UNSAFE: Final = (
    "WITHOUT KAFKA ({why}): librdkafka's in-process broker takes its place, and recover works without transactions.\n"
    "Nothing is guaranteed here and nothing is kept. Install Java 17 and Maven for the real thing."
)


def demo(folder: Path = DEMO_FOLDER, *, in_memory: bool = False, rounds: int = ROUNDS) -> int:
    """Run it all; 0 only if every agent that can recover did, and the others ended as they must.

    Ends by itself. With `in_memory`, or where Java or Maven is missing, no real broker is used.
    """
    console = Console(soft_wrap=True)
    if absent := [name for name in _AGENTS if find_spec(name) is None]:
        console.print(f"error: the demo's agents need what is not installed: {', '.join(absent)}", style="bold red")
        return 2
    missing = "as asked" if in_memory else lacking()
    if missing:
        console.print(_UNSAFE.format(why=missing), style="bold yellow", highlight=False, markup=False)
    console.print("omium demo: scripted models, everything else is real. Ctrl-C ends it.", highlight=False)
    try:
        with _interruptible(), _started(folder, in_memory=bool(missing), fresh=True, console=console) as stack:
            from cli.demo.run import run

            return run(console, stack, rounds)
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
    # Where every command looks without being told, if nobody else is there.
    starting = _started(
        folder or UP_FOLDER,
        in_memory=bool(missing),
        fresh=False,
        console=console,
        port=9092,
        tell=say,
        operated=True,
    )
    try:
        with _interruptible(), starting as stack:
            for worker in WORKERS:
                console.print(f"{worker}: {stack.metrics_url(worker)}", highlight=False, markup=False)
            console.print("ready. Ctrl-C ends it, the data stays. For the other commands:", highlight=False)
            key = {"OMIUM_OPERATOR_KEY": str(stack.operator_key)} if stack.operator_key else {}
            for name, value in (stack.environment() | key).items():
                console.print(f"export {name}={value}", highlight=False, markup=False)
            threading.Event().wait()
    except KeyboardInterrupt:
        return 0
    except (StackError, BrokerError, TopicsError) as error:
        console.print(f"error: {error}", style="bold red", markup=False)
        return 1
    return 0


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends us as Ctrl-C does, in order; and SIGINT does where a shell's background job would ignore it."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _started(
    folder: Path,
    *,
    in_memory: bool,
    fresh: bool,
    console: Console,
    port: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
    operated: bool = False,
) -> Iterator[Stack]:
    """The stack, running; a status line says what is waited for."""
    stack = Stack(folder, in_memory=in_memory, fresh=fresh, port=port, tell=tell, operated=operated)
    began = time.monotonic()
    try:
        with console.status("starting"):
            stack.start(
                lambda what: console.print(f"[{time.monotonic() - began:5.1f} s] starting {what}", markup=False)
            )
        yield stack
    finally:
        stack.stop()
