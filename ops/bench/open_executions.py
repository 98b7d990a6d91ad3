"""What a million open executions cost recover: memory, changelog, restore, and the takeover of a killed worker.

    python -m ops.bench.open_executions [--executions N]

The changelog is filled with states as the ledger itself makes them, their ids changed in place. Then: one worker
restores all partitions; a second joins and the first is killed; the second is killed and started again. A takeover is
timed from the kill to the commands of failures of all partitions that were sent right after it. Wall-clock times are
those of this machine; `_cpu_s` holds elsewhere too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Final

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from ops.bench.load import answer, message
from ops.broker import Broker
from ops.runtime import topics
from ops.runtime.child import Child
from ops.runtime.settings import Settings
from processors.recover.ledger import Ledger, Raw, Staged
from processors.recover.packing import packed, unpacked
from processors.recover.partitioner import partition_of
from processors.recover.policy import Policies
from processors.recover.state import HEADER_BYTES
from schemas.codec import encode
from schemas.records import OutcomeStatus, ResumeCommand, ResumeOutcome
from schemas.topics import COMMANDS, FAILURES, OUTCOMES, RECOVER_STATE

_SAMPLES: Final = 50
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_START_S: Final = 300.0
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_WORKER: Final = (sys.executable, "-m", "processors.recover.main")


def states(number_of: int) -> dict[str, bytes]:
    """States of open recoveries whose first command is out, as the changelog has them. None is due for an hour."""
    now = int(time.time() * 1000) + _HOUR_MS
    ledger = Ledger(0, 1, Policies.load())
    ledger.commit(ledger.stage(list(_inputs(range(number_of), now)), now))
    return dict(ledger.states)


def _inputs(numbers: range, now: int) -> Iterator[Raw]:
    for offset, number in enumerate(numbers):
        failure = message(number, "open")
        options = answer(failure.value, failure.headers, 0, offset)
        yield Raw(failure.topic, 0, offset, now, failure.key, failure.value, tuple(failure.headers))
        yield Raw(options.topic, 0, offset, now, options.key, options.value, tuple(options.headers))


def fill(settings: Settings, executions: int) -> float:
    """Write the changelog; returns its bytes per execution, before compression."""
    samples = [(key, value[:HEADER_BYTES], unpacked(value[HEADER_BYTES:])) for key, value in states(_SAMPLES).items()]
    producer = Producer(settings.producer(**{"linger.ms": 20, "compression.type": "lz4", "batch.size": 500_000}))
    size = 0
    for number in range(executions):
        sample, header, body = samples[number % len(samples)]
        tenant, _, execution = sample.partition("/")
        key = f"{tenant}/open-{number:08}".encode()
        value = header + packed(body.replace(f'"{execution}"'.encode(), f'"open-{number:08}"'.encode()))
        size += len(key) + len(value)
        while True:
            try:
                producer.produce(RECOVER_STATE.name, value, key)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush()
    return size / executions


class Worker:
    """One recover worker as a process."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._log = log
        env = {"OMIUM_BOOTSTRAP": settings.bootstrap, "OMIUM_APP": settings.app, "OMIUM_LOG_LEVEL": "INFO"}
        self.child = Child(_WORKER, log=log, env={**os.environ, **env})

    def taken_over(self) -> dict[int, float]:
        """Partition to the seconds that its last takeover took."""
        found = re.findall(r"partition (\d+): taken over, .* in ([\d.]+) s", self._log.read_text())
        return {int(partition): float(seconds) for partition, seconds in found}

    def await_partitions(self, count: int) -> dict[int, float]:
        """Wait until it has taken over `count` partitions."""
        deadline = time.monotonic() + _START_S
        while len(found := self.taken_over()) < count:
            if time.monotonic() > deadline or self.child.pid is None:
                raise TimeoutError(f"the worker has {len(found)} of {count} partitions:\n{self._log.read_text()}")
            time.sleep(0.05)
        return found

    def kill(self) -> None:
        """SIGKILL, where it still runs."""
        if self.child.pid is not None:
            self.child.kill()

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.child.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_s(self) -> float:
        """Of all its threads, so far."""
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


