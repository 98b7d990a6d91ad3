"""Topics that a test writes by hand, and the ledger that reads them."""

from __future__ import annotations

import random
from collections import defaultdict

from recover_world import POLICIES, START_MS, option

from processors.recover import ids
from processors.recover.ledger import Ledger, Raw, Staged
from processors.recover.partitioner import partition_of
from schemas import codec
from schemas.records import (
    Category,
    Checkpoint,
    CheckpointSaved,
    Classification,
    Event,
    FailureEvent,
    Origin,
    RecoveryOptions,
    ResumeOutcome,
    Strategy,
    from_epoch_ms,
)
from schemas.topics import CHECKPOINTS, FAILURES, OPTIONS, OUTCOMES, RECOVER_STATE

PARTITIONS = 4
EXECUTIONS = [
    (tenant, f"run-{n}") for tenant in ("acme", "zeta") for n in range(40)
    if partition_of(f"{tenant}/run-{n}".encode(), PARTITIONS) == 0
]  # fmt: skip
NOW = START_MS + 1_000_000


class Log:
    """Topics that are written to in order of time."""

    def __init__(self) -> None:
        self.records: list[Raw] = []
        self._ends: dict[str, int] = defaultdict(int)

    def put(self, topic: str, value: bytes | None, key: bytes | None, partition: int = 0) -> Raw:
        raw = Raw(topic, partition, self._ends[topic], START_MS + len(self.records), key, value)
        self._ends[topic] += 1
        self.records.append(raw)
        return raw

    def say(self, topic: str, record: Event, partition: int = 0) -> Raw:
        return self.put(topic, codec.to_avro(record), record.key.encode(), partition)

    def fail(self, run: tuple[str, str], failure_id: str = "f1", **fields: object) -> Raw:
        record = FailureEvent(
            tenant_id=run[0], execution_id=run[1], failure_id=failure_id, checkpoint=Checkpoint(id="c"), **fields
        )  # type: ignore[arg-type]
        return self.say(FAILURES.name, record)

    def offer(self, run: tuple[str, str], failure: Raw, *strategies: Strategy, parameters: str = "") -> Raw:
        category = Category.TOOL_FAILURE
        record = RecoveryOptions(
            tenant_id=run[0], execution_id=run[1], failure_id="f1",
            origin=Origin(partition=failure.partition, offset=failure.offset),
            classification=Classification(category=category, subtype="timeout"),
            options=tuple(option(strategy, parameters=parameters) for strategy in strategies),
            rules_version="r", catalogue_version="c", decided_at=from_epoch_ms(START_MS),
        )  # fmt: skip
        return self.say(OPTIONS[category].name, record)

    def succeed(self, run: tuple[str, str], failure_id: str = "f1", **fields: object) -> Raw:
        recovery = ids.recovery_id(*run, failure_id)
        record = ResumeOutcome(
            command_id=ids.command_id(recovery, 1), recovery_id=recovery, attempt=1,
            tenant_id=run[0], execution_id=run[1], status="succeeded", **fields,
        )  # type: ignore[arg-type]  # fmt: skip
        return self.say(OUTCOMES.name, record)


def busy_log(rng: random.Random) -> Log:
    log, failed = Log(), []
    for _ in range(60):
        run = rng.choice(EXECUTIONS)
        match rng.randrange(6):
            case 0 | 1:
                failed.append((run, log.fail(run, f"f{rng.randrange(4)}")))
            case 2 | 3 if failed:
                log.offer(*rng.choice(failed), Strategy.FALLBACK_SERVICE, Strategy.INCREASE_TIMEOUT)
            case 4:
                log.succeed(run, f"f{rng.randrange(4)}")
            case _:
                checkpoint = CheckpointSaved(tenant_id=run[0], execution_id=run[1], checkpoint=Checkpoint(id="k"))
                log.say(CHECKPOINTS.name, checkpoint)
    return log


def ledger() -> Ledger:
    return Ledger(0, PARTITIONS, POLICIES)


def restored(staged: list[Staged]) -> Ledger:
    """A ledger from the changelog that these transactions wrote."""
    fresh = ledger()
    for message in (m for s in staged for m in s.messages if m.topic == RECOVER_STATE.name):
        assert message.partition == 0
        fresh.restore(message.key or b"", message.value)
    return fresh


def by_execution(staged: list[Staged]) -> dict[str, list[bytes]]:
    """What was said, but `opened`: left out where the same transaction says what became of the failure."""
    said: dict[str, list[bytes]] = defaultdict(list)
    for record in (r for s in staged for r in s.emitted if getattr(r, "kind", "") != "opened"):
        said[f"{getattr(record, 'tenant_id', '')}/{getattr(record, 'execution_id', '')}"].append(codec.to_json(record))
    return said
