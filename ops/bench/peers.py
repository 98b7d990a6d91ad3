"""The peers, each run as a process of its own:

    python -m ops.bench.peers KIND BOOTSTRAP APP EVENTS [WARM_UP]

KIND: ours, bare (the whole work of one event); ours-framework, stock-framework (records in, nothing done with them).
Reads EVENTS events from agent.failures and prints one JSON line: seconds and CPU seconds (all threads) from the
first event, or from event WARM_UP, to the last delivery.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, Message, Producer

from ops.bench.load import answer
from ops.runtime.settings import Settings
from schemas.codec import Encoded, Malformed
from schemas.topics import FAILURES
from streams.edge.agent import Guard, Mapper
from streams.edge.app import App, new_app
from streams.edge.outputs import Outputs
from streams.edge.run import run
from streams.edge.transport import Batch


@dataclass
class Clock:
    """Times from the first counted event to the last."""

    events: int
    warm_up: int = 0
    seen: int = 0
    began: tuple[float, float] = (0.0, 0.0)
    marks: list[tuple[int, float]] = field(default_factory=list)
    """(events, CPU seconds) now and then, to see whether the cost grows."""

    def count(self) -> bool:
        """One event more; True at the last."""
        if self.seen == self.warm_up:
            self.began = time.perf_counter(), time.process_time()
        self.seen += 1
        if self.seen % 50_000 == 0 or self.seen in (1_000, 11_000):
            self.marks.append((self.seen, time.process_time()))
        return self.seen == self.events

    def result(self) -> dict[str, Any]:
        seconds, cpu_s = time.perf_counter() - self.began[0], time.process_time() - self.began[1]
        return {"events": self.events - self.warm_up, "seconds": seconds, "cpu_s": cpu_s, "marks": self.marks}


def _finish(clock: Clock) -> None:
    print(json.dumps(clock.result()), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def ours(settings: Settings, clock: Clock) -> int:
    """The streams worker's agent with the bench's work."""

    async def build() -> App:
        app = new_app(settings, "ours")
        app.outputs = Outputs(settings, lambda error: sys.exit(str(error)))

        def handle(record: Any) -> Encoded | Malformed:
            if clock.count():
                app.loop.call_soon(finished)
            return answer(record.value, record.headers, record.partition, record.offset)

        def finished() -> None:
            if app.outputs.in_flight:
                app.loop.call_later(0.0005, finished)
            else:
                _finish(clock)

        app.reads(
            FAILURES.name,
            Mapper(handle, app.outputs, worker="bench", fail=app.fail, read_ahead_bytes=app.read_ahead_bytes).run,
        )
        return app

    return run(build)


def ours_framework(settings: Settings, clock: Clock) -> int:
    """Our edge alone: fetch, batch, queue, guard, acknowledge, commit."""

    async def build() -> App:
        app = new_app(settings, "framework")
        app.outputs = Outputs(settings, lambda error: sys.exit(str(error)))
        guard = Guard(worker="bench")

        def handle(record: Any) -> int:
            return len(record.value)

        async def body(batch: Batch) -> None:
            for record in batch.records:
                await guard.attempt(handle, record)
                batch.progress.done(record.offset)
                if clock.count():
                    _finish(clock)

        app.batches(FAILURES.name, body)
        return app

    return run(build)


def stock_framework(settings: Settings, clock: Clock) -> int:
    """Faust as its documentation shows it, on raw bytes, with uvloop."""
    import faust
    import uvloop

    uvloop.install()
    app = faust.App(
        f"{settings.app}-stock",
        broker=f"kafka://{settings.bootstrap}",
        topic_disable_leader=True,
        web_enabled=False,
        worker_redirect_stdouts=False,
        store="memory://",
        stream_buffer_maxsize=32768,
    )

    @app.agent(app.topic(FAILURES.name, key_serializer="raw", value_serializer="raw"))
    async def read(stream: Any) -> None:
        async for value in stream:
            len(value)
            if clock.count():
                print(json.dumps(clock.result()), flush=True)
                os._exit(0)

    worker = faust.Worker(app, loglevel="ERROR", stdout=sys.stderr)
    worker.execute_from_commandline()
    return 0


def bare(settings: Settings, clock: Clock) -> int:
    """A loop over confluent-kafka and nothing else; offsets are committed when what was produced is delivered."""
    consumer = Consumer(
        settings.kafka(
            **{"group.id": f"{settings.app}-bare", "auto.offset.reset": "earliest", "enable.auto.commit": False}
        )
    )
    producer = Producer(settings.producer())
    consumer.subscribe([FAILURES.name])
    ended = False
    while not ended:
        for message in consumer.consume(500, 0.1):
            if message.error() is not None:
                continue
            ended = clock.count() or ended
            out = answer(message.value() or b"", _headers(message), message.partition() or 0, message.offset() or 0)
            producer.produce(out.topic, out.value, out.key, headers=[*out.headers])
            producer.poll(0)
        producer.flush()
        consumer.commit(asynchronous=True)
    print(json.dumps(clock.result()), flush=True)
    consumer.close()
    return 0


def _headers(message: Message) -> list[tuple[str, bytes]]:
    headers: Any = message.headers()
    return headers or []


KINDS: dict[str, Callable[[Settings, Clock], int]] = {
    "ours": ours,
    "ours-framework": ours_framework,
    "stock-framework": stock_framework,
    "bare": bare,
}


def main() -> int:
    """Run one peer."""
    kind, bootstrap, app, events = sys.argv[1:5]
    warm_up = int(sys.argv[5]) if len(sys.argv) > 5 else 0
    settings = Settings(bootstrap=bootstrap, app=app, log_level="WARNING")
    return KINDS[kind](settings, Clock(int(events), warm_up))


if __name__ == "__main__":
    sys.exit(main())