class Probe:
    """Failures of every partition, and the wait for their commands."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer = Producer(settings.producer())
        self._numbers = count()
        self._consumer = Consumer(
            settings.kafka(
                **{"group.id": "probe", "isolation.level": "read_committed", "auto.offset.reset": "earliest"}
            )
        )
        self._consumer.assign([TopicPartition(COMMANDS.name, p, 0) for p in range(settings.partitions)])

    def seconds_since(self, began_s: float) -> float:
        """Fail in each partition; returns the time from `began_s` to the last of the commands."""
        waiting = {self._fail(partition) for partition in range(self._settings.partitions)}
        deadline = time.monotonic() + _START_S
        while waiting:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no commands for {waiting}")
            if (record := self._consumer.poll(0.05)) is not None and record.error() is None:
                waiting.discard(record.key() or b"")
        return time.monotonic() - began_s

    def close(self) -> None:
        self._consumer.close()

    def _fail(self, partition: int) -> bytes:
        while True:
            number = next(self._numbers)
            failure = message(number, "probe")
            if partition_of(failure.key, self._settings.partitions) == partition:
                break
        placed: list[Message] = []
        self._producer.produce(
            FAILURES.name, failure.value, failure.key, headers=[*failure.headers],
            on_delivery=lambda _, message: placed.append(message),
        )  # fmt: skip
        self._producer.flush()
        options = answer(failure.value, failure.headers, partition, placed[0].offset() or 0)
        self._producer.produce(options.topic, options.value, options.key, headers=[*options.headers])
        self._producer.flush()
        return failure.key


def forgotten(executions: int = 2_000) -> tuple[int, float]:
    """(states left, CPU in us per execution) of recoveries that succeeded, once they are 24 hours past."""
    now = int(time.time() * 1000)
    ledger = Ledger(0, 1, Policies.load())
    staged = ledger.stage(list(_inputs(range(executions), now)), now)
    ledger.commit(staged)
    ends = [_success(command, offset, now) for offset, command in enumerate(_commands(staged))]
    ledger.commit(ledger.stage(ends, now))
    if len(ends) != executions or ledger.open or len(ledger.states) != executions:
        raise RuntimeError("recoveries did not end")
    ledger.commit(ledger.stage([], now + _DAY_MS - 1, fire_until=now + _DAY_MS - 1))
    if len(ledger.states) != executions:
        raise RuntimeError("forgotten too early")
    began_s = time.process_time()
    while ledger.next_due_ms is not None:
        ledger.commit(ledger.stage([], now + _DAY_MS, fire_until=now + _DAY_MS))
    return len(ledger.states), (time.process_time() - began_s) / executions * 1e6


def _commands(staged: Staged) -> list[ResumeCommand]:
    return [record for record in staged.emitted if isinstance(record, ResumeCommand)]


def _success(command: ResumeCommand, offset: int, now: int) -> Raw:
    outcome = ResumeOutcome(
        command_id=command.command_id, recovery_id=command.recovery_id, attempt=command.attempt,
        tenant_id=command.tenant_id, execution_id=command.execution_id, status=OutcomeStatus.SUCCEEDED,
    )  # fmt: skip
    encoded = encode(OUTCOMES, outcome, source="bench")
    return Raw(encoded.topic, 0, offset, now, encoded.key, encoded.value, tuple(encoded.headers))


def measure(executions: int = 1_000_000) -> dict[str, float]:
    """The figures: bytes, microseconds of CPU, and seconds: of CPU where the name says so, else by the clock."""
    figures: dict[str, float] = {}
    left, figures["recover_forget_us_per_execution"] = forgotten()
    figures["recover_states_left_after_24h"] = left
    with tempfile.TemporaryDirectory() as folder, Broker() as broker, ExitStack() as ending:
        settings = Settings(bootstrap=broker.bootstrap, app="open")
        topics.create(settings)
        every = settings.partitions

        def start() -> Worker:
            worker = Worker(settings, Path(folder) / f"{time.monotonic_ns()}.log")
            ending.callback(worker.kill)
            return worker

        idle = start()
        idle.await_partitions(every)
        idle_bytes, idle_cpu_s = idle.resident_bytes(), idle.cpu_s()
        idle.child.stop(30)
        size = figures["recover_changelog_bytes_per_execution"] = fill(settings, executions)
        say(f"  {executions:,} states of {size:,.0f} bytes")

        first = start()
        figures["recover_restore_1m_s"] = max(first.await_partitions(every).values())
        figures["recover_restore_1m_cpu_s"] = first.cpu_s() - idle_cpu_s
        figures["recover_open_memory_bytes_per_execution"] = (first.resident_bytes() - idle_bytes) / executions
        say(f"  restored in {figures['recover_restore_1m_s']:.1f} s by one worker")

        probe = Probe(settings)
        ending.callback(probe.close)
        probe.seconds_since(time.monotonic())
        second = start()
        second.await_partitions(every // 2)
        probe.seconds_since(time.monotonic())
        killed_s = time.monotonic()
        first.kill()
        figures["recover_takeover_s"] = probe.seconds_since(killed_s)
        say(f"  {figures['recover_takeover_s']:.1f} s from kill -9 to commands, half the partitions by another worker")
        say(f"  of it restoring: {second.taken_over()}")
        killed_s = time.monotonic()
        second.kill()
        third = start()
        figures["recover_cold_takeover_s"] = probe.seconds_since(killed_s)
        say(f"  {figures['recover_cold_takeover_s']:.1f} s from kill -9 to commands, all by a worker started again")
        say(f"  of it restoring: {third.taken_over()}")
    return figures


def say(line: str) -> None:
    """A line for people."""
    print(line, flush=True)


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m ops.bench.open_executions", description=__doc__)
    parser.add_argument("--executions", type=int, default=1_000_000)
    figures = measure(parser.parse_args().executions)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
