"""Offsets that are not there any more: the cleaner took records out of the source, or all before some offset."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from loss_run import DEADLINE_S, Run

from ops.broker import Broker

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def eager() -> Iterator[str]:
    """A broker that looks for what to clean five times a second, instead of every 15 s."""
    with Broker(properties={"log.cleaner.backoff.ms": "200"}) as broker:
        yield broker.bootstrap


def offsets(run: Run) -> list[int]:
    """Of the records that are still in the source."""
    consumer = Consumer({"bootstrap.servers": run.bootstrap, "group.id": "check", "enable.partition.eof": True})
    consumer.assign([TopicPartition(f"{run.group}.gaps", 0, 0)])
    found: list[int] = []
    while (message := consumer.poll(10)) is not None and message.error() is None:
        found.append(message.offset() or 0)
    consumer.close()
    return found


def compact(run: Run, keys: str) -> list[int]:
    """Produce a record for each letter, its key; wait until only the newest of each key is left. Returns offsets."""
    producer = Producer({"bootstrap.servers": run.bootstrap, "linger.ms": 0})
    for number, key in enumerate(keys):
        producer.produce(f"{run.group}.gaps", str(number).encode(), key.encode())
    assert producer.flush(30) == 0
    expected = sorted({key: number for number, key in enumerate(keys)}.values())
    deadline = time.monotonic() + DEADLINE_S
    rolled = len(keys)
    while (left := offsets(run))[: len(expected)] != expected:
        assert time.monotonic() < deadline, left
        # The segment that is written to is never cleaned: another record begins the next one.
        producer.produce(f"{run.group}.gaps", str(rolled).encode(), f"roll-{rolled}".encode())
        assert producer.flush(30) == 0
        rolled += 1
        time.sleep(0.2)
    return left


COMPACTED = {
    "cleanup_policy": "compact",
    "segment_ms": "100",
    "min_cleanable_dirty_ratio": "0.01",
    "min_compaction_lag_ms": "0",
}


def test_holes_left_by_the_cleaner(eager: str) -> None:
    """At the beginning, in the middle, and where the group has committed: each record that is left is handled once,
    and the position goes on over the holes."""
    run = Run("ours", eager, ("gaps",))
    run.create(**COMPACTED)
    left = compact(run, "aabbbcdddddaeeec")
    assert left[0] > 0
    end = left[-1] + 1
    with run.running():
        run.until(lambda: run.committed()["gaps"] == end, "not committed over the holes")
        run.stop()
    assert [int(line.split()[1]) for line in run.lines if line.startswith("gaps")] == left
    run.lines.clear()
    run.produce("gaps", b"1000")
    with run.running():
        run.until(lambda: run.committed()["gaps"] == end + 1, "did not go on")
    # Nothing that was committed comes again.
    assert run.handled()["gaps"] == {1000}


def test_the_group_s_own_offset_was_deleted(eager: str) -> None:
    """Retention was faster than the worker: it goes on with what is left, from its first record."""
    run = Run("ours", eager, ("gaps",))
    run.create()
    run.fill()
    commit(run, 3)
    partition = TopicPartition(f"{run.group}.gaps", 0, 8)
    admin = AdminClient({"bootstrap.servers": run.bootstrap})
    admin.delete_records([partition])[partition].result(30)
    with run.running():
        run.until(lambda: run.committed()["gaps"] == 10, "does not go on")
    assert run.handled()["gaps"] == {8, 9}


def commit(run: Run, offset: int) -> None:
    """Commit for the group, which has no member."""
    consumer = Consumer({"bootstrap.servers": run.bootstrap, "group.id": run.consumer_group})
    consumer.commit(offsets=[TopicPartition(f"{run.group}.gaps", 0, offset)], asynchronous=False)
    consumer.close()
