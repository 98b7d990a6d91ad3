"""The topics on the broker: created from the contract, and compared with it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from ops.runtime.settings import Settings
from schemas.topics import TOPICS

_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.05


class TopicsError(Exception):
    """The broker's topics are not what the contract says; the message names each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicState:
    """One topic of the contract as the broker has it."""

    name: str
    partitions: int
    """0: it does not exist."""
    replication: int
    """Replicas of its least replicated partition; 0: it does not exist."""


def create(settings: Settings, timeout_s: float = _TIMEOUT_S) -> tuple[str, ...]:
    """Create the topics that are missing and return their names, once the broker shows all with a leader.

    Safe to call at every start and from several processes at once. Raises `TopicsError` where a topic has another
    number of partitions than the settings: one execution would have two writers. Raises `KafkaException` where the
    broker does not answer or refuses.
    """
    admin = AdminClient(settings.kafka())
    deadline = time.monotonic() + timeout_s
    missing = [state.name for state in list_topics(settings, timeout_s) if not state.partitions]
    new = [
        NewTopic(topic.name, settings.partitions, settings.replication, config=topic.config)
        for topic in TOPICS
        if topic.name in missing
    ]
    for future in admin.create_topics(new, request_timeout=timeout_s).values() if new else ():
        try:
            future.result(timeout_s)
        except KafkaException as error:
            # Another worker was quicker; what it made is compared below.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    while pending := _without_leader(admin, timeout_s):
        if time.monotonic() > deadline:
            raise TopicsError(f"no leader after {timeout_s:g} s: {', '.join(pending)}")
        time.sleep(_POLL_S)
    verify(settings, timeout_s)
    return tuple(missing)


def list_topics(settings: Settings, timeout_s: float = _TIMEOUT_S) -> tuple[TopicState, ...]:
    """Each topic of the contract, in its order, as the broker has it."""
    known = AdminClient(settings.kafka()).list_topics(timeout=timeout_s).topics
    return tuple(
        TopicState(
            name=topic.name,
            partitions=len(partitions := known[topic.name].partitions if topic.name in known else {}),
            replication=min((len(partition.replicas) for partition in partitions.values()), default=0),
        )
        for topic in TOPICS
    )


def verify(settings: Settings, timeout_s: float = _TIMEOUT_S) -> None:
    """Raise `TopicsError` unless every topic exists with `settings.partitions` partitions."""
    wrong = [
        f"{state.name} has {state.partitions}" if state.partitions else f"{state.name} does not exist"
        for state in list_topics(settings, timeout_s)
        if state.partitions != settings.partitions
    ]
    if wrong:
        raise TopicsError(f"every topic needs {settings.partitions} partitions: {'; '.join(wrong)}")


def _without_leader(admin: AdminClient, timeout_s: float) -> list[str]:
    known = admin.list_topics(timeout=timeout_s).topics
    return [
        topic.name
        for topic in TOPICS
        if topic.name not in known
        or not known[topic.name].partitions
        or any(partition.leader < 0 for partition in known[topic.name].partitions.values())
    ]
