"""Quix Streams with the same work, in an environment of its own (it needs confluent-kafka below 2.13).

python -m ops.bench.quix BOOTSTRAP APP EVENTS
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from quixstreams import Application

from ops.bench.load import answer
from schemas.topics import FAILURES, OPTION_TOPICS


def main() -> int:
    """Run the peer; the time ends with its last event, before its last flush: to its advantage."""
    bootstrap, name, events = sys.argv[1], sys.argv[2], int(sys.argv[3])
    app = Application(
        bootstrap,
        consumer_group=f"{name}-quix",
        auto_offset_reset="earliest",
        auto_create_topics=False,
        use_changelog_topics=False,
        loglevel="WARNING",
        producer_extra_config={"enable.idempotence": True, "linger.ms": 0, "acks": "all", "batch.size": 48 * 1024},
    )
    source = app.topic(FAILURES.name, key_deserializer="bytes", value_deserializer="bytes")
    outputs = {
        topic.name: app.topic(topic.name, key_serializer="bytes", value_serializer="bytes") for topic in OPTION_TOPICS
    }
    seen = 0
    began = ended = (0.0, 0.0)

    def work(value: bytes, _key: Any, _timestamp: Any, headers: Any) -> Any:
        nonlocal seen, began, ended
        if not seen:
            began = time.perf_counter(), time.process_time()
        seen += 1
        out = answer(value, headers)
        ended = time.perf_counter(), time.process_time()
        return out

    frame = app.dataframe(source)
    frame = frame.apply(work, metadata=True)
    frame = frame.set_headers(lambda out, *_: [*out.headers])
    routed: list[str] = []

    def value_of(out: Any) -> bytes:
        routed[:] = [out.topic]
        return bytes(out.value)

    frame = frame.apply(value_of)
    frame.to_topic(lambda *_: outputs[routed[0]])
    app.run(count=events, collect=False)
    print(json.dumps({"events": seen, "seconds": ended[0] - began[0], "cpu_s": ended[1] - began[1]}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
