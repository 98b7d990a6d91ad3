"""Every committed record is in ClickHouse, and in its views once, whatever dies when."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from ops.broker import Broker
from ops.runtime import topics
from ops.runtime.metrics import AUDIT_GAPS
from ops.runtime.settings import Settings
from processors.audit.embedded import owner_url
from processors.audit.main import Worker
from processors.audit.store import Store, connect
from schemas.topics import AUDITED, CHECKPOINTS, COMMANDS, DEAD_LETTERS, FAILURES, OUTCOMES
from tests.processors.audit.clickhouse_http import ClickHouse
from tests.processors.audit.scene import Scene

pytestmark = pytest.mark.integration
_DEADLINE_S = 90.0
_POISON = (b"", b"{", b"\xff\xfe", b"[" * 50_000, b"\xc3\x01", b"\xc3\x01" + b"\x00" * 40, b"NaN", b"null", b"\x00")

Place = tuple[str, int, int, str]


@pytest.fixture
def settings(fresh_kafka: Broker) -> Settings:
    settings = Settings(
        bootstrap=fresh_kafka.bootstrap, app=f"audit-{uuid.uuid4().hex[:8]}", audit_batch_rows=200, audit_batch_s=0.2
    )
    topics.create(settings)
    return settings


def failure(tenant: str, number: int) -> bytes:
    return orjson.dumps(
        {"tenant_id": tenant, "execution_id": f"e{number % 7}", "failure_id": f"f{number}", "error": {"message": "no"}}
    )


def produce(settings: Settings, tenant: str, count: int) -> None:
    """Good records, poison, and transactions of which half are aborted: their offsets stay empty."""
    producer = Producer(settings.producer(**{"linger.ms": 5}))
    for number in range(count):
        producer.produce(FAILURES.name, key=f"{tenant}/e{number % 7}", value=failure(tenant, number))
    for topic in (FAILURES, CHECKPOINTS, OUTCOMES, COMMANDS, DEAD_LETTERS):
        for number, value in enumerate(_POISON):
            producer.produce(topic.name, key=f"{tenant}/poison", value=value, partition=number % settings.partitions)
    assert producer.flush(20) == 0
    sender = Producer(settings.producer(**{"transactional.id": uuid.uuid4().hex}))
    sender.init_transactions(20)
    for round_ in range(6):
        sender.begin_transaction()
        scene = Scene(tenant, f"tx-{round_}").recovered()
        for source in scene.sources:
            sender.produce(source.topic, key=source.key, value=source.value)
        if round_ % 2:
            sender.flush(20)
            sender.abort_transaction(20)
        else:
            sender.commit_transaction(20)


def on_the_broker(settings: Settings) -> set[Place]:
    """Place and digest of every committed record, as an independent consumer reads them."""
    consumer = Consumer(
        settings.kafka(
            **{"group.id": uuid.uuid4().hex, "isolation.level": "read_committed", "enable.partition.eof": True}
        )
    )
    everywhere = [TopicPartition(t.name, p, 0) for t in AUDITED for p in range(settings.partitions)]
    consumer.assign(everywhere)
    found: set[Place] = set()
    ended: set[tuple[str | None, int | None]] = set()
    while len(ended) < len(everywhere):
        for message in consumer.consume(1000, 1.0):
            error = message.error()
            if error is None:
                digest = hashlib.sha256(message.value() or b"").hexdigest()
                found.add((message.topic() or "", message.partition() or 0, message.offset() or 0, digest))
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add((message.topic(), message.partition()))
    consumer.close()
    return found


_PLACES = "SELECT topic, partition, offset, sha256 FROM v_events"


def eventually(look: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + _DEADLINE_S
    while not wanted(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.1)
    return seen


# --- a killed process, on the embedded engine


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    """No worker outlives its test."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for child in started:
        child.kill()
        child.wait()


def start(settings: Settings, url: str, failpoints: str = "", **environment: str) -> subprocess.Popen[bytes]:
    code = "import sys; from processors.audit.main import run; from ops.runtime.settings import Settings; "
    return subprocess.Popen(
        [sys.executable, "-c", code + "sys.exit(run(Settings()))"],
        env={
            **os.environ,
            "OMIUM_BOOTSTRAP": settings.bootstrap,
            "OMIUM_APP": settings.app,
            "OMIUM_CLICKHOUSE": url,
            "OMIUM_AUDIT_BATCH_ROWS": str(settings.audit_batch_rows),
            "OMIUM_AUDIT_BATCH_S": str(settings.audit_batch_s),
            "OMIUM_FAILPOINTS": failpoints,
            "OMIUM_LOG_LEVEL": "WARNING",
            **environment,
        },
    )


