"""Topics and consumer lag on the real broker."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, ResourceType
from prometheus_client import REGISTRY

from ops.broker import Broker
from ops.runtime import topics
from ops.runtime.lag import LagMeter, LagReporter, PartitionLag
from ops.runtime.settings import Settings
from schemas.topics import BY_NAME, COMMANDS, FAILURES, TOPICS

Eventually = Callable[[Callable[[], bool]], None]
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def here(fresh_kafka: Broker) -> Settings:
    return Settings(bootstrap=fresh_kafka.bootstrap)


def test_workers_that_create_at_once_end_with_one_set(here: Settings) -> None:
    """Each worker creates at its start; who is second finds them, and none fails."""
    with ThreadPoolExecutor(4) as pool:
        made = [name for result in pool.map(lambda _: topics.create(here), range(4)) for name in result]
    assert set(made) == {topic.name for topic in TOPICS}
    assert topics.create(here) == ()
    topics.verify(here)


def test_the_broker_has_what_the_contract_says(here: Settings) -> None:
    topics.create(here)
    admin = AdminClient(here.kafka())
    asked = [ConfigResource(ResourceType.TOPIC, name) for name in BY_NAME]
    for resource, answer in admin.describe_configs(asked).items():
        actual = {name: entry.value for name, entry in answer.result(30).items()}
        assert BY_NAME[resource.name].config.items() <= actual.items()


def test_another_number_of_partitions_is_refused_by_name(here: Settings) -> None:
    """One execution would have two writers."""
    topics.create(here)
    with pytest.raises(topics.TopicsError, match=FAILURES.name):
        topics.create(here.model_copy(update={"partitions": 5}))


def _produce(settings: Settings, count: int, *, commit: bool) -> Producer:
    producer = Producer(settings.producer(**{"transactional.id": "lag", "transaction.timeout.ms": 60_000}))
    producer.init_transactions(60)
    producer.begin_transaction()
    for _ in range(count):
        producer.produce(COMMANDS.name, b"x", partition=0)
    producer.flush(60)
    if commit:
        producer.commit_transaction(60)
    return producer


def test_lag_counts_records_that_a_committed_reader_could_read(here: Settings, eventually: Eventually) -> None:
    """Neither the marker after the last record nor an open transaction is a lag that stays for ever."""
    topics.create(here)
    meter = LagMeter(here, "lag", [COMMANDS.name])

    def lag() -> PartitionLag | None:
        try:
            return meter.measure(60)[0]
        except KafkaException:  # the coordinator of a fresh broker moves once
            return None

    eventually(lambda: (found := lag()) is not None and found.records == 0)

    _produce(here, 3, commit=True)
    # The commit is acknowledged before its marker is in the partition.
    eventually(lambda: (found := lag()) is not None and found.records >= 3 and found.seconds > 0)

    reader = Consumer(here.kafka(**{"group.id": "lag"}))
    reader.commit(offsets=[TopicPartition(COMMANDS.name, 0, 3)], asynchronous=False)
    caught_up = PartitionLag(topic=COMMANDS.name, partition=0, records=0, seconds=0.0)
    assert lag() == caught_up

    open_one = _produce(here, 2, commit=False)
    assert lag() == caught_up
    open_one.commit_transaction(60)
    eventually(lambda: (found := lag()) is not None and found.records >= 2)
    reader.close()
    meter.close()


def _gauge(settings: Settings) -> float | None:
    labels = {"group": "gauge", "topic": FAILURES.name, "partition": "0"}
    return REGISTRY.get_sample_value("omium_consumer_lag_seconds", labels)


def test_gauges_are_absent_while_the_broker_is_gone(
    fresh_kafka: Broker, here: Settings, eventually: Eventually
) -> None:
    """An old number would look like a healthy one."""
    topics.create(here)
    reporter = LagReporter(here, "gauge", [FAILURES.name], interval_s=0.1, timeout_s=2.0)
    try:
        eventually(lambda: _gauge(here) is not None)
        fresh_kafka.kill()
        eventually(lambda: _gauge(here) is None)
        fresh_kafka.restart()
        eventually(lambda: _gauge(here) is not None)
    finally:
        reporter.close()


def test_partitions_added_by_hand_are_seen(here: Settings, eventually: Eventually) -> None:
    topics.create(here)
    admin = AdminClient(here.kafka())
    admin.create_partitions([NewPartitions(FAILURES.name, 6)])[FAILURES.name].result(30)

    def refused() -> bool:
        try:
            topics.verify(here)
        except topics.TopicsError as error:
            return f"{FAILURES.name} has 6" in str(error)
        return False

    eventually(refused)
