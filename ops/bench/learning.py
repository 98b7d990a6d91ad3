"""Learning from a million settled attempts: is every one counted once, and does memory stay where it was?

    python -m ops.bench.learning [--attempts N]

The worker counts what was produced before; resident memory is read each tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Producer

from ops.broker import Broker
from ops.runtime import topics
from ops.runtime.settings import Settings
from schemas.codec import encode
from schemas.records import Category, SettledAttempt, SettledStatus, Severity, Strategy, from_epoch_ms
from schemas.topics import SETTLED
from streams.decide.catalogue import shipped
from streams.decide.rates import Rates
from streams.edge.app import App, new_app
from streams.edge.outputs import Outputs
from streams.edge.run import run
from streams.edge.table import WindowedTable, changelog_name, create_changelog
from streams.edge.transport import Batch
from streams.learning.counts import HOUR_S
from streams.learning.learner import TABLE, Learner

_SUBTYPES: Final = tuple(f"subtype-{i}" for i in range(25))
_STRATEGIES: Final = tuple(Strategy)[1:11]


def fill(settings: Settings, attempts: int) -> None:
    """`attempts` settled attempts of ten tenants over 500 strata, two of three successful."""
    messages = []
    for number in range(5000):
        record = SettledAttempt(
            recovery_id="r",
            command_id="c",
            attempt=1 + number // 250 % 2,
            tenant_id=f"t{number // 500}",
            execution_id="e",
            category=Category.TOOL_FAILURE,
            subtype=_SUBTYPES[number % 25],
            severity=Severity.HIGH,
            strategy=_STRATEGIES[number // 25 % 10],
            status=SettledStatus.SUCCEEDED if number % 3 else SettledStatus.FAILED,
            settled_at=from_epoch_ms(0),
        )
        messages.append(encode(SETTLED, record, source="bench"))
    producer = Producer(settings.producer(**{"linger.ms": 5}))
    for number in range(attempts):
        message = messages[number % 5000]
        while True:
            try:
                producer.produce(message.topic, message.value, message.key, headers=[*message.headers])
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush()


def resident_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> int:
    """Exit code 1 where the counts are wrong."""
    parser = argparse.ArgumentParser(prog="python -m ops.bench.learning", description=__doc__)
    parser.add_argument("--attempts", type=int, default=1_000_000)
    attempts = parser.parse_args().attempts
    found: dict[str, Any] = {}
    with Broker() as broker:
        settings = Settings(bootstrap=broker.bootstrap, app="bench", log_level="WARNING")
        topics.create(settings)
        create_changelog(settings, changelog_name(settings, "learning", TABLE))
        fill(settings, attempts)
        run(lambda: _build(settings, attempts, found))
    print(json.dumps(found))
    return 0 if found["counted"] == attempts else 1


async def _build(settings: Settings, attempts: int, found: dict[str, Any]) -> App:
    app = new_app(settings, "learning")
    app.outputs = Outputs(settings, lambda error: sys.exit(str(error)))
    table = WindowedTable.add(app, TABLE, size_s=HOUR_S, partitions=settings.partitions)
    learner = Learner(app, table, Rates, shipped().learning, worker="learning")
    memory: list[float] = []
    seen = 0
    began = (0.0, 0.0)

    async def body(batch: Batch) -> None:
        nonlocal seen, began
        if not seen:
            began = time.perf_counter(), time.process_time()
        await learner.run(batch)
        seen += len(batch.records)
        if seen * 10 // attempts > len(memory):
            memory.append(resident_mb())
            print(f"  {seen:10,} attempts  {memory[-1]:8.1f} MB  {len(table)} rows", flush=True)
        if seen >= attempts:
            found["attempts_per_s"] = round(seen / (time.perf_counter() - began[0]))
            found["cpu_us"] = round((time.process_time() - began[1]) / seen * 1e6, 1)
            found["counted"] = sum(
                row[1] for p, keys in table.keys_by_partition() for key in keys for row in table.rows(key, p).values()
            )
            found["growth_mb"] = round(memory[-1] - memory[0], 1)
            app.loop.call_soon(os.kill, os.getpid(), signal.SIGTERM)

    app.batches(SETTLED.name, body)
    app.task(learner.publish_forever)
    return app


if __name__ == "__main__":
    sys.exit(main())
