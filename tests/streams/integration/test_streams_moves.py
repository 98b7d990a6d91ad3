"""A partition moves while what its records caused is on its way to the broker: in order, and away from a zombie.

What became of each failure is counted from the topics by a checker that shares no code with the worker.
"""

from __future__ import annotations

import signal

import pytest
import streams_checker as checker
from confluent_kafka import ConsumerGroupState, Producer
from confluent_kafka.admin import AdminClient
from streams_process import Worker, committed_all, until, workers

from ops.broker import Broker
from ops.runtime import topics
from ops.runtime.settings import Settings
from schemas.topics import FAILURES

pytestmark = pytest.mark.integration

FAILURE = b'{"tenant_id":"t","execution_id":"e","error":{"message":"Connection timeout after 30s"}}'
STALLED = "failpoint streams.sent: pause"


def fail(settings: Settings, failures: int) -> None:
    """As many in each partition, so that a batch has many bursts."""
    producer = Producer(settings.producer(**{"linger.ms": 5}))
    for number in range(failures):
        producer.produce(FAILURES.name, FAILURE, partition=number % settings.partitions)
    assert producer.flush(30) == 0


class Group:
    """The workers' consumer group, as the broker sees it."""

    def __init__(self, settings: Settings) -> None:
        self._name = f"{settings.app}-streams"
        self._admin = AdminClient({"bootstrap.servers": settings.bootstrap})

    def is_(self, state: ConsumerGroupState, members: int) -> bool:
        group = self._admin.describe_consumer_groups([self._name])[self._name].result(10)
        return group.state == state and len(group.members) == members


def test_partitions_move_while_sends_are_in_flight(fresh_kafka: Broker) -> None:
    settings = Settings(bootstrap=fresh_kafka.bootstrap, app="moves")
    topics.create(settings)
    group = Group(settings)
    fail(settings, 4000)
    with workers() as started:
        # In the middle of a batch, with a burst handed over of which no report has come: longer than the second
        # worker needs to join.
        started.append(Worker(settings, "streams.sent=pause:20@5"))
        until(lambda: started[0].said(STALLED), "the first worker sent nothing")
        started.append(Worker(settings, "streams.sent=pause:1@20"))
        until(lambda: group.is_(ConsumerGroupState.PREPARING_REBALANCING, 2), "no rebalance while sends were in flight")
        until(lambda: group.is_(ConsumerGroupState.STABLE, 2), "the partitions did not move")

        # The second one becomes a zombie with sends in flight; the first takes over and answers the same failures.
        until(lambda: started[1].said(STALLED), "the second worker sent nothing")
        started[1].process.send_signal(signal.SIGSTOP)
        until(lambda: group.is_(ConsumerGroupState.STABLE, 1), "the zombie was not missed")
        until(lambda: committed_all(settings, FAILURES.name), "the first worker did not take over")
        started[1].process.send_signal(signal.SIGCONT)
        until(lambda: group.is_(ConsumerGroupState.STABLE, 2), "the zombie did not come back")
        fail(settings, 400)
        until(lambda: committed_all(settings, FAILURES.name), "failures left")
        for worker in started:
            assert worker.end(signal.SIGTERM) == 0
    assert checker.unanswered(settings.bootstrap) == set()
    # Else the run proves nothing: the zombie had nothing on its way that its successor could not know of.
    assert max(checker.answers(settings.bootstrap).values()) > 1
