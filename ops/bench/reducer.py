"""What one failure costs recover's own code, without a broker: its records in, its records out, by one thread's CPU.

    python -m ops.bench.reducer [--events N] [--batch B] [--rounds R] [--profile]

A table for people, then one line of JSON: microseconds of CPU per failure, each the best of the rounds. `whole` is the
ledger's `stage` and `commit`; the parts below it are the same work, one kind at a time. What the client library costs
is not in it.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from ops.bench.load import answer, message
from processors.recover.ledger import Ledger, Raw
from processors.recover.partitioner import partition_of
from processors.recover.policy import Policies
from processors.recover.state import decode as decode_state
from processors.recover.state import encode as encode_state
from schemas import codec
from schemas.records import Event
from schemas.topics import TOPICS

_NOW_MS: Final = 1_790_000_000_000
_TOPIC_OF: Final = {topic.record: topic for topic in TOPICS if topic.record}


def records(events: int) -> list[tuple[Raw, Raw]]:
    """Failures of one partition, each with its options, as recover reads them."""
    made = []
    for number in range(events):
        failure = message(number)
        options = answer(failure.value, failure.headers, 0, number)
        made.append(
            (
                Raw(failure.topic, 0, number, _NOW_MS, failure.key, failure.value, tuple(failure.headers)),
                Raw(options.topic, 0, number, _NOW_MS, options.key, options.value, tuple(options.headers)),
            )
        )
    return made


def whole(pairs: Sequence[tuple[Raw, Raw]], batch: int) -> tuple[Ledger, list[Event], int]:
    """Every failure commanded: the ledger after it, what was emitted, and the bytes that were to be written."""
    ledger = Ledger(0, 1, Policies.load())
    emitted: list[Event] = []
    size = 0
    for start in range(0, len(pairs), batch):
        some = pairs[start : start + batch]
        staged = ledger.stage([raw for raw, _ in some] + [raw for _, raw in some], _NOW_MS)
        ledger.commit(staged)
        emitted += staged.emitted
        size += sum(len(m.value or b"") + sum(len(n) + len(v) for n, v in m.headers) for m in staged.messages)
    return ledger, emitted, size


def figures(events: int, batch: int, rounds: int) -> dict[str, float]:
    """Microseconds of CPU per failure, by part."""
    pairs = records(events)
    ledger, emitted, size = whole(pairs, batch)
    states = [decode_state(data) for data in ledger.states.values()]

    def cpu_us(work: Callable[[], object]) -> float:
        took = []
        for _ in range(rounds):
            began = time.thread_time()
            work()
            took.append(time.thread_time() - began)
        return min(took) / events * 1e6

    return {
        "whole": cpu_us(lambda: whole(pairs, batch)),
        "decode failure": cpu_us(lambda: [codec.decode(raw.topic, raw.value, raw.headers) for raw, _ in pairs]),
        "decode options": cpu_us(lambda: [codec.decode(raw.topic, raw.value, raw.headers) for _, raw in pairs]),
        "encode outputs": cpu_us(lambda: [codec.encode(_TOPIC_OF[type(e)], e, source="bench") for e in emitted]),
        "encode state": cpu_us(lambda: [encode_state(state) for state in states]),
        "decode state": cpu_us(lambda: [decode_state(data) for data in ledger.states.values()]),
        "partitioner": cpu_us(lambda: [partition_of(raw.key or b"", 4) for raw, _ in pairs]),
        "outputs": len(emitted) / events,
        "bytes written": size / events,
        "bytes of state": sum(map(len, ledger.states.values())) / events,
    }


def main() -> int:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m ops.bench.reducer", description=__doc__)
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=5, help="failures of one transaction")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--profile", action="store_true", help="say which functions take the time")
    args = parser.parse_args()
    if args.profile:
        pairs = records(args.events)
        whole(pairs, args.batch)
        with cProfile.Profile() as profile:
            whole(pairs, args.batch)
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
    found = figures(args.events, args.batch, args.rounds)
    for name, value in found.items():
        print(f"  {name:18}{value:10.1f}")
    print(json.dumps({name.replace(" ", "_"): round(value, 1) for name, value in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
