"""The streams worker as processes on a broker of its own, under kills, rebalances and an outage."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from datetime import UTC, datetime

import pytest
import streams_checker as checker
from confluent_kafka import KafkaException, Producer
from streams_process import Worker, committed_all, until, workers

from ops.broker import Broker
from ops.runtime import topics
from ops.runtime.settings import Settings
from schemas.codec import encode
from schemas.records import (
    Category,
    ErrorInfo,
    FailureEvent,
    SettledAttempt,
    SettledStatus,
    Severity,
    Strategy,
)
from schemas.topics import FAILURES, SETTLED

pytestmark = pytest.mark.integration

OUTAGE_S = float(os.environ.get("OMIUM_TEST_OUTAGE_S", "3"))
"""How long the broker is gone: 60 for the long run."""
STRATEGIES = (Strategy.EXPONENTIAL_BACKOFF, Strategy.INCREASE_TIMEOUT, Strategy.FALLBACK_SERVICE)


class Load:
    """Failures, and settled attempts in transactions of which some are aborted, until stopped."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self._settings = settings
        self._random = random.Random(seed)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        plain = Producer(self._settings.producer())
        settling = self._settling()
        number = 0
        while not self._ended.wait(0.05):
            try:
                settling.begin_transaction()
                for _ in range(10):
                    number += 1
                    self._failure(plain, number)
                    self._settled(settling, number)
                settling.flush()
                if self._random.random() < 0.2:
                    settling.abort_transaction()
                else:
                    settling.commit_transaction()
            except KafkaException:
                # After any doubt a new producer: it fences the old one's transaction.
                settling = self._settling()
        plain.flush()

    def _settling(self) -> Producer:
        config = self._settings.producer(**{"transactional.id": f"{self._settings.app}-load"})
        while True:
            producer = Producer(config)
            try:
                producer.init_transactions(10)
            except KafkaException:
                continue
            return producer

    def _failure(self, producer: Producer, number: int) -> None:
        if number % 50 == 0:
            producer.produce(FAILURES.name, b"{}" if number % 100 else b"\xc3\x01garbage")
            return
        event = FailureEvent(
            tenant_id="t",
            execution_id=f"e{number}",
            failure_id=f"f{number}" if number % 3 else None,
            error=ErrorInfo(message="Connection timeout after 30s"),
        )
        record = encode(FAILURES, event, source="test")
        producer.produce(record.topic, record.value, record.key, headers=record.headers)
        producer.poll(0)

    def _settled(self, producer: Producer, number: int) -> None:
        attempt = SettledAttempt(
            recovery_id=f"r{number}",
            command_id=f"c{number}",
            attempt=self._random.choice((1, 2)),
            tenant_id="t",
            execution_id=f"e{number}",
            category=Category.TOOL_FAILURE,
            subtype=self._random.choice(("timeout", "rate_limit", "network_error")),
            severity=self._random.choice((Severity.LOW, Severity.HIGH)),
            strategy=self._random.choice(STRATEGIES),
            status=self._random.choice(list(SettledStatus)),
            settled_at=datetime.now(UTC),
        )
        record = encode(SETTLED, attempt, source="test")
        producer.produce(record.topic, record.value, record.key, headers=record.headers)


def test_nothing_is_lost_and_nothing_counts_twice(fresh_kafka: Broker) -> None:
    """A second worker, a kill -9, a worker that dies between delivery and commit, one that dies after its changelog
    was written, a broker that is killed, a SIGTERM: while failures and settled attempts keep coming."""
    settings = Settings(bootstrap=fresh_kafka.bootstrap, app="chaos")
    topics.create(settings)
    with workers() as started:
        started.append(Worker(settings))
        until(started[0].ready, "the first worker is not ready")
        load = Load(settings, seed=7)
        try:
            started.append(Worker(settings))
            until(started[1].ready, "the second worker is not ready")
            assert started[0].end(signal.SIGKILL) == -signal.SIGKILL
            started.append(Worker(settings, "streams.delivered=exit@400"))
            until(lambda: started[2].process.poll() is not None, "the failpoint after a delivery was not reached")
            started.append(Worker(settings, "streams.counted=exit@4"))
            until(lambda: started[3].process.poll() is not None, "the failpoint after a count was not reached")
            fresh_kafka.kill(1)
            started.append(Worker(settings))
            time.sleep(OUTAGE_S)
            fresh_kafka.restart(1)
            until(started[1].ready, "the second worker did not come back")
            assert started[1].end(signal.SIGTERM) == 0
        finally:
            load.stop()
        if started[4].process.poll() is not None:
            # It was started without a broker, and said so.
            started.append(Worker(settings))
        until(started[-1].ready, "the last worker is not ready")
        until(lambda: committed_all(settings, FAILURES.name), "failures left")
        until(lambda: committed_all(settings, SETTLED.name), "settled attempts left")
        expected = checker.settled(settings.bootstrap)
        until(lambda: checker.confidence(settings.bootstrap) == expected, "counts are not the fold of what settled")
        assert started[-1].end(signal.SIGTERM) == 0
    assert checker.unanswered(settings.bootstrap) == set()
    answers = checker.answers(settings.bootstrap)
    # Else the run proves nothing: no crash fell between an answer and its commit.
    assert max(answers.values()) > 1
    assert len(expected) == 3 * 2 * 2 * 3
    reasons = {letter["reason"] for letter in checker.dead_letters(settings.bootstrap)}
    assert reasons == {"invalid", "unknown_schema"}


def test_not_ready_without_its_topics(kafka: str) -> None:
    """A worker whose topics are missing ends at once, and says why."""
    empty = Settings(bootstrap=kafka, app="nobody", partitions=3)
    with workers() as started:
        started.append(Worker(empty))
        assert started[0].process.wait(30) == 1
