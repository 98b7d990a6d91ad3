"""The ten records of loss_stock through our edge; run as a process by test_edge_loss.

    python loss_worker.py BOOTSTRAP GROUP CASE,CASE...

Each case has an input topic of one partition, `GROUP.case`, with the values 0 to 9. A line `case n` on stdout says
that record n was handled. What each case does with record 5 (or 0) is what its name says.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from ops.runtime.settings import Settings
from schemas.codec import Encoded, Malformed
from schemas.records import DeadLetterReason
from streams.edge.agent import Guard, Mapper
from streams.edge.app import App, new_app
from streams.edge.outputs import Outputs
from streams.edge.run import run
from streams.edge.table import WindowedTable
from streams.edge.transport import Batch

BOOTSTRAP, GROUP, CASES = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
SLOW_S = 3600.0


def handled(case: str, number: int) -> None:
    print(case, number, flush=True)


class PlannedError(Exception):
    """What the cases raise."""


async def ours() -> App:
    settings = Settings(bootstrap=BOOTSTRAP, app=GROUP, partitions=1, log_level="ERROR")
    app = new_app(settings, "ours")
    app.outputs = Outputs(settings, app.fail)
    table = None
    if "changelog" in CASES:
        table = WindowedTable.add(app, "rows", size_s=3600, partitions=1)
    for case in CASES:
        topic = f"{GROUP}.{case}"
        if case in ("plain", "delivery", "decode"):
            app.reads(
                topic,
                Mapper(
                    partial(_map, case),
                    app.outputs,
                    worker="streams",
                    fail=app.fail,
                    read_ahead_bytes=app.read_ahead_bytes,
                ).run,
            )
        else:
            app.batches(topic, partial(_OWN.get(case, _each), case, app, table))
    return app


def _map(case: str, record: Any) -> Encoded | Malformed:
    try:
        number = int(record.value)
    except ValueError:
        return Malformed(DeadLetterReason.NOT_JSON, "no number")
    if case == "plain" and number == 5:
        raise PlannedError
    value = b"x" * 5000 if case == "delivery" and number == 5 else record.value
    handled(case, number)
    return Encoded(f"{GROUP}.small", b"k", value, [])


async def _each(case: str, app: App, table: WindowedTable | None, batch: Batch) -> None:
    for record in batch.records:
        handled(case, int(record.value))
        batch.progress.done(record.offset)


async def _batch(case: str, app: App, table: WindowedTable | None, batch: Batch) -> None:
    guard = Guard(worker="streams")

    def number(record: Any) -> int | Malformed:
        if record.value == b"5":
            raise PlannedError
        return int(record.value)

    for record in batch.records:
        found = await guard.attempt(number, record)
        if isinstance(found, Malformed):
            await app.outputs.deliver(guard.dead_letter(record, found))
        else:
            handled(case, found)
        batch.progress.done(record.offset)


async def _before_ack(case: str, app: App, table: WindowedTable | None, batch: Batch) -> None:
    for record in batch.records:
        if record.value == b"5":
            raise PlannedError
        handled(case, int(record.value))
        batch.progress.done(record.offset)


async def _concurrency(case: str, app: App, table: WindowedTable | None, batch: Batch) -> None:
    async def one(record: Any) -> None:
        if record.value == b"0":
            await asyncio.sleep(SLOW_S)
        handled(case, int(record.value))
        batch.progress.done(record.offset)

    app.add_future(asyncio.gather(*(one(record) for record in batch.records)))


async def _out_of_order(case: str, app: App, table: WindowedTable | None, batch: Batch) -> None:
    for record in reversed(batch.records):
        if record.value != b"0":
            handled(case, int(record.value))
            batch.progress.done(record.offset)


async def _changelog(case: str, app: App, table: WindowedTable | None, batch: Batch) -> None:
    assert table is not None
    row = (batch.records[-1].offset, len(batch.records))
    await table.write(batch.partition, {("a key that is too long for the changelog", 0): row}, lambda: True)
    await _each(case, app, table, batch)


async def _sigterm(case: str, app: App, table: WindowedTable | None, batch: Batch) -> None:
    for record in batch.records:
        if record.value == b"5":
            handled("begun", 5)
            await asyncio.sleep(SLOW_S)
        handled(case, int(record.value))
        batch.progress.done(record.offset)


_OWN: dict[str, Callable[..., Any]] = {
    "batch": _batch,
    "before_ack": _before_ack,
    "concurrency": _concurrency,
    "out_of_order": _out_of_order,
    "changelog": _changelog,
    "sigterm": _sigterm,
}

if __name__ == "__main__":
    sys.exit(run(ours))
