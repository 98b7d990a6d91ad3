"""A subprocess that never outlives this process, however this one ends."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path


class Child:
    """Started when made, and asked by any thread. In a session of its own: Ctrl-C in a terminal reaches the parent
    alone, which stops it."""

    def __init__(
        self, command: Sequence[str], *, log: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """`log` takes its stdout and stderr, and is emptied first; None: they are the parent's."""
        with log.open("wb") if log else nullcontext() as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                env=env,
                start_new_session=True,
            )
        self._releasing = threading.Lock()
        # The pipe closes when this process ends, by SIGKILL too; only `_release` writes a line to it first.
        self._guard: subprocess.Popen[bytes] | None = subprocess.Popen(
            ["sh", "-c", f"read -r _ || kill -9 {self._process.pid}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int | None:
        """Process id; None once it has ended."""
        return self._process.pid if self.exit_code is None else None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number where a signal ended it."""
        if (code := self._process.poll()) is not None:
            self._release()
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens where the process has ended."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Its exit code, or None where it still runs after `timeout_s`."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        return self.exit_code

    def stop(self, timeout_s: float) -> int:
        """SIGTERM, and SIGKILL where that takes longer than `timeout_s`. Returns the exit code."""
        self.signal(signal.SIGTERM)
        code = self.wait(timeout_s)
        return self.kill() if code is None else code

    def kill(self) -> int:
        """SIGKILL; returns the exit code once it is gone."""
        self.signal(signal.SIGKILL)
        code = self.wait()
        assert code is not None
        return code

    def _release(self) -> None:
        """The number is free for another process from here on: the guard must not kill that one."""
        with self._releasing:
            guard, self._guard = self._guard, None
        if guard is not None:
            guard.communicate(b"\n")
