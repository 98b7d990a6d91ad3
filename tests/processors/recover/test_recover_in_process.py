"""recover on librdkafka's in-process broker, which knows no transactions: for the demo without Java."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from recover_broker import Load, Reader, eventually

from ops.runtime.settings import Settings
from processors.recover.main import run
from schemas.topics import COMMANDS, RESULTS, TOPICS


@pytest.fixture
def in_process() -> Iterator[Settings]:
    mock = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "in.process", "log_level": 0})
    brokers = mock.list_topics(timeout=10).brokers.values()
    settings = Settings(bootstrap=",".join(f"{b.host}:{b.port}" for b in brokers), app="mock")
    producer = Producer(settings.producer())
    for topic in TOPICS:
        producer.list_topics(topic.name, timeout=10)
    yield settings
    mock.flush(1)


@pytest.mark.integration
def test_without_transactions_a_failure_becomes_a_command_and_a_result(in_process: Settings) -> None:
    stop = threading.Event()
    worker = threading.Thread(target=run, args=(in_process,), kwargs={"transactional": False, "stop": stop})
    worker.start()
    reader, load = Reader(in_process, "acme"), Load(in_process, "acme")
    try:
        load.fail(range(20))
        eventually(reader.has(COMMANDS.name, 20))
        load.answer(reader.commands)
        eventually(reader.has(RESULTS.name, 20))
    finally:
        stop.set()
        worker.join()
        reader.close()
    assert len(reader.commands) == 20
