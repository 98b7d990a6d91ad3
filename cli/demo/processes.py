"""Child processes that are started again when they die, each with a log of its own."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ops.runtime.child import Child

_POLL_S: Final = 0.1
_STOP_S: Final = 15.0
_QUICK_S: Final = 3.0
"""A child that dies sooner after its start did not come up: it is started again less and less eagerly."""
_MAX_BACKOFF_S: Final = 10.0


class Kept:
    """A child that is started again whenever it dies, until it is stopped."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.restarts = 0
        self._command, self._log = command, log
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self._quick_deaths = 0
        self._start_at_s = 0.0
        self._child = self._start()

    @property
    def pid(self) -> int | None:
        """Process id; None while it does not run."""
        return self._child.pid

    @property
    def log(self) -> Path:
        """Where the process that runs now writes."""
        return self._log.with_stem(f"{self._log.stem}.{self.restarts}") if self.restarts else self._log

    def look(self, now_s: float) -> None:
        """Start it again where it has died."""
        if self._child.pid is not None:
            return
        if not self._start_at_s:
            self._quick_deaths = self._quick_deaths + 1 if now_s - self._started_s < _QUICK_S else 0
            self._start_at_s = now_s + (min(0.25 * 2**self._quick_deaths, _MAX_BACKOFF_S) if self._quick_deaths else 0)
        if now_s >= self._start_at_s:
            self.restarts += 1
            self._child = self._start()

    def terminate(self) -> None:
        """Ask it to end; returns at once."""
        self._child.signal(signal.SIGTERM)

    def stop(self, timeout_s: float) -> None:
        """End it: SIGTERM, and SIGKILL where that takes longer than `timeout_s`."""
        self._child.stop(timeout_s)

    def _start(self) -> Child:
        self._started_s, self._start_at_s = time.monotonic(), 0.0
        return Child(self._command, log=self.log, env=self._environment)


class Keeper:
    """Looks after kept children from a thread, until `close`."""

    def __init__(self) -> None:
        self.children: dict[str, Kept] = {}
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="keeper", daemon=True)
        self._thread.start()

    def start(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        """Start `command` and keep it running."""
        with self._lock:
            self.children[name] = Kept(command, log, environment)

    @property
    def restarts(self) -> int:
        """How often a child was started again."""
        return sum(child.restarts for child in self.children.values())

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
