"""The local broker: what the tests of guarantees rest on."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from ops.broker import Broker
from ops.runtime import topics
from ops.runtime.settings import Settings
from schemas.topics import FAILURES

Eventually = Callable[[Callable[[], bool]], None]
pytestmark = pytest.mark.integration


def _produce(settings: Settings, value: bytes) -> None:
    errors: list[object] = []
    producer = Producer(settings.producer())
    producer.produce(FAILURES.name, value, partition=0, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(60) == 0
    assert errors == [None]


def _values(settings: Settings, count: int) -> list[bytes | None]:
    consumer = Consumer(settings.kafka(**{"group.id": "t"}))
    consumer.assign([TopicPartition(FAILURES.name, 0, 0)])
    found = consumer.consume(count, timeout=60)
    consumer.close()
    return [message.value() for message in found]


def test_data_and_address_survive_kill_and_stop(tmp_path: Path) -> None:
    """A record acknowledged before SIGKILL is there after it; so it is for the next Broker on the same folder."""
    with Broker(data_dir=tmp_path) as broker:
        settings = Settings(bootstrap=broker.bootstrap)
        topics.create(settings)
        _produce(settings, b"before")
        broker.kill()
        assert broker.pid() is None
        broker.restart()
        _produce(settings, b"after")
        assert _values(settings, 2) == [b"before", b"after"]
    with Broker(data_dir=tmp_path) as broker:
        assert _values(Settings(bootstrap=broker.bootstrap), 2) == [b"before", b"after"]


def test_three_nodes_serve_without_one_and_refuse_without_two() -> None:
    """min.insync.replicas is 2 and true: an acknowledgement means two nodes have it."""
    with Broker(nodes=3) as broker:
        settings = Settings(bootstrap=broker.bootstrap, replication=3)
        topics.create(settings)
        admin = AdminClient(settings.kafka())
        asked = ConfigResource(ResourceType.TOPIC, FAILURES.name)
        actual = admin.describe_configs([asked])[asked].result(30)
        assert actual["min.insync.replicas"].value == "2"
        broker.kill(1)
        _produce(settings, b"by two")
        producer = Producer(settings.producer(**{"transactional.id": "t"}))
        producer.init_transactions(60)
        broker.kill(2)
        producer.begin_transaction()
        producer.produce(FAILURES.name, b"by one", partition=0)
        with pytest.raises(KafkaException):
            producer.commit_transaction(3)
        broker.restart(1)
        assert _values(settings, 1) == [b"by two"]


def test_nodes_die_with_a_killed_parent(eventually: Eventually) -> None:
    """SIGKILL of the process that started it leaves no JVM behind."""
    code = (
        "import time\nfrom ops.broker import Broker\n"
        "b = Broker(); b.start(); print(b.pid(), flush=True); time.sleep(99)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    eventually(lambda: _gone(pid))


def _gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True
