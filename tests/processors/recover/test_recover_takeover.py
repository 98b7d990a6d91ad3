"""Becoming a partition's writer, while the worker goes on with the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import pytest
from confluent_kafka import Consumer, IsolationLevel, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from recover_broker import Load, Reader, eventually, finish

from ops.runtime.settings import Settings
from processors.recover import assignment as assignments
from processors.recover import changelog as changelogs
from processors.recover.assignment import Assignment
from processors.recover.changelog import Changelog, DoubtError, ends
from processors.recover.lane import Lane
from processors.recover.ledger import Ledger
from processors.recover.partitioner import partition_of
from processors.recover.policy import Policies
from processors.recover.role import RECOVER
from processors.recover.state import Execution, encode
from processors.recover.writer import Writer
from schemas.topics import COMMANDS, RECOVER_INPUTS, RECOVER_STATE

pytestmark = pytest.mark.integration

RUNS = 40


def all_but_one(ours: Settings, load: Load, reader: Reader, runs: range) -> Callable[[], bool]:
    """Whether the runs of all partitions but one have their commands."""
    of: dict[int, set[str]] = {}
    for n in runs:
        of.setdefault(partition_of(f"{load.tenant}/{load.run(n)}".encode(), ours.partitions), set()).add(load.run(n))

    def commanded() -> bool:
        reader.poll()
        said = {command.execution_id for command in reader.commands}
        return sum(1 for runs in of.values() if runs <= said) >= ours.partitions - 1

    return commanded


@pytest.mark.parametrize("doubted", [False, True], ids=["assigned", "after-a-doubt"])
def test_a_takeover_that_is_stuck_holds_up_no_other_partition(  # type: ignore[no-untyped-def]
    start, ours: Settings, load: Load, reader: Reader, doubted: bool
) -> None:
    child = start(failpoints=f"recover.fenced=pause:300@{1 + ours.partitions * doubted}")
    if doubted:
        load.fail(range(RUNS, 2 * RUNS))
        eventually(reader.has(COMMANDS.name, RUNS))
        for partition in range(ours.partitions):
            rival = Producer(ours.producer(**{"transactional.id": f"{ours.app}-recover-{partition}"}))
            rival.init_transactions(10)
    load.fail(range(RUNS))
    eventually(all_but_one(ours, load, reader, range(RUNS)), 30)
    assert child.exit_code is None
    child.kill()


def test_partitions_that_move_while_they_are_taken_over_lose_and_double_nothing(  # type: ignore[no-untyped-def]
    start, load: Load, reader: Reader
) -> None:
    """The first worker is stuck in all its takeovers while a second joins, takes half of them, and leaves."""
    first = start(failpoints="recover.fenced=pause:8")
    load.fail(range(RUNS))
    second = start()
    # The second can have some only where the first, still stuck, took part in the rebalance.
    eventually(reader.has(COMMANDS.name, 1), 30)
    load.fail(range(RUNS, 2 * RUNS))
    assert second.stop(30) == 0
    finish(load, reader, 2 * RUNS)
    reader.check_once(2 * RUNS)
    assert first.exit_code is None
    first.kill()


def test_a_changelog_that_gives_nothing_ends_the_takeover(ours: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changelogs, "_STALLS_S", 0.2)
    changelog = Changelog(ours, RECOVER, 0, Ledger(0, 1, Policies.load()))
    try:
        with pytest.raises(DoubtError, match="changelog"):
            changelog._read_to(2**60, lambda: False)
    finally:
        changelog.close()


def test_what_was_read_ahead_and_what_came_after_is_the_state(ours: Settings) -> None:
    """Aborted states are not in it, deleted ones are gone, whether they were read before or not."""
    app = ours.model_copy(update={"app": "ahead"})
    admin, policies, state = (
        AdminClient(app.kafka()),
        Policies.load(),
        encode(Execution(tenant_id="t", execution_id="e")),
    )
    producer = Producer(app.producer(**{"transactional.id": "ahead-recover-0"}))
    producer.init_transactions(10)

    def write(keys: str, value: bytes | None, *, commit: bool = True) -> None:
        producer.begin_transaction()
        for key in keys:
            producer.produce(RECOVER_STATE.name, value, f"t/ahead-{key}", partition=0)
        producer.commit_transaction(10) if commit else producer.abort_transaction(10)

    write("abc", state)
    write("x", state, commit=False)
    ahead, cold = (Writer(app, 0, app.partitions, policies) for _ in range(2))
    ahead.read_ahead(admin, lambda: False)
    write("y", state, commit=False)
    write("b", None)
    write("d", state)
    producer.begin_transaction()  # left open: fenced and aborted by the takeover
    producer.produce(RECOVER_STATE.name, state, "t/ahead-z", partition=0)
    producer.flush()
    ahead.take_over(admin, lambda: False)
    cold.take_over(admin, lambda: False)
    assert ahead.ledger.states == cold.ledger.states
    assert {key for key in ahead.ledger.states if key.startswith("t/ahead-")} == {f"t/ahead-{key}" for key in "acd"}
    for writer in (ahead, cold):
        writer.discard()


def test_what_could_not_be_read_ahead_is_read_by_the_takeover(ours: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    app = ours.model_copy(update={"app": "ahead"})
    admin, producer = AdminClient(app.kafka()), Producer(app.producer())
    for n in range(10):
        state = encode(Execution(tenant_id="t", execution_id=f"half-{n}"))
        producer.produce(RECOVER_STATE.name, state, f"t/half-{n}", partition=0)
    producer.flush()
    writer, restore = Writer(app, 0, app.partitions, Policies.load()), Ledger.restore

    def fails(ledger: Ledger, key: bytes, value: bytes | None) -> None:
        if key == b"t/half-5":
            raise RuntimeError("interrupted")
        restore(ledger, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "restore", fails)
        writer.read_ahead(admin, lambda: False)
    writer.take_over(admin, lambda: False)
    assert {f"t/half-{n}" for n in range(10)} <= writer.ledger.states.keys()
    writer.discard()


@pytest.mark.parametrize(
    ("key", "value"), [(b"t/poison", b"\x01"), (b"t/\xff", b"x" * 20), (b"@applied", b"["), (b"@applied", b"[]")]
)
def test_what_is_unreadable_in_the_changelog_is_a_doubt_until_its_key_is_readable(
    ours: Settings, key: bytes, value: bytes
) -> None:
    """It ends no process: the other partitions go on."""
    app = ours.model_copy(update={"app": "poisoned"})
    admin, producer = AdminClient(app.kafka()), Producer(app.producer())

    def write(value: bytes | None) -> None:
        producer.produce(RECOVER_STATE.name, value, key, partition=0)
        assert producer.flush(10) == 0

    writer = Writer(app, 0, app.partitions, Policies.load())
    write(value)
    try:
        writer.read_ahead(admin, lambda: False)
        with pytest.raises(DoubtError, match="unreadable"):
            writer.take_over(admin, lambda: False)
    finally:
        write(None)
    writer.take_over(admin, lambda: False)
    writer.discard()


def test_inputs_that_cannot_be_sought_are_a_doubt_and_tried_again(
    ours: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assignments, "_SEEK_S", 0.2)
    app = ours.model_copy(update={"app": "unsought"})
    policies = Policies.load()
    consumer = Consumer(app.kafka(**{"group.id": "unsought", "enable.auto.commit": False}))
    assignment = Assignment(
        consumer,
        AdminClient(app.kafka()),
        "unsought",
        app.partitions,
        lambda n: Lane(Writer(app, n, app.partitions, policies), RECOVER.flow, app.read_ahead_bytes),
        lambda: policies,
        threading.Event(),
    )
    try:
        assignment._on_assign(consumer, [TopicPartition(topic.name, 0) for topic in RECOVER_INPUTS])
        lane = assignment.lanes[0]
        # One input is gone from the consumer; the takeover cannot know.
        consumer.assign([TopicPartition(topic.name, 0, 0) for topic in RECOVER_INPUTS[1:]])

        def doubted() -> int:
            consumer.poll(0)
            assignment.advance()
            return lane.doubts

        eventually(doubted)
        assert assignment.taking_over == [0]
        consumer.assign([TopicPartition(topic.name, 0, 0) for topic in RECOVER_INPUTS])
        eventually(lambda: doubted() and 0 in assignment.live)
    finally:
        consumer.close()
        assignment.close()


def test_a_changed_policy_file_counts_without_a_restart(  # type: ignore[no-untyped-def]
    start, tmp_path: Path, load: Load, reader: Reader
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[default]\nmax_attempts = 3\n")
    asked: list[str] = []

    def version() -> str:
        """The policy that decides now, as the command for one failure more says."""
        load.fail(range(len(asked), len(asked) + 1))
        asked.append(load.run(len(asked)))
        eventually(lambda: (reader.poll(), any(c.execution_id == asked[-1] for c in reader.commands))[1])
        return next(c.decision.policy_version for c in reader.commands if c.execution_id == asked[-1])

    def change(text: str) -> None:
        (tmp_path / "new.toml").write_text(text)
        (tmp_path / "new.toml").rename(policy)

    child = start(policy=policy)
    log = tmp_path / "worker-0.log"
    first = Policies.load(policy).version
    assert version() == first
    change("[default]\nmax_attempts = 2\n")
    second = Policies.load(policy).version
    assert second != first
    eventually(lambda: version() == second, 20)
    change("[default]\nmax_attempts = -1\n")
    eventually(lambda: f"policy {second} stays: [default] max_attempts" in log.read_text(), 20)
    assert version() == second
    change("[default]\nmax_attempts = 3\n")
    eventually(lambda: version() == first, 20)
    assert child.exit_code is None


class NotYet(AdminClient):
    """Of a leader that does not know its ends for the first `times` it is asked."""

    def __init__(self, times: int) -> None:
        self.times = times

    def list_offsets(self, request, **_):  # type: ignore[no-untyped-def]
        self.times -= 1
        done: Future[SimpleNamespace] = Future()
        done.set_result(SimpleNamespace(offset=-1 if self.times >= 0 else 7))
        return dict.fromkeys(request, done)

    def list_topics(self, **_):  # type: ignore[no-untyped-def]
        return None


def test_an_end_that_is_not_known_is_none() -> None:
    asked = [TopicPartition(RECOVER_STATE.name, 0)]
    with pytest.raises(KafkaException):
        ends(NotYet(2), asked, IsolationLevel.READ_COMMITTED)
    assert ends(NotYet(1), asked, IsolationLevel.READ_COMMITTED) == {asked[0]: 7}