def ask_owner(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Through the owner's HTTP interface, as any other process would; nothing while there is none."""
    if (address := owner_url(url)) is None:
        return []
    try:
        client = connect(address)
        return [tuple(row) for row in client.query(sql).result_rows]
    except Exception:
        return []


def test_every_record_is_in_the_views_once_whatever_dies_when(
    settings: Settings, tmp_path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    produce(settings, "acme", 1500)
    url = f"chdb://{tmp_path / 'data'}"
    for place in ("audit.before-insert=exit@2", "audit.inserted=exit@2"):
        children.append(start(settings, url, place))
        assert children[-1].wait(_DEADLINE_S) == 137
    children.append(start(settings, url))
    eventually(lambda: owner_url(url), bool)
    children[-1].kill()
    produce(settings, "late", 100)
    wanted = on_the_broker(settings)
    children.append(start(settings, url))
    seen = eventually(lambda: ask_owner(url, _PLACES), lambda rows: len(set(rows)) >= len(wanted))
    assert (set(seen), len(seen)) == (wanted, len(wanted))
    ((repeats, conflicts),) = ask_owner(url, "SELECT sum(repeats), sum(conflicts) FROM v_coverage")
    assert repeats > 0, "no record was inserted twice: the kills hit nothing"
    assert conflicts == 0
    ((malformed,),) = ask_owner(url, "SELECT count() FROM v_events WHERE kind = 'malformed'")
    poison = {hashlib.sha256(value).hexdigest() for value in _POISON}
    # Counted on the broker: it may call a new producer's first batch a duplicate, and drop it.
    assert malformed == sum(place[3] in poison for place in wanted) > 5 * len(_POISON)
    children[-1].send_signal(signal.SIGTERM)
    assert children[-1].wait(_DEADLINE_S) == 0
    assert owner_url(url) is None


# --- a server that goes and comes, and the worker in a thread


@pytest.fixture
def server(store: Store) -> Iterator[ClickHouse]:
    server = ClickHouse(store.client, f"db_{uuid.uuid4().hex[:8]}")
    server.start()
    yield server
    server.stop()


@contextmanager
def working(settings: Settings, server: ClickHouse) -> Iterator[Worker]:
    stop = threading.Event()
    failures: list[BaseException] = []
    with Store(server.url) as store:
        worker = Worker(settings, store, stop)

        def run() -> None:
            try:
                worker.run()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield worker
        finally:
            stop.set()
            thread.join(_DEADLINE_S)
    assert not thread.is_alive()
    assert not failures


def places(server: ClickHouse) -> list[Place]:
    return [(r["topic"], r["partition"], r["offset"], r["sha256"]) for r in server.query(_PLACES)]


def test_nothing_is_lost_while_clickhouse_is_gone(settings: Settings, server: ClickHouse) -> None:
    server.stop()
    produce(settings, "early", 100)
    with working(settings, server) as worker:
        eventually(worker.why_not_ready, lambda why: "ClickHouse takes no rows" in (why or ""))
        server.start()
        eventually(worker.why_not_ready, lambda why: why is None)
        server.stop()
        # More than a batch: the rest stays on the broker.
        produce(settings, "during", 700)
        eventually(worker.why_not_ready, lambda why: "ClickHouse takes no rows" in (why or ""))
        eventually(lambda: worker._batch.room, lambda room: room == 0)
        assert len(worker._batch.rows) <= settings.audit_batch_rows + 1
        server.start()
        wanted = on_the_broker(settings)
        seen = eventually(lambda: places(server), lambda rows: len(set(rows)) >= len(wanted))
        assert (set(seen), len(seen)) == (wanted, len(wanted))
        assert worker.why_not_ready() is None


def test_an_insert_without_an_answer_is_repeated_and_shown_once(settings: Settings, server: ClickHouse) -> None:
    server.drop_answers = 2
    produce(settings, "acme", 50)
    with working(settings, server):
        wanted = on_the_broker(settings)
        eventually(lambda: server.inserts, lambda n: n >= 3)
        seen = eventually(lambda: places(server), lambda rows: len(set(rows)) >= len(wanted))
    assert (set(seen), len(seen)) == (wanted, len(wanted))
    assert server.query("SELECT sum(repeats) AS n FROM v_coverage")[0]["n"] > 0


def test_a_stop_does_not_wait_for_a_server_that_hangs(
    settings: Settings, server: ClickHouse, children: list[subprocess.Popen[bytes]]
) -> None:
    """It ends before it would be killed. What it held is read again, and what hung is shown once when it is done."""
    produce(settings, "acme", 300)
    server.may_insert.clear()
    children.append(start(settings, server.url, OMIUM_AUDIT_STOP_S="0.5"))
    assert server.hanging.wait(_DEADLINE_S)
    children[-1].send_signal(signal.SIGTERM)
    assert children[-1].wait(_DEADLINE_S) == 1
    server.may_insert.set()
    with working(settings, server):
        wanted = on_the_broker(settings)
        seen = eventually(lambda: places(server), lambda rows: len(set(rows)) >= len(wanted))
    assert (set(seen), len(seen)) == (wanted, len(wanted))


def test_a_database_of_another_release_ends_the_worker(
    settings: Settings, server: ClickHouse, children: list[subprocess.Popen[bytes]]
) -> None:
    server.execute("ALTER TABLE schema_migrations UPDATE sha256 = 'x' WHERE version = 1 SETTINGS mutations_sync = 1")
    children.append(start(settings, server.url))
    assert children[-1].wait(_DEADLINE_S) == 2


def test_a_slow_server_slows_only_the_audit(settings: Settings, server: ClickHouse) -> None:
    """While an insert takes its time, the worker keeps its partitions, its memory, and what was produced since."""
    produce(settings, "before", 50)
    server.may_insert.clear()
    with working(settings, server) as worker:
        assert server.hanging.wait(_DEADLINE_S)
        produce(settings, "during", 700)
        assert len(worker._batch.rows) <= settings.audit_batch_rows
        server.may_insert.set()
        wanted = on_the_broker(settings)
        seen = eventually(lambda: places(server), lambda rows: len(set(rows)) >= len(wanted))
    assert (set(seen), len(seen)) == (wanted, len(wanted))
    assert server.query("SELECT sum(repeats) AS n FROM v_coverage")[0]["n"] == 0, "slow is no reason to insert twice"


def test_two_workers_share_the_topics_and_one_may_leave(settings: Settings, server: ClickHouse) -> None:
    produce(settings, "one", 300)
    with working(settings, server) as first:
        eventually(first.why_not_ready, lambda why: why is None)
        with working(settings, server):
            produce(settings, "two", 300)
            eventually(lambda: server.query("SELECT uniq(tenant_id) AS n FROM v_events")[0]["n"], lambda n: n >= 2)
        produce(settings, "three", 50)
        wanted = on_the_broker(settings)
        seen = eventually(lambda: places(server), lambda rows: len(set(rows)) >= len(wanted))
    assert (set(seen), len(seen)) == (wanted, len(wanted))


def test_a_topic_that_was_made_anew_is_read_from_its_start(settings: Settings, server: ClickHouse) -> None:
    produce(settings, "old", 10)
    with working(settings, server):
        eventually(lambda: places(server), lambda rows: len(rows) >= len(on_the_broker(settings)))
    admin = AdminClient(settings.kafka())
    admin.delete_topics([FAILURES.name])[FAILURES.name].result(10)
    eventually(lambda: FAILURES.name in admin.list_topics(timeout=10).topics, lambda there: not there)
    new = NewTopic(FAILURES.name, settings.partitions, 1, config=FAILURES.config)
    admin.create_topics([new])[FAILURES.name].result(10)
    topics.create(settings)
    produce(settings, "new", 40)
    # The broker forgets the old topic's positions; a worker that was slow commits one more.
    late = Consumer(settings.kafka(**{"group.id": f"{settings.app}-audit"}))
    stale = [TopicPartition(FAILURES.name, p, 3, str(uuid.uuid4())) for p in range(settings.partitions)]
    late.commit(offsets=stale, asynchronous=False)
    late.close()
    wanted = {place for place in on_the_broker(settings) if place[0] == FAILURES.name}
    with working(settings, server):
        by_id = f"SELECT topic_id, count() AS n FROM v_events WHERE topic = '{FAILURES.name}' GROUP BY topic_id"
        counts = eventually(lambda: [r["n"] for r in server.query(by_id)], lambda n: len(n) == 2 and len(wanted) in n)
    assert len(wanted) > 10, counts


def test_records_that_retention_took_are_told(settings: Settings, server: ClickHouse) -> None:
    produce(settings, "one", 5)
    with working(settings, server):
        eventually(lambda: places(server), lambda rows: len(set(rows)) >= len(on_the_broker(settings)))
    produce(settings, "gone", 40)
    admin = AdminClient(settings.kafka())
    ends = Consumer(settings.kafka(**{"group.id": "ends"}))
    cut = TopicPartition(FAILURES.name, 0, ends.get_watermark_offsets(TopicPartition(FAILURES.name, 0))[1])
    ends.close()
    admin.delete_records([cut])[cut].result(10)
    produce(settings, "after", 40)
    before = AUDIT_GAPS.labels(FAILURES.name)._value.get()
    with working(settings, server):
        wanted = on_the_broker(settings)
        eventually(lambda: set(places(server)) >= wanted, bool)
    assert AUDIT_GAPS.labels(FAILURES.name)._value.get() == before + 1
