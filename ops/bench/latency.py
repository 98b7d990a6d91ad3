"""From a failure to its resume command, through the workers and through a bare relay; runs as a process:

    python -m ops.bench.latency stage1|stage2 BOOTSTRAP APP     one stage of the relay

`measure` runs the load and reads the commands: from before produce() to the arrival at a read-committed consumer,
by one clock.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Final

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from ops.bench.load import message
from ops.runtime.settings import Settings
from processors.recover.writer import LINGER_MS
from schemas.records import Category
from schemas.topics import COMMANDS, FAILURES, OPTION_TOPICS, OPTIONS

_MIDDLE: Final = OPTIONS[Category.TOOL_FAILURE].name
SERVER_JVM: Final = (
    "-XX:TieredStopAtLevel=4",
    "-Xms1g",
    "-Xmx1g",
    "-XX:-UseSerialGC",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
)
"""A broker's Java machine as kafka-server-start.sh begins it: `ops.broker` begins fast instead, and its collector stops
the broker for 50 to 100 ms at a time."""
_START_S: Final = 60.0
_DRAIN_S: Final = 10.0
_WARM_UP_S: Final = 3.0
_WORKER: Final = "import sys; from ops.runtime.settings import Settings; from {0} import run; sys.exit(run(Settings()))"


@dataclass(frozen=True)
class Latency:
    """Milliseconds, of the failures after the warm-up."""

    p50: float
    p99: float
    missing: int
    """Failures without a command ten seconds after the last failure."""
    first_hop_p50: float
    """To the options, or to the relay's middle topic."""
    late: float
    """p50 of the last tenth over p50 of the first: above 2, a backlog grew."""
    cpu_us: dict[str, float]
    """Microseconds of CPU per failure, from the first sent to the last command, by process; `load` sends and reads."""


