"""`omium-recovery worker`: one worker in this process, or all of them as supervised children."""

from __future__ import annotations

import logging
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
from cli.processes import Keeper
from ops.runtime import logs, topics
from ops.runtime.metrics import BUILD_INFO
from ops.runtime.settings import Settings

_log: Final = logging.getLogger("omium.worker")
_MODULES: Final = {
    "streams": "streams.main",
    "recover": "processors.recover.main",
    "govern": "processors.govern.main",
    "audit": "processors.audit.main",
}
_RETRY_S: Final = 2.0
_POLL_S: Final = 0.2


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
    keeper = Keeper(_log.error)
    try:
        for index, name in enumerate(_MODULES):
            keeper.start(name, [*command, name], None, where | {"OMIUM_METRICS_PORT": str(_port(settings, index))})
        while keeper.gave_up is None and not ended.wait(_POLL_S):
            pass
    finally:
        keeper.close()
    return keeper.gave_up or ExitCode.OK


def _port(settings: Settings, index: int) -> int:
    """The first child has the port of the settings, the others the next ones; 0 stays any free one."""
    return settings.metrics_port + index if settings.metrics_port else 0
