"""Ten records through stock Faust, as its documentation shows it; run as a process by test_edge_loss.

    python loss_stock.py BOOTSTRAP GROUP CASE,CASE...

As loss_worker, which does the same through our edge. `sigterm` is run without waiting for what is being handled.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import faust

BOOTSTRAP, GROUP, CASES = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
SLOW_S = 3600.0
EVENT_S = 0.3

app = faust.App(
    GROUP,
    broker=f"kafka://{BOOTSTRAP}",
    broker_commit_interval=0.3,
    stream_wait_empty="sigterm" not in CASES,
    topic_disable_leader=True,
    topic_replication_factor=1,
    topic_partitions=1,
    table_standby_replicas=0,
    web_enabled=False,
    worker_redirect_stdouts=False,
    store="memory://",
    # In the working directory, which is temporary.
    datadir="data",
)
oversized = app.topic(f"{GROUP}.small", value_serializer="raw")
table: Any = app.Table(f"{GROUP}-rows", default=int, partitions=1) if "changelog" in CASES else None


class PlannedError(Exception):
    """What the cases raise."""


def handled(case: str, number: int) -> None:
    print(case, number, flush=True)


async def plain(stream: Any) -> None:
    async for value in stream:
        if int(value) == 5:
            raise PlannedError
        handled("plain", int(value))


async def batch(stream: Any) -> None:
    async for values in stream.take(4, within=0.5):
        if b"5" in values:
            raise PlannedError
        for value in values:
            handled("batch", int(value))


async def before_ack(stream: Any) -> None:
    async for event in stream.noack().events():
        if event.value == b"5":
            raise PlannedError
        handled("before_ack", int(event.value))
        event.ack()


async def concurrency(stream: Any) -> None:
    async for value in stream:
        if value == b"0":
            await asyncio.sleep(SLOW_S)
        handled("concurrency", int(value))


async def out_of_order(stream: Any) -> None:
    held = []
    async for event in stream.noack().events():
        if event.value == b"0":
            held.append(event)
            continue
        handled("out_of_order", int(event.value))
        event.ack()


async def delivery(stream: Any) -> None:
    async for value in stream:
        await oversized.send(value=value if value != b"5" else b"x" * 5000)
        handled("delivery", int(value))


async def decode(stream: Any) -> None:
    async for value in stream:
        handled("decode", int(value))


async def changelog(stream: Any) -> None:
    async for value in stream:
        table["a key that is too long for the changelog"] += 1
        handled("changelog", int(value))


async def sigterm(stream: Any) -> None:
    async for value in stream:
        handled("begun", int(value))
        await asyncio.sleep(EVENT_S)
        handled("sigterm", int(value))


async def sentinel(stream: Any) -> None:
    async for value in stream:
        handled("sentinel", int(value))


async def committed_only(stream: Any) -> None:
    async for value in stream:
        handled("committed_only", int(value))


BODIES = (
    plain,
    batch,
    before_ack,
    concurrency,
    out_of_order,
    delivery,
    decode,
    changelog,
    sigterm,
    sentinel,
    committed_only,
)


def main() -> None:
    for body in BODIES:
        case = body.__name__
        if case in CASES:
            serializer = "json" if case == "decode" else "raw"
            topic = app.topic(f"{GROUP}.{case}", key_serializer="raw", value_serializer=serializer)
            app.agent(topic, name=case, concurrency=2 if case == "concurrency" else 1)(body)
    faust.Worker(app, loglevel="ERROR").execute_from_commandline()


if __name__ == "__main__":
    main()
