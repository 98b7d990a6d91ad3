"""The judge: reads only topics, ClickHouse and what the agents wrote down, and names each broken invariant.

The names are those of the invariants in README. Nothing here imports the workers or their codec.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from ops.chaos.wire import Row, dump

AUDITED: Final = (
    "agent.failures.v1",
    "agent.checkpoints.v1",
    "agent.outcomes.v1",
    "recovery.options.hallucination.v1",
    "recovery.options.tool-failure.v1",
    "recovery.options.logical-error.v1",
    "recovery.options.performance.v1",
    "recovery.options.unclassified.v1",
    "recovery.commands.v1",
    "recovery.results.v1",
    "recovery.escalations.v1",
    "recovery.settled.v1",
    "recovery.dispositions.v1",
    "recovery.dead-letters.v1",
)
TRANSACTIONAL: Final = ("recovery.commands.v1", "recovery.results.v1", "recovery.settled.v1", "recovery.state.v1")
FINAL: Final = {"joined", "commanded", "held", "escalated", "ended", "duplicate", "expired", "ignored", "stale"}
"""What may become of a failure; `opened` alone is not an end, `forwarded` names another place."""

Query = Callable[[str], list[tuple[Any, ...]]]


@dataclass
class Verdict:
    """What was found. `broken` is empty where all invariants held."""

    broken: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    failures: int = 0
    commands: int = 0
    duplicates_dropped: int = 0
    lost: int = 0
    commands_twice: int = 0
    audit_missing: int = 0
    audit_twice: int = 0
    recovery_s: list[float] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)
    """What should sometimes happen, else the run proved nothing."""

    def accuse(self, invariant: str, what: str) -> None:
        self.broken[invariant].append(what)


def judge(bootstrap: str, logs: Iterable[Path], query: Query | None) -> Verdict:
    """Check everything; the workers have settled and are stopped, or idle."""
    verdict = Verdict()
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in dump(bootstrap, *AUDITED):
        rows[row.topic].append(row)
    entries = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    _no_failure_is_lost(verdict, rows, entries)
    _one_command_an_attempt(verdict, rows)
    _one_end_a_recovery(verdict, rows)
    _effects_once(verdict, entries)
    _tenants_apart(verdict, rows)
    _decisions_recomputable(verdict, rows)
    _counts_are_the_fold(verdict, bootstrap, rows["recovery.settled.v1"])
    _transactions_ended(verdict, bootstrap)
    if query:
        _audit_complete(verdict, rows, query)
    return verdict


def _no_failure_is_lost(verdict: Verdict, rows: dict[str, list[Row]], entries: list[dict[str, Any]]) -> None:
    became: dict[tuple[int, int], set[str]] = defaultdict(set)
    by_id: dict[str, set[str]] = defaultdict(set)
    for row in rows["recovery.dispositions.v1"]:
        said = row.value
        if said and said["subject"] == "failure":
            became[said["origin_partition"], said["origin_offset"]].add(said["kind"])
            by_id[said["subject_id"]].add(said["kind"])
        if said:
            verdict.happened[f"{said['subject']} {said['kind']}"] += 1
    dead = {
        (row.value["origin_partition"], row.value["origin_offset"])
        for row in rows["recovery.dead-letters.v1"]
        if row.value and row.value["origin_topic"] == "agent.failures.v1"
    }
    acked = {tuple(e["place"]): e["failure_id"] for e in entries if e["did"] == "failure-acked"}
    verdict.failures = len(acked)
    verdict.duplicates_dropped = sum("duplicate" in kinds for kinds in became.values())
    for (partition, offset), failure_id in acked.items():
        kinds = became[partition, offset]
        if "forwarded" in kinds:
            kinds = by_id[failure_id] - {"forwarded"}
        if not kinds & FINAL and (partition, offset) not in dead:
            verdict.lost += 1
            verdict.accuse("1 no failure is lost", f"{failure_id} at {partition}:{offset} became {sorted(kinds)}")


def _one_command_an_attempt(verdict: Verdict, rows: dict[str, list[Row]]) -> None:
    commands = [row.value for row in rows["recovery.commands.v1"] if row.value]
    verdict.commands = len(commands)
    for (recovery, attempt), count in Counter((c["recovery_id"], c["attempt"]) for c in commands).items():
        if count > 1:
            verdict.commands_twice += count - 1
            verdict.accuse("2 one command an attempt", f"{recovery} attempt {attempt}: {count} commands")
    last: dict[str, tuple[int, int]] = {}
    for command in commands:
        fence = (command["fence"]["offset"], command["fence"]["attempt"])
        if fence <= last.get(command["execution_id"], (-1, 0)):
            verdict.accuse("2 one command an attempt", f"fence of {command['execution_id']} does not rise: {fence}")
        last[command["execution_id"]] = fence
    opened = {row.value["recovery_id"] for row in rows["recovery.results.v1"] if row.value}
    for command in commands:
        if command["recovery_id"] not in opened:
            verdict.accuse("1 no failure is lost", f"recovery {command['recovery_id']} was commanded and never ended")


def _one_end_a_recovery(verdict: Verdict, rows: dict[str, list[Row]]) -> None:
    results = [row.value for row in rows["recovery.results.v1"] if row.value]
    for recovery, count in Counter(r["recovery_id"] for r in results).items():
        if count > 1:
            verdict.accuse("2 one command an attempt", f"{recovery} ended {count} times")
    verdict.recovery_s = sorted(r["total_duration_s"] for r in results if r["status"] == "success")
    verdict.happened.update(f"result {r['status']}/{r['reason']}" for r in results)


def _effects_once(verdict: Verdict, entries: list[dict[str, Any]]) -> None:
    taken = Counter((e["execution_id"], tuple(e["fence"])) for e in entries if e["did"] == "took")
    for (execution, fence), count in taken.items():
        if count > 1:
            verdict.accuse("2 one command an attempt", f"{execution} took {fence} {count} times")


def _tenants_apart(verdict: Verdict, rows: dict[str, list[Row]]) -> None:
    for topic, found in rows.items():
        for row in found:
            record = row.value or {}
            execution = str(record.get("execution_id", ""))
            number = execution.removeprefix("x-")
            if number.isdigit() and record["tenant_id"] != f"tenant-{int(number) % 7}":
                verdict.accuse("6 tenants apart", f"{topic} says {execution} is of {record['tenant_id']}")


def _decisions_recomputable(verdict: Verdict, rows: dict[str, list[Row]]) -> None:
    for row in rows["recovery.commands.v1"]:
        decision = (row.value or {}).get("decision")
        if not row.value or not decision or decision["mode"] not in ("static", "greedy"):
            continue
        best = max((c["confidence"] for c in decision["candidates"] if c["eligible"]), default=None)
        chosen = decision["candidates"][decision["chosen"]]
        if chosen["confidence"] != best or chosen["strategy"] != row.value["strategy"]:
            verdict.accuse("7 decisions recomputable", f"{row.value['command_id']} chose {chosen['strategy']}")


def _counts_are_the_fold(verdict: Verdict, bootstrap: str, settled: list[Row]) -> None:
    expected: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0])
    seen: set[str] = set()
    for row in settled:
        attempt = row.value
        if not attempt or attempt["command_id"] in seen or attempt["status"] not in ("succeeded", "failed", "expired"):
            continue
        seen.add(attempt["command_id"])
        later = "1" if attempt["attempt"] == 1 else "2+"
        key = (attempt["subtype"], attempt["severity"], later, attempt["strategy"])
        expected[key][0] += 1
        expected[key][1] += attempt["status"] == "succeeded"
    learned: dict[tuple[Any, ...], list[int]] = {}
    for row in dump(bootstrap, "recovery.confidence.v1"):
        if record := row.value:
            stratum = (record["subtype"], record["severity"], record["attempt_class"], record["strategy"])
            learned[stratum] = [record["samples"], record["successes"]]
    for key, counts in expected.items():
        if learned.get(key) != counts:
            verdict.accuse("4 counts equal the fold", f"{key}: learned {learned.get(key)}, settled {counts}")


def _transactions_ended(verdict: Verdict, bootstrap: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    known = admin.list_topics(timeout=60).topics
    asked = {TopicPartition(t, n): OffsetSpec.latest() for t in TRANSACTIONAL for n in known[t].partitions}
    ends = []
    for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
        answer = admin.list_offsets(asked, isolation_level=level, request_timeout=60)
        ends.append({(tp.topic, tp.partition): future.result().offset for tp, future in answer.items()})
    for place, stable in ends[0].items():
        if stable != ends[1][place]:
            verdict.accuse(
                "2 one command an attempt", f"a transaction is open on {place}: {stable} of {ends[1][place]}"
            )


def _audit_complete(verdict: Verdict, rows: dict[str, list[Row]], query: Query) -> None:
    stored = Counter((t, int(p), int(o)) for t, p, o in query("SELECT topic, partition, offset FROM v_events"))
    for topic, found in rows.items():
        for row in found:
            count = stored.pop((topic, row.partition, row.offset), 0)
            if count == 0:
                verdict.audit_missing += 1
                verdict.accuse("3 audit complete", f"{topic}:{row.partition}:{row.offset} is missing")
            elif count > 1:
                verdict.audit_twice += 1
                verdict.accuse("3 audit complete", f"{topic}:{row.partition}:{row.offset} stands {count} times")
    for place in stored:
        verdict.accuse("3 audit complete", f"{place} is in no topic")
