"""Child processes that are started again when they die, until they are stopped."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from cli.context import ExitCode
from ops.runtime.child import Child

_log: Final = logging.getLogger("omium.worker")
_POLL_S: Final = 0.1
_STOP_S: Final = 30.0
"""Within it a worker that is told to end finishes its batch."""
_QUICK_S: Final = 3.0
"""A child that dies sooner after its start did not come up: it is started again less and less eagerly."""
_MAX_BACKOFF_S: Final = 10.0


class Kept:
    """A child that is started again whenever it dies, unless it says that it was called wrongly."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path | None,
        environment: Mapping[str, str],
        tell: Callable[[str], None],
    ) -> None:
        """Each start has a log of its own; None: it writes to our stdout and stderr."""
        self.name = name
        self.restarts = 0
        self.gave_up: int | None = None
        """The exit code with which starting it again does not help."""
        self._command, self._log, self._tell = command, log, tell
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self._quick_deaths = 0
        self._start_at_s = 0.0
        self._child = self._start()

    @property
    def pid(self) -> int | None:
        """Process id; None while it does not run."""
        return self._child.pid

    @property
    def log(self) -> Path | None:
        """Where the process that runs now writes."""
        if self._log is None or not self.restarts:
            return self._log
        return self._log.with_stem(f"{self._log.stem}.{self.restarts}")

    def look(self, now_s: float) -> None:
        """Start it again where it has died."""
        if self.gave_up is not None or (code := self._child.exit_code) is None:
            return
        if not self._start_at_s:
            self._on_end(code, now_s)
        elif now_s >= self._start_at_s:
            self.restarts += 1
            self._child = self._start()

    def _on_end(self, code: int, now_s: float) -> None:
        where = f"; its log: {self.log}" if self.log else ""
        if code == ExitCode.USAGE:
            self.gave_up = code
            self._tell(f"{self.name} ended with exit code {code} and is not started again{where}")
            return
        self._quick_deaths = self._quick_deaths + 1 if now_s - self._started_s < _QUICK_S else 0
        wait_s = min(0.25 * 2**self._quick_deaths, _MAX_BACKOFF_S) if self._quick_deaths else 0.0
        self._start_at_s = now_s + wait_s
        cause = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        self._tell(f"{self.name} {cause}, starts again{f' in {wait_s:g} s' if wait_s else ''}{where}")

    def terminate(self) -> None:
        """Ask it to end; returns at once."""
        self._child.signal(signal.SIGTERM)

    def stop(self, timeout_s: float) -> None:
        """End it: SIGTERM, and SIGKILL where that takes longer than `timeout_s`."""
        self._child.stop(timeout_s)

    def _start(self) -> Child:
        self._started_s, self._start_at_s = time.monotonic(), 0.0
        child = Child(self._command, log=self.log, env=self._environment)
        _log.info("%s runs as process %s", self.name, child.pid)
        return child


class Keeper:
    """Looks after kept children from a thread, until `close`."""

    def __init__(self, tell: Callable[[str], None] = lambda _: None) -> None:
        """`tell` gets a line for people when a child ends; from another thread."""
        self.children: dict[str, Kept] = {}
        self._tell = tell
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="keeper", daemon=True)
        self._thread.start()

    def start(self, name: str, command: Sequence[str], log: Path | None, environment: Mapping[str, str]) -> None:
        """Start `command` and keep it running."""
        with self._lock:
            self.children[name] = Kept(name, command, log, environment, self._tell)

    @property
    def restarts(self) -> int:
        """How often a child was started again."""
        return sum(child.restarts for child in self.children.values())

    @property
    def gave_up(self) -> int | None:
        """The exit code of a child that is not started again; None: there is none."""
        return next((child.gave_up for child in self.children.values() if child.gave_up is not None), None)

    def close(self) -> None:
        """End all children, together."""
        self._stopping.set()
        self._thread.join()
        for child in self.children.values():
            child.terminate()
        deadline_s = time.monotonic() + _STOP_S
        for child in self.children.values():
            child.stop(max(0.0, deadline_s - time.monotonic()))

    def _watch(self) -> None:
        while not self._stopping.wait(_POLL_S):
            with self._lock:
                for child in self.children.values():
                    child.look(time.monotonic())
