"""Broker, topics, workers and an embedded ClickHouse on this machine, in one folder. What dies is started again."""

from __future__ import annotations

import fcntl
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final, Self

from confluent_kafka import KafkaException, Producer

from cli.demo.people import provide
from cli.processes import Keeper
from ops.broker import Broker, BrokerError
from ops.broker.jars import classpath, java
from ops.runtime import topics
from ops.runtime.lag import LagMeter
from ops.runtime.settings import Settings
from schemas.topics import AUDITED, DEFAULT_PARTITIONS, TOPICS

WORKERS: Final = ("streams", "recover", "govern", "audit")
_READY_S: Final = 120.0
_MARKER: Final = ".omium-stack"


class StackError(Exception):
    """The stack cannot run; the message says what to do about it."""


def lacking() -> str | None:
    """Why no real broker can run here, or None. Brings Kafka's jars where there are none yet (45 MB, once)."""
    try:
        java()
        classpath()
    except BrokerError as error:
        return str(error)
    return None


class Stack:
    """All of it, from `start` to `stop`. A context manager that does both.

    The folder holds the broker's data, ClickHouse's data and a log of each process; a later stack on it
    goes on where this one ended. With `in_memory`, librdkafka's in-process broker takes the place of a
    real one: nothing is kept, and nothing is guaranteed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        in_memory: bool = False,
        fresh: bool = False,
        port: int | None = None,
        tell: Callable[[str], None] = lambda _: None,
        operated: bool = False,
    ) -> None:
        """With `fresh`, what an earlier stack left in the folder is deleted. `port` is the broker's, if it is free.
        `tell` gets a line when a worker has died, from another thread. With `operated`, whoever runs this gets a key
        with which to answer escalations, unless a policy file that is set says who may.

        Raises StackError where another stack runs in the folder, or where it holds something else.
        """
        self.folder = folder.absolute()
        self.in_memory = in_memory
        self._lock = _own(self.folder, fresh=fresh)
        self._port = port
        self._broker: Broker | None = None
        self._mock: Producer | None = None
        self._keeper = Keeper(tell)
        self._ports: dict[str, int] = {}
        # What is set for another cluster must not reach this one; policy, catalogue and the like may.
        self.settings = Settings(
            clickhouse=f"chdb://{self.folder}/clickhouse",
            security_protocol="PLAINTEXT",
            sasl_mechanism=None,
            partitions=DEFAULT_PARTITIONS,
            replication=1,
        )
        self.operator_key: Path | None = None
        if operated and self.settings.policy_file is None:
            self.operator_key, policy = provide(self.folder)
            self.settings = self.settings.model_copy(update={"policy_file": policy})

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, progress: Callable[[str], None] = lambda _: None) -> Self:
        """Start everything and return when each worker is ready. `progress` is told what is being waited for."""
        progress("broker")
        bootstrap = self._start_mock() if self.in_memory else self._start_broker()
        self.settings = self.settings.model_copy(update={"bootstrap": bootstrap})
        if not self.in_memory:
            progress("topics")
            topics.create(self.settings)
        for name in WORKERS:
            self._start_worker(name)
        for name in WORKERS:
            progress(f"worker {name}")
            self._await_ready(name)
        return self

    def stop(self) -> None:
        """End everything, the broker last. The folder stays."""
        self._keeper.close()
        if self._broker is not None:
            self._broker.close()
        self._mock = None
        self._lock.close()

    def pid(self, worker: str) -> int | None:
        """Process id of a worker, for those who want to kill it; None while it does not run."""
        return self._keeper.children[worker].pid

    @property
    def restarts(self) -> int:
        """How often a worker was started again."""
        return self._keeper.restarts

    def metrics_url(self, worker: str) -> str:
        """Where a worker serves /metrics, /healthz and /readyz."""
        return f"http://127.0.0.1:{self._ports[worker]}/metrics"

    def ready(self, worker: str) -> bool:
        """Whether the worker says that it does its work."""
        try:
            url = f"http://127.0.0.1:{self._ports[worker]}/readyz"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def await_audited(self, timeout_s: float) -> bool:
        """Wait until every record of an audited topic is in ClickHouse; False where the time did not suffice."""
        meter = LagMeter(self.settings, f"{self.settings.app}-audit", [topic.name for topic in AUDITED])
        deadline_s = time.monotonic() + timeout_s
        try:
            while any(lag.records for lag in meter.measure(timeout_s)):
                if time.monotonic() > deadline_s:
                    return False
                time.sleep(0.2)
        except KafkaException:
            return False
        finally:
            meter.close()
        return True

    def environment(self) -> dict[str, str]:
        """Settings of this stack, as environment of a child."""
        known = {"OMIUM_BOOTSTRAP": self.settings.bootstrap, "OMIUM_CLICKHOUSE": self.settings.clickhouse}
        if self.settings.policy_file:
            known["OMIUM_POLICY_FILE"] = str(self.settings.policy_file)
        return known

    def _start_broker(self) -> str:
        port = self._port if self._port and _free(self._port) else None
        self._broker = Broker(data_dir=self.folder / "kafka", port=port)
        self._broker.start()
        return self._broker.bootstrap

    def _start_mock(self) -> str:
        self._mock = Producer({"test.mock.num.brokers": 1, "log_level": 0})
        # It makes a topic, with four partitions, when somebody asks for it.
        found = [self._mock.list_topics(topic.name, timeout=10) for topic in TOPICS]
        return ",".join(f"{broker.host}:{broker.port}" for broker in found[0].brokers.values())

    def _start_worker(self, name: str) -> None:
        self._ports[name] = _free_port()
        environment = {
            **self.environment(),
            "OMIUM_SECURITY_PROTOCOL": self.settings.security_protocol,
            "OMIUM_PARTITIONS": str(self.settings.partitions),
            "OMIUM_REPLICATION": str(self.settings.replication),
            "OMIUM_METRICS_HOST": "127.0.0.1",
            "OMIUM_METRICS_PORT": str(self._ports[name]),
            "OMIUM_AUDIT_BATCH_S": "0.5",
        }
        command = [sys.executable, "-m", "cli.main", "worker", name]
        if self.in_memory:
            command = [sys.executable, "-m", "cli.demo.without_broker", name]
        self._keeper.start(name, command, self.folder / f"{name}.log", environment)

    def _await_ready(self, worker: str) -> None:
        deadline_s = time.monotonic() + _READY_S
        child = self._keeper.children[worker]
        while not self.ready(worker):
            if child.gave_up is not None:
                raise StackError(f"worker {worker} ended with exit code {child.gave_up}; its log is {child.log}")
            if time.monotonic() > deadline_s:
                raise StackError(f"worker {worker} is not ready after {_READY_S:g} s; its log is {child.log}")
            time.sleep(0.1)


def _own(folder: Path, *, fresh: bool) -> IO[bytes]:
    """Take the folder for this process. The lock ends with the process."""
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise StackError(f"{folder} holds something else; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / _MARKER).open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise StackError(f"another stack runs in {folder}") from None
    for entry in folder.iterdir() if fresh else ():
        if entry.name != _MARKER:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return lock


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
