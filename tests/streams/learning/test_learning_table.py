"""The windowed table on a real broker: restored whole, expired after a restore too, and no larger than its rows."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from ops.broker import Broker
from ops.runtime import topics
from ops.runtime.settings import Settings
from schemas.codec import Encoded, decode, encode
from schemas.records import Category, ConfidenceRow, SettledAttempt, SettledStatus, Severity, Strategy, from_epoch_ms
from schemas.topics import CONFIDENCE, SETTLED
from streams.decide.catalogue import Learning, shipped
from streams.decide.rates import Rates
from streams.edge import outputs
from streams.edge.app import App, new_app
from streams.edge.outputs import Outputs
from streams.edge.table import WindowedTable, changelog_name, create_changelog
from streams.learning import learner as learner_module
from streams.learning.counts import HOUR_S, KEPT_S, hour_of
from streams.learning.learner import Learner

pytestmark = pytest.mark.integration

NAME = "rows"
SUBTYPES = [f"s{i}" for i in range(5)]


async def until(what: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, why
        await asyncio.sleep(0.05)


async def worker(
    settings: Settings,
    use: Callable[[App, WindowedTable, Learner], Awaitable[None]],
    learning: Learning | None = None,
) -> None:
    """A worker that only learns, until `use` returns."""
    app = new_app(settings, "learn")
    app.outputs = Outputs(settings, lambda error: pytest.fail(str(error)))
    table = WindowedTable.add(app, NAME, size_s=HOUR_S, partitions=settings.partitions)
    learner = Learner(app, table, Rates, learning or shipped().learning, worker="learn")
    app.batches(SETTLED.name, learner.run)
    await app.start()
    try:
        await until(lambda: SETTLED.name in app.assigned_topics(), "no partition")
        await use(app, table, learner)
    finally:
        await app.stop()
        app.outputs.close()


def settle(settings: Settings, subtypes: list[str], attempts: int, tenant: str = "t") -> None:
    producer = Producer(settings.producer(**{"linger.ms": 5}))
    for number in range(attempts):
        record = SettledAttempt(
            recovery_id="r",
            command_id=f"c{number}",
            attempt=1,
            tenant_id=tenant,
            execution_id="e",
            category=Category.TOOL_FAILURE,
            subtype=subtypes[number % len(subtypes)],
            severity=Severity.HIGH,
            strategy=Strategy.INCREASE_TIMEOUT,
            status=SettledStatus.SUCCEEDED,
            settled_at=from_epoch_ms(0),
        )
        message = encode(SETTLED, record, source="test")
        producer.produce(message.topic, message.value, message.key, headers=message.headers)
        producer.poll(0)
    assert producer.flush(30) == 0


def read(settings: Settings, topic: str) -> list[Any]:
    consumer = Consumer(settings.kafka(**{"group.id": "check", "enable.partition.eof": True}))
    consumer.assign([TopicPartition(topic, p, 0) for p in range(settings.partitions)])
    found, ended = [], 0
    while ended < settings.partitions:
        if (message := consumer.poll(5)) is None:
            continue
        if message.error() is None:
            found.append(message)
        else:
            ended += 1
    consumer.close()
    return found


def test_counts_survive_a_restart_and_expire_after_it(settings: Settings) -> None:
    prepare(settings)
    subtypes = [f"{settings.app}-{subtype}" for subtype in SUBTYPES]
    changelog = changelog_name(settings, "learn", NAME)
    settle(settings, subtypes, 2000)
    held: dict[str, int] = {}

    async def count(app: App, table: WindowedTable, learner: Learner) -> None:
        await until(lambda: _counts(table, settings.app) == dict.fromkeys(subtypes, 400), "not counted")
        held.update(_counts(table, settings.app))
        # However often a row of a live window was written, the index holds it once, as the table does.
        assert len(table) == len(table.data) < 2000

    async def expire(app: App, table: WindowedTable, learner: Learner) -> None:
        await until(lambda: _counts(table, settings.app) == held, "not restored")
        now_s = time.time()
        await learner.publish(now_s)
        await learner.publish(now_s + KEPT_S + 2 * HOUR_S)
        assert _counts(table, settings.app) == {}
        assert len(table) == len(table.data) == 0

    asyncio.run(worker(settings, count))
    # Coalesced: far fewer changelog records than attempts.
    assert len(read(settings, changelog)) < 1000
    asyncio.run(worker(settings, expire))
    newest = {message.key(): message.value() for message in read(settings, changelog)}
    assert set(newest.values()) == {None}
    published = [(row.samples, row.successes) for row in confidence(settings, subtypes[0])]
    assert published == [(400, 400), (0, 0)]


def test_what_is_counted_while_a_row_is_published_is_published_too(settings: Settings) -> None:
    prepare(settings)
    stratum = f"{settings.app}-x"

    async def use(app: App, table: WindowedTable, learner: Learner) -> None:
        await until(lambda: _counts(table, settings.app) == {stratum: 1}, "not counted")
        deliver, slow = app.outputs.deliver, True

        async def slowly(record: Encoded, **options: Any) -> None:
            nonlocal slow
            if slow and record.topic == CONFIDENCE.name and record.key.startswith(stratum.encode()):
                slow = False
                await asyncio.to_thread(settle, settings, [stratum], 1)
                await until(lambda: _counts(table, settings.app) == {stratum: 2}, "not counted meanwhile")
            await deliver(record, **options)

        app.outputs.deliver = slowly  # type: ignore[method-assign]
        await learner.publish(time.time())
        await learner.publish(time.time())
        assert confidence(settings, stratum)[-1].samples == 2

    settle(settings, [stratum], 1)
    asyncio.run(worker(settings, use))


def test_what_came_with_a_partition_is_published_though_the_rebalance_had_not_ended(settings: Settings) -> None:
    """The last owner may have ended between counting and publishing, and its strata may never change again."""
    prepare(settings)
    stratum = f"{settings.app}-x"

    async def use(app: App, table: WindowedTable, learner: Learner) -> None:
        await until(lambda: _counts(table, settings.app) == {stratum: 1}, "not counted")
        assert table.restored.is_set()
        app.rebalancing = True
        await learner.publish(time.time())
        assert confidence(settings, stratum) == []
        app.rebalancing = False
        await learner.publish(time.time())
        assert [row.samples for row in confidence(settings, stratum)] == [1]

    settle(settings, [stratum], 1)
    asyncio.run(worker(settings, use))


def test_a_tenant_counts_with_its_part_and_not_at_all_where_it_opted_out(settings: Settings) -> None:
    prepare(settings)
    stratum = f"{settings.app}-x"

    async def published(app: App, table: WindowedTable, learner: Learner) -> None:
        await until(lambda: _counts(table, settings.app) == {stratum: 1010}, "not counted")
        await learner.publish(time.time())

    async def opted_out(app: App, table: WindowedTable, learner: Learner) -> None:
        await published(app, table, learner)
        await asyncio.to_thread(settle, settings, [stratum], 5, "loud-one")
        await asyncio.to_thread(settle, settings, [stratum], 1, "small-one")
        await until(lambda: _counts(table, settings.app) == {stratum: 1011}, "not counted")
        await learner.publish(time.time())

    settle(settings, [stratum], 1000, "loud-one")
    settle(settings, [stratum], 10, "small-one")
    asyncio.run(worker(settings, published))
    asyncio.run(worker(settings, published, Learning(tenant_share=1, opt_out=frozenset())))
    asyncio.run(worker(settings, opted_out, Learning(tenant_share=1, opt_out=frozenset({"loud-one"}))))
    assert [row.samples for row in confidence(settings, stratum)] == [40, 1010, 10, 11]
    for topic in (CONFIDENCE.name, changelog_name(settings, "learn", NAME)):
        assert not any(b"-one" in part for m in read(settings, topic) for part in (m.key(), m.value() or b""))


def test_a_week_of_rows_is_published_whole_also_those_of_the_release_before(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(settings)
    stratum = f"{settings.app}-x"

    async def use(app: App, table: WindowedTable, learner: Learner) -> None:
        await until(lambda: _counts(table, settings.app) == {stratum: 1}, "not counted")
        ((partition, key),) = ((p, k) for p, keys in table.keys_by_partition() for k in keys if k.startswith(stratum))
        now_s = time.time()
        hour = hour_of(int(now_s * 1000))
        rows = {(key, hour - h * HOUR_S): (-1, 2, 1) for h in range(1, 200)}
        await table.write(partition, rows, wanted=lambda: True)
        await learner.publish(now_s)
        # A worker that was behind counts in an hour that was summed up already.
        monkeypatch.setattr(learner_module, "hour_of", lambda timestamp_ms: hour_of(timestamp_ms) - 2 * HOUR_S)
        settle(settings, [stratum], 3)
        await until(lambda: _counts(table, settings.app) == {stratum: 1 + 168 * 2 + 3}, "not counted")
        monkeypatch.undo()
        await learner.publish(now_s)
        samples = [row.samples for row in confidence(settings, stratum)]
        assert samples == [31, 34]

    settle(settings, [stratum], 1)
    asyncio.run(worker(settings, use))


def test_a_partition_that_moves_while_rows_are_dropped_ends_nothing(
    fresh_kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "DELIVERY_TIMEOUT_MS", 1000)
    settings = Settings(bootstrap=fresh_kafka.bootstrap, app="drop", log_level="WARNING")
    prepare(settings)

    async def use(app: App, table: WindowedTable, learner: Learner) -> None:
        await until(lambda: _counts(table, "drop") == {"drop-x": 1}, "not counted")
        fresh_kafka.pause()
        try:
            publishing = asyncio.create_task(learner.publish(time.time() + KEPT_S + 2 * HOUR_S))
            await until(lambda: app.outputs.in_flight == 1, "no tombstone on its way")
            app.rebalancing = True
            await publishing
            assert _counts(table, "drop") == {"drop-x": 1}
        finally:
            fresh_kafka.resume()
        app.rebalancing = False

    settle(settings, ["drop-x"], 1)
    asyncio.run(worker(settings, use))


def test_a_changelog_of_another_size_is_refused(settings: Settings) -> None:
    """Rows would be looked for in the wrong partition."""
    name = f"size-{uuid.uuid4().hex[:8]}"
    create_changelog(settings, name)
    create_changelog(settings, name)
    other = settings.model_copy(update={"partitions": settings.partitions + 1})
    with pytest.raises(ValueError, match="partitions"):
        create_changelog(other, name)


def test_workers_that_start_at_once_may_all_create_it(settings: Settings) -> None:
    """For a moment the broker knows a new topic without its partitions: that is no other size."""
    for _ in range(5):
        name = f"race-{uuid.uuid4().hex[:8]}"
        with ThreadPoolExecutor(8) as pool:
            for started in [pool.submit(create_changelog, settings, name) for _ in range(8)]:
                started.result()


def prepare(settings: Settings) -> None:
    topics.create(settings)
    create_changelog(settings, changelog_name(settings, "learn", NAME))


def confidence(settings: Settings, subtype: str) -> list[ConfidenceRow]:
    """What was published of a stratum, in order."""
    rows = [decode(CONFIDENCE.name, m.value()).record for m in read(settings, CONFIDENCE.name)]  # type: ignore[union-attr]
    return [row for row in rows if isinstance(row, ConfidenceRow) and row.subtype == subtype]


def _counts(table: WindowedTable, app: str) -> dict[str, int]:
    """Attempts of this test's strata, by subtype."""
    found: dict[str, int] = {}
    for partition, keys in table.keys_by_partition():
        for key in keys:
            if key.startswith(app):
                found[key.split("|")[0]] = sum(row[1] for row in table.rows(key, partition).values())
    return found
