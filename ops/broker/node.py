"""One node of a local cluster: a JVM that dies with us."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Final

from ops.broker.jars import BrokerError, archive, classpath, java
from ops.runtime.child import Child

_LOG4J: Final = Path(__file__).with_name("log4j2.xml")
_STARTED: Final = b"Kafka Server started"
_START_DEADLINE_S: Final = 120.0
"""A node is up in 3 s; two cores under three JVMs and a test suite take many times that."""
_STOP_DEADLINE_S: Final = 5.0
"""One node needs 0.3 s. Of three, those that stop last have no quorum left to say goodbye to."""
_POLL_S: Final = 0.05
_JVM: Final = (
    # C1 and the serial collector: a node lives for seconds and shares two cores.
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Xms96m",
    "-Xmx384m",
    # The archive of classes is used where it exists and fits this Java, and else passed over.
    "-Xshare:auto",
    "-Djava.awt.headless=true",
    # librdkafka resolves "localhost" to ::1 first.
    "-Djava.net.preferIPv4Stack=true",
    f"-Dlog4j2.configurationFile={_LOG4J}",
)


class Node:
    """A KRaft node in `folder`, which holds its properties, data and log."""

    def __init__(self, number: int, folder: Path, jvm: tuple[str, ...] = ()) -> None:
        """`jvm`: more options for the Java machine."""
        self._jvm_options = jvm
        self.number = number
        self.folder = folder
        self.log = folder / "kafka.log"
        self._jvm: Child | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the running JVM, or None."""
        return self._jvm.pid if self._jvm else None

    def launch(self) -> None:
        """Start the JVM unless it runs; returns at once (see `wait_started`)."""
        if self.pid is None:
            options = [*_JVM, f"-XX:SharedArchiveFile={archive()}", *self._jvm_options]
            properties = self.folder / "server.properties"
            self._jvm = Child([java(), *options, "-cp", classpath(), "kafka.Kafka", str(properties)], log=self.log)

    def wait_started(self) -> None:
        """Return when the node serves; raises `BrokerError` with the end of its log if it does not."""
        deadline = time.monotonic() + _START_DEADLINE_S
        while _STARTED not in (log := self.log.read_bytes()):
            if self.pid is None or time.monotonic() > deadline:
                self.kill()
                raise BrokerError(f"node {self.number} did not start: {log[-2000:].decode(errors='replace').strip()}")
            time.sleep(_POLL_S)

    def terminate(self) -> None:
        """SIGTERM; returns at once (see `wait_stopped`)."""
        self.resume()
        self._signal(signal.SIGTERM)

    def wait_stopped(self) -> None:
        """Return when the node has ended; SIGKILL if that takes too long."""
        if self._jvm is not None and self._jvm.wait(_STOP_DEADLINE_S) is None:
            self._jvm.kill()

    def kill(self) -> None:
        """SIGKILL: what it had not written yet is lost, what it wrote is not."""
        if self._jvm is not None:
            self._jvm.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._jvm is not None:
            self._jvm.signal(number)
