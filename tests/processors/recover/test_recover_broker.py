"""recover on a real broker, under kill -9, zombies, rebalances, replays and refusals."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest
from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from recover_broker import Load, Reader, eventually, finish

from ops.broker import Broker
from ops.runtime.settings import Settings
from processors.recover.changelog import ends
from processors.recover.partitioner import partition_of
from schemas.records import DispositionKind
from schemas.topics import COMMANDS, DEAD_LETTERS, DISPOSITIONS, FAILURES, OPTION_TOPICS, RECOVER_INPUTS, RESULTS

pytestmark = pytest.mark.integration

RUNS = 60
FAILPOINTS = (
    "recover.fenced",
    "recover.restored",
    "recover.polled",
    "recover.staged",
    "recover.produced",
    "recover.offsets_sent",
    "recover.committed",
)


def test_kill_9_at_every_boundary_leaves_exactly_one_command_per_attempt(start, load: Load, reader: Reader) -> None:  # type: ignore[no-untyped-def]
    for n, name in enumerate(FAILPOINTS):
        # The third hit: while records are being handled, in one partition or another.
        at = 1 if name in ("recover.fenced", "recover.restored") else 3
        child = start(failpoints=f"{name}=exit@{at}")
        load.fail(range(n * RUNS, (n + 1) * RUNS))
        eventually(lambda child=child: child.exit_code is not None)  # type: ignore[misc]
        assert child.exit_code == 137
        reader.poll()
        load.answer(reader.commands, times=2)
    start()
    finish(load, reader, RUNS * len(FAILPOINTS))
    reader.check_once(RUNS * len(FAILPOINTS))


def test_a_rolling_restart_of_two_workers_loses_and_doubles_nothing(start, load: Load, reader: Reader) -> None:  # type: ignore[no-untyped-def]
    one = start()
    load.fail(range(RUNS))
    eventually(reader.has(COMMANDS.name, 1))
    two = start()
    load.fail(range(RUNS, 2 * RUNS))
    eventually(reader.has(COMMANDS.name, RUNS + RUNS // 2))
    assert one.stop(30) == 0
    load.fail(range(2 * RUNS, 3 * RUNS))
    three = start()
    finish(load, reader, 3 * RUNS)
    assert two.stop(30) == 0
    load.fail(range(3 * RUNS, 4 * RUNS))
    finish(load, reader, 4 * RUNS)
    assert three.stop(30) == 0
    reader.check_once(4 * RUNS)


def test_a_zombie_that_wakes_up_is_fenced(start, load: Load, reader: Reader) -> None:  # type: ignore[no-untyped-def]
    zombie = start()
    load.fail(range(RUNS))
    eventually(reader.has(COMMANDS.name, RUNS))
    zombie.signal(signal.SIGSTOP)
    load.fail(range(RUNS, 2 * RUNS))
    start()
    eventually(reader.has(COMMANDS.name, 2 * RUNS))
    zombie.signal(signal.SIGCONT)
    load.fail(range(2 * RUNS, 3 * RUNS))
    finish(load, reader, 3 * RUNS)
    reader.check_once(3 * RUNS)
    assert zombie.exit_code is None, "it goes on as a member"


def test_replayed_from_offset_zero_no_new_command_appears(start, ours: Settings, load: Load, reader: Reader) -> None:  # type: ignore[no-untyped-def]
    first = start()
    load.fail(range(RUNS))
    finish(load, reader, RUNS)
    assert first.stop(30) == 0
    said = len([d for d in reader.records[DISPOSITIONS.name] if d.kind != DispositionKind.OPENED])
    zero = [TopicPartition(t.name, p, 0) for t in RECOVER_INPUTS for p in range(ours.partitions)]
    request = [ConsumerGroupTopicPartitions(f"{ours.app}-recover", zero)]
    admin = AdminClient(ours.kafka())
    for future in admin.alter_consumer_group_offsets(request).values():
        future.result(10)
    start()
    load.fail(range(RUNS, RUNS + 1))
    finish(load, reader, RUNS + 1)
    reader.check_once(RUNS + 1)
    after = [d for d in reader.records[DISPOSITIONS.name] if d.kind != DispositionKind.OPENED]
    assert len(after) == said + 3


def test_successes_that_waited_during_an_outage_are_seen_before_the_next_rung(  # type: ignore[no-untyped-def]
    start, tmp_path: Path, load: Load, reader: Reader
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[default]\nstart_within_s = 0.5\nattempt_s = 0.5\ncall_s = 0.1\n")
    first = start(policy=policy)
    load.fail(range(RUNS))
    eventually(reader.has(COMMANDS.name, RUNS))
    assert first.stop(30) == 0
    load.answer([c for c in reader.commands if c.attempt == 1])
    deadline = max(c.outcome_deadline for c in reader.commands)
    # The broker's clock has to pass the deadlines: its own append times say when.
    eventually(lambda: broker_time(load) > deadline.timestamp() * 1000)
    expected = len(reader.commands)
    start(policy=policy)
    eventually(reader.has(RESULTS.name, RUNS))
    assert len(reader.of(COMMANDS.name)) == expected


def test_a_writer_that_was_fenced_takes_over_anew_and_its_deadlines_still_fire(  # type: ignore[no-untyped-def]
    start, ours: Settings, tmp_path: Path, load: Load, reader: Reader
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[default]\nstart_within_s = 2\nattempt_s = 2\ncall_s = 0.1\nmax_attempts = 2\n")
    child = start(policy=policy)
    load.fail(range(20))
    eventually(reader.has(COMMANDS.name, 20))
    for partition in range(ours.partitions):
        rival = Producer(ours.producer(**{"transactional.id": f"{ours.app}-recover-{partition}"}))
        rival.init_transactions(10)
    eventually(reader.has(COMMANDS.name, 40))
    load.answer([c for c in reader.commands if c.attempt == 2])
    eventually(reader.has(RESULTS.name, 20))
    reader.check_once(20, attempts=2)
    assert child.exit_code is None


def broker_time(load: Load) -> int:
    said: list[int] = []
    load.producer.produce("recovery.ticks.v1", b"", on_delivery=lambda _, message: said.append(message.timestamp()[1]))
    load.producer.flush(10)
    return said[0]


def test_an_output_that_the_broker_refuses_costs_one_dead_letter(
    start, ours: Settings, load: Load, reader: Reader
) -> None:  # type: ignore[no-untyped-def]
    admin = AdminClient(ours.kafka())
    # Above any batch of the worker's, below this one command.
    set_limit(admin, COMMANDS.name, 52_000)
    try:
        start()
        load.text = {RUNS // 2: os.urandom(28_000).hex()}
        load.fail(range(RUNS))
        eventually(reader.has(DEAD_LETTERS.name, 1))
        finish(load, reader, RUNS - 1)
    finally:
        set_limit(admin, COMMANDS.name, COMMANDS.max_message_bytes)
    letters = [r for r in reader.of(DEAD_LETTERS.name) if r.origin_key.decode().startswith(load.tenant)]
    # Of the failure and its options the later one causes the command: whichever was read last.
    assert [letter.reason for letter in letters] == ["handler_error"]
    assert letters[0].origin_topic in (FAILURES.name, OPTION_TOPICS[1].name)
    reader.check_once(RUNS - 1)


def set_limit(admin: AdminClient, topic: str, limit: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(limit), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)


def test_failures_in_the_wrong_partition_are_passed_on_and_served(
    start, ours: Settings, load: Load, reader: Reader
) -> None:  # type: ignore[no-untyped-def]
    start()
    load.fail(range(20), partition=0, offer=False)
    wrong = [n for n in range(20) if partition_of(f"{load.tenant}/{load.run(n)}".encode(), ours.partitions)]
    forwarded = (DispositionKind.FORWARDED, DispositionKind.OPENED)
    eventually(lambda: len([d for d in reader.of(DISPOSITIONS.name) if d.kind in forwarded]) >= 20 + len(wrong))
    for disposition in reader.records[DISPOSITIONS.name]:
        if disposition.kind == DispositionKind.OPENED:
            place = disposition.origin_partition, disposition.origin_offset
            load.offer(int(disposition.execution_id.removeprefix("run-")), place)
    finish(load, reader, 20)
    reader.check_once(20)
    assert len([d for d in reader.records[DISPOSITIONS.name] if d.kind == "forwarded"]) == len(wrong) > 0


def test_records_that_are_passed_on_are_sent_in_batches_that_their_topic_takes(
    start, load: Load, reader: Reader, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    load.fail(range(80), partition=0, offer=False, text="x" * (FAILURES.max_message_bytes // 10))
    start()
    eventually(lambda: len([d for d in reader.of(DISPOSITIONS.name) if d.kind == DispositionKind.OPENED]) >= 80)
    assert {d.kind for d in reader.records[DISPOSITIONS.name]} == {DispositionKind.OPENED, DispositionKind.FORWARDED}
    assert "too large" not in (tmp_path / "worker-0.log").read_text()


def test_ends_are_known_after_the_broker_came_back(ours: Settings, fresh_kafka: Broker) -> None:
    admin = AdminClient(ours.kafka())
    asked = [TopicPartition(FAILURES.name, partition) for partition in range(ours.partitions)]

    def known() -> bool:
        with contextlib.suppress(KafkaException, TimeoutError):
            return len(ends(admin, asked, IsolationLevel.READ_UNCOMMITTED)) == ours.partitions
        return False

    eventually(known)
    fresh_kafka.kill()
    fresh_kafka.restart()
    eventually(known, 30)


def test_unequal_partition_counts_are_refused_at_start(ours: Settings, start) -> None:  # type: ignore[no-untyped-def]
    from confluent_kafka.admin import NewPartitions

    admin = AdminClient(ours.kafka())
    for future in admin.create_partitions([NewPartitions(RECOVER_INPUTS[1].name, ours.partitions + 1)]).values():
        future.result(10)
    child = start()
    eventually(lambda: child.exit_code is not None)
    assert child.exit_code == 2