def measure(
    settings: Settings, rate: int, seconds: float, prefix: str, processes: Mapping[str, int] | None = None
) -> Latency:
    """Send `rate` failures a second and wait for their commands. `processes`: pids of what works on them."""
    count = int(rate * seconds)
    sent: dict[bytes, float] = {}
    arrived: dict[bytes, float] = {}
    halfway: dict[bytes, float] = {}
    ended = threading.Event()
    reading = threading.Event()
    collector = threading.Thread(target=_collect, args=(settings, arrived, halfway, reading, ended))
    collector.start()
    reading.wait(_START_S)
    producer = Producer(settings.producer())
    records = [message(number, prefix) for number in range(count)]
    pids = {**(processes or {}), "load": os.getpid()}
    cpu_s = {name: _cpu_s(pid) for name, pid in pids.items()}
    began = time.perf_counter()
    for number, record in enumerate(records):
        if (wait := began + number / rate - time.perf_counter()) > 0:
            time.sleep(wait)
        sent[record.key] = time.perf_counter()
        producer.produce(record.topic, record.value, record.key, headers=[*record.headers])
        producer.poll(0)
    producer.flush()
    deadline = time.monotonic() + _DRAIN_S
    while not sent.keys() <= arrived.keys() and time.monotonic() < deadline:
        time.sleep(0.05)
    cpu_us = {name: (_cpu_s(pid) - cpu_s[name]) / count * 1e6 for name, pid in pids.items()}
    ended.set()
    collector.join()
    keys = [record.key for record in records[int(rate * min(_WARM_UP_S, seconds / 4)) :]]
    delays = [(arrived[key] - sent[key]) * 1000 for key in keys if key in arrived]
    tenth = max(1, len(delays) // 10)
    cuts = quantiles(delays, n=100) if len(delays) > 1 else [float("inf")] * 99
    first, last = sorted(delays[:tenth])[tenth // 2 :], sorted(delays[-tenth:])[tenth // 2 :]
    late = last[0] / first[0] if first and last else float("inf")
    hops = sorted((halfway[key] - sent[key]) * 1000 for key in keys if key in halfway)
    first_hop = hops[len(hops) // 2] if hops else float("inf")
    return Latency(cuts[49], cuts[98], len(sent.keys() - arrived.keys()), first_hop, late, cpu_us)


def _cpu_s(pid: int) -> float:
    """CPU seconds of all threads of a process so far, in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _collect(
    settings: Settings,
    arrived: dict[bytes, float],
    halfway: dict[bytes, float],
    reading: threading.Event,
    ended: threading.Event,
) -> None:
    consumer = Consumer(
        settings.kafka(
            **{"group.id": f"{settings.app}-collect", "isolation.level": "read_committed", "enable.auto.commit": False}
        )
    )
    # Nothing of this run's prefix is there yet, so the beginning is as good as the end. One partition tells of the
    # first hop: to read them all would cost the broker as much as a worker does.
    commands = [TopicPartition(COMMANDS.name, p, 0) for p in range(settings.partitions)]
    consumer.assign([*commands, *(TopicPartition(topic.name, 0, 0) for topic in OPTION_TOPICS)])
    reading.set()
    while not ended.is_set():
        if (record := consumer.poll(0.1)) is not None and record.error() is None:
            into = arrived if record.topic() == COMMANDS.name else halfway
            into.setdefault(record.key() or b"", time.perf_counter())
    consumer.close()


@contextmanager
def workers(settings: Settings, **others: str) -> Iterator[dict[str, int]]:
    """The streams and recover workers, and others by name and module, ready: their pids."""
    modules = {"streams": "streams.main", "recover": "processors.recover.main", **others}
    commands = [["-c", _WORKER.format(name)] for name in modules.values()]
    with _processes(settings, commands) as (urls, pids):
        deadline = time.monotonic() + _START_S
        while not all(_is_ready(url) for url in urls):
            if time.monotonic() > deadline:
                raise TimeoutError("the workers are not ready")
            time.sleep(0.1)
        measure(settings, 20, 5, f"{settings.app}-warm")
        yield dict(zip(modules, pids, strict=True))


@contextmanager
def relay(settings: Settings) -> Iterator[dict[str, int]]:
    """The bare relay, with its partitions assigned: its pids."""
    names = ("stage1", "stage2")
    stages = [["-m", "ops.bench.latency", stage, settings.bootstrap, settings.app] for stage in names]
    with _processes(settings, stages) as (_, pids):
        measure(settings, 20, 5, f"{settings.app}-warm")
        yield dict(zip(names, pids, strict=True))


@contextmanager
def _processes(settings: Settings, commands: list[list[str]]) -> Iterator[tuple[list[str], list[int]]]:
    """The health addresses and the pids of these commands' processes."""
    started, urls = [], []
    try:
        for command in commands:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            environment = {
                **os.environ,
                "OMIUM_BOOTSTRAP": settings.bootstrap,
                "OMIUM_APP": settings.app,
                "OMIUM_METRICS_PORT": str(port),
                "OMIUM_LOG_LEVEL": "WARNING",
            }
            started.append(subprocess.Popen([sys.executable, *command], env=environment))
            urls.append(f"http://127.0.0.1:{port}/readyz")
        yield urls, [process.pid for process in started]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def stage1(settings: Settings) -> None:
    """Failures to the middle topic, as they come; offsets are committed by librdkafka."""
    consumer = Consumer(settings.kafka(**{"group.id": f"{settings.app}-stage1", "auto.offset.reset": "latest"}))
    producer = Producer(settings.producer())
    consumer.subscribe([FAILURES.name])
    while True:
        for record in _some(consumer):
            producer.produce(_MIDDLE, record.value(), record.key())
        producer.poll(0)


def stage2(settings: Settings) -> None:
    """The middle topic to the commands, in transactions with the offsets."""
    consumer = Consumer(
        settings.kafka(
            **{
                "group.id": f"{settings.app}-stage2",
                "auto.offset.reset": "latest",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
            }
        )
    )
    # As recover's: with the records of a transaction sent one by one its thread would spin.
    producer = Producer(settings.producer(**{"transactional.id": f"{settings.app}-relay", "linger.ms": LINGER_MS}))
    producer.init_transactions()
    consumer.subscribe([_MIDDLE])
    while True:
        if records := _some(consumer):
            producer.begin_transaction()
            for record in records:
                producer.produce(COMMANDS.name, record.value(), record.key())
            positions = consumer.position(consumer.assignment())
            producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata())
            producer.commit_transaction()


def _some(consumer: Consumer) -> list[Message]:
    """What is there, waiting for the first: consume() alone would wait to fill its list."""
    first = consumer.poll(0.1)
    if first is None:
        return []
    found = [first, *consumer.consume(200, 0)]
    for record in found:
        if (error := record.error()) is not None and error.code() != KafkaError._PARTITION_EOF:
            print(error, file=sys.stderr)
    return [record for record in found if record.error() is None]


if __name__ == "__main__":
    stage, bootstrap, app = sys.argv[1:4]
    {"stage1": stage1, "stage2": stage2}[stage](Settings(bootstrap=bootstrap, app=app))
