"""The streams worker as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

import streams_checker as checker
from confluent_kafka import Consumer, TopicPartition

from ops.runtime.settings import Settings

DEADLINE_S = 90.0
START = "import sys; from ops.runtime.settings import Settings; from streams.main import run; sys.exit(run(Settings()))"


class Worker:
    """One process."""

    def __init__(self, settings: Settings, failpoints: str = "", **more: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        environment = {
            **os.environ,
            "OMIUM_BOOTSTRAP": settings.bootstrap,
            "OMIUM_APP": settings.app,
            "OMIUM_PARTITIONS": str(settings.partitions),
            "OMIUM_METRICS_PORT": str(port),
            "OMIUM_LOG_LEVEL": "WARNING",
            "OMIUM_FAILPOINTS": failpoints,
            # For a verifier of the tests' own.
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
            **more,
        }
        with NamedTemporaryFile(prefix="streams-", suffix=".log", delete=False) as log:
            self._log = Path(log.name)
            self.process = subprocess.Popen([sys.executable, "-c", START], env=environment, stderr=log)

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def said(self, text: str) -> bool:
        """Whether it is in the log."""
        return text in self._log.read_text()

    def close(self) -> str:
        """Kill it if it still runs; returns its log, which is removed."""
        self.process.kill()
        self.process.wait()
        text = self._log.read_text()
        self._log.unlink()
        return text

    def metrics(self) -> str:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
        return text

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def workers() -> Iterator[list[Worker]]:
    """A list whose processes are gone at the end; pytest shows their logs where the test failed."""
    started: list[Worker] = []
    try:
        yield started
    finally:
        for number, worker in enumerate(started):
            print(f"--- worker {number}, exit code {worker.process.poll()}", worker.close(), sep="\n")


def until(what: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.1)


def committed_all(settings: Settings, topic: str) -> bool:
    """The group has committed past the last committed record of each partition of `topic`."""
    last: dict[int, int] = {}
    for _, partition, offset, _ in checker.read(settings.bootstrap, topic):
        last[partition] = max(last.get(partition, -1), offset)
    consumer = Consumer({"bootstrap.servers": settings.bootstrap, "group.id": f"{settings.app}-streams"})
    found = consumer.committed([TopicPartition(topic, p) for p in last], 10)
    consumer.close()
    return all(p.offset > last[p.partition] for p in found)
