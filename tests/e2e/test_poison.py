"""What nobody should send, on every topic that a worker reads, in the running whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from omium import Agent, Omium

from cli.demo.job import Job, RunFailed
from cli.demo.stack import Stack
from cli.demo.work import WORKS
from schemas.codec import Decoded, decode
from schemas.records import DeadLetter
from schemas.topics import AUDITED, DEAD_LETTERS, RECOVER_INPUTS, SETTLED, Topic

pytestmark = pytest.mark.integration
INPUTS = (*RECOVER_INPUTS, SETTLED)
TELLS_S = 30.0
NONSENSE: dict[str, bytes] = {
    "a stray object": b"{}",
    "no UTF-8": b"\xff\xfe\xfd",
    "brackets": b"[" * 10_000,
    "an unknown schema": b"\xc3\x01" + b"\x00" * 24,
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("poison") / "stack") as running:
        yield running


def produce(stack: Stack, topic: Topic, value: bytes, **config: Any) -> KafkaError | None:
    """The broker's answer, or the client's: None where the record was taken."""
    problems: list[KafkaError | None] = []
    producer = Producer(stack.settings.kafka(**config))
    try:
        producer.produce(topic.name, value, key=b"demo/poisoned", on_delivery=lambda error, _: problems.append(error))
    except KafkaException as error:
        problem: KafkaError = error.args[0]
        return problem
    producer.flush(10)
    return problems[0]


def dead_letters(stack: Stack) -> list[DeadLetter]:
    """All so far."""
    consumer = Consumer(
        stack.settings.kafka(**{"group.id": "poison-test", "enable.auto.commit": False, "enable.partition.eof": True})
    )
    places = [TopicPartition(DEAD_LETTERS.name, p, 0) for p in range(stack.settings.partitions)]
    consumer.assign(places)
    found, ends = [], 0
    try:
        while ends < len(places):
            message = consumer.poll(5)
            assert message is not None
            if message.error() is not None:
                ends += 1
                continue
            letter = decode(DEAD_LETTERS.name, message.value())
            assert isinstance(letter, Decoded)
            assert isinstance(letter.record, DeadLetter)
            found.append(letter.record)
    finally:
        consumer.close()
    return found


def test_nonsense_ends_as_one_dead_letter_each_and_stops_nobody(stack: Stack) -> None:
    for topic in INPUTS:
        for value in NONSENSE.values():
            assert produce(stack, topic, value) is None
    expected = sorted((topic.name, len(value)) for topic in INPUTS for value in NONSENSE.values())
    deadline = time.monotonic() + TELLS_S
    while len(letters := dead_letters(stack)) < len(expected) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert sorted((letter.origin_topic, letter.size_bytes) for letter in letters) == expected
    assert all(letter.reason != "unknown" and letter.error for letter in letters)
    assert {letter.worker.partition("/")[2] or letter.worker for letter in letters} >= {"streams", "recover"}
    assert recovers(stack, "after-nonsense")
    assert stack.restarts == 0


def test_an_oversized_message_is_refused_at_the_producer(stack: Stack) -> None:
    for topic in AUDITED:
        problem = produce(stack, topic, b"x" * (topic.max_batch_bytes + 1), **{"message.max.bytes": 10_000_000})
        assert problem is not None, topic.name
        assert problem.code() == KafkaError.MSG_SIZE_TOO_LARGE, topic.name


def recovers(stack: Stack, execution_id: str) -> bool:
    """Whether an agent that fails now comes back."""
    work = WORKS["loan-age"]
    agent = Agent(id=work.agent, capabilities=work.capabilities)
    with Omium(stack.settings.bootstrap, "demo", agent, wait_s=TELLS_S) as client:
        job = Job(execution_id=execution_id)
        with pytest.raises(RunFailed) as failed:
            work.run(job)
        run = client.run(execution_id)
        run.checkpoint("c-1", job.state)
        failure_id = run.report(failed.value, **failed.value.evidence)
        command = run.wait(failure_id)
        if command is None:
            return False
        job.modifications = command.modifications
        output = work.run(job)
        run.succeeded(command, output)
        return work.right(output)
