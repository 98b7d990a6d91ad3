"""`omium-recovery worker`: one worker in this process, or all of them as supervised children."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Final

from confluent_kafka import KafkaException

from cli.context import ExitCode
from ops.runtime import logs, topics
from ops.runtime.child import Child
from ops.runtime.metrics import BUILD_INFO
from ops.runtime.settings import Settings

_log: Final = logging.getLogger("omium.worker")
_MODULES: Final = {
    "streams": "streams.main",
    "recover": "processors.recover.main",
    "audit": "processors.audit.main",
}
_RETRY_S: Final = 2.0
_POLL_S: Final = 0.2
_STOP_DEADLINE_S: Final = 30.0
_SETTLED_S: Final = 60.0
"""A child that lived so long was well: its next restart is quick again."""
_MAX_BACKOFF_S: Final = 30.0


def run(name: str, settings: Settings, *, create_topics: bool) -> int:
    """Run the worker called `name`; returns its exit code."""
    logs.configure(settings)
    if not _topics_ready(settings, create_topics):
        return ExitCode.FAILED
    BUILD_INFO.labels(version("omium-recovery"), name).set(1)
    entry: Callable[[Settings], int] = import_module(_MODULES[name]).run
    return entry(settings)


def _topics_ready(settings: Settings, create_topics: bool) -> bool:
    """Wait for the broker, which may start after us; False where its topics are not the contract's."""
    while True:
        try:
            if create_topics:
                topics.create(settings)
            else:
                topics.verify(settings)
        except KafkaException as error:
            _log.warning("no answer from %s, trying again: %s", settings.bootstrap, error)
            time.sleep(_RETRY_S)
        except topics.TopicsError as error:
            _log.error("%s", error)
            return False
        else:
            return True


class _Supervised:
    """One worker as a child, started again when it ends, less and less eagerly while it keeps ending."""

    def __init__(self, name: str, command: list[str], env: dict[str, str]) -> None:
        self._name = name
        self._command = command
        self._env = env
        self._backoff_s = 1.0
        self._restart_at: float | None = None
        self._start()

    def _start(self) -> None:
        self._started_at = time.monotonic()
        self._restart_at = None
        self.child = Child(self._command, env=self._env)
        _log.info("%s runs as process %s", self._name, self.child.pid)

    def look(self) -> int | None:
        """Restart it where it is due. Returns its exit code where starting again will not help, else None."""
        now = time.monotonic()
        if (code := self.child.exit_code) is None:
            return None
        if self._restart_at is None:
            if code == ExitCode.USAGE:
                return code
            if now - self._started_at > _SETTLED_S:
                self._backoff_s = 1.0
            self._restart_at = now + self._backoff_s
            _log.error("%s ended with exit code %s, starts again in %g s", self._name, code, self._backoff_s)
            self._backoff_s = min(2 * self._backoff_s, _MAX_BACKOFF_S)
        elif now >= self._restart_at:
            self._start()
        return None


def supervise(settings: Settings, *, create_topics: bool) -> int:
    """Run every worker as a child until SIGTERM or Ctrl-C; returns OK, or the code with which one gave up."""
    logs.configure(settings)
    if not _topics_ready(settings, create_topics):
        return ExitCode.FAILED
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    command = [sys.executable, "-m", "cli.main", "worker", "--no-create-topics"]
    where = {"OMIUM_BOOTSTRAP": settings.bootstrap, "OMIUM_CLICKHOUSE": settings.clickhouse}
    children = [
        _Supervised(name, [*command, name], os.environ | where | {"OMIUM_METRICS_PORT": str(_port(settings, index))})
        for index, name in enumerate(_MODULES)
    ]
    code: int | None = None
    while code is None and not ended.wait(_POLL_S):
        code = next((c for child in children if (c := child.look()) is not None), None)
    for each in children:
        each.child.signal(signal.SIGTERM)
    deadline = time.monotonic() + _STOP_DEADLINE_S
    for each in children:
        if each.child.wait(max(0.0, deadline - time.monotonic())) is None:
            each.child.kill()
    return code or ExitCode.OK


def _port(settings: Settings, index: int) -> int:
    """The first child has the port of the settings, the others the next ones; 0 stays any free one."""
    return settings.metrics_port + index if settings.metrics_port else 0
