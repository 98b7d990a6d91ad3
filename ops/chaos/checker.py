"""The judge: reads only topics, ClickHouse and what the agents wrote down, and names each broken invariant.

The names are those of the invariants in README. Nothing here imports the workers or their codec.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any, Final

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from ops.chaos.wire import Row, dump, ms, overtaken

AUDITED: Final = (
    "agent.failures.v1",
    "agent.checkpoints.v1",
    "agent.outcomes.v1",
    "recovery.options.hallucination.v1",
    "recovery.options.tool-failure.v1",
    "recovery.options.logical-error.v1",
    "recovery.options.performance.v1",
    "recovery.options.unclassified.v1",
    "operator.actions.v1",
    "operator.pauses.v1",
    "recovery.commands.v1",
    "recovery.results.v1",
    "recovery.escalations.v1",
    "recovery.settled.v1",
    "recovery.dispositions.v1",
    "recovery.dead-letters.v1",
    "recovery.permits.v1",
    "recovery.incidents.v1",
)
TRANSACTIONAL: Final = (
    "recovery.commands.v1",
    "recovery.results.v1",
    "recovery.settled.v1",
    "recovery.dispositions.v1",
    "recovery.escalations.v1",
    "recovery.state.v1",
    "recovery.dependency-reports.v1",
    "recovery.dependencies.v1",
    "recovery.permits.v1",
    "recovery.incidents.v1",
)
FINAL: Final = {"joined", "commanded", "held", "escalated", "ended", "duplicate", "expired", "ignored", "stale"}
"""What may become of a failure; `opened` alone is not an end, `forwarded` names another place."""
ONCE: Final = {"opened", "duplicate", "expired", "stale", "forwarded"}
"""What is said when a failure is read: once, however often it is read."""
REFUSED: Final = "the broker refused what it caused"
FORGER: Final = "forger"
SHARE: Final = Fraction(3, 10)
"""What a tenant may have of a learned count, as the catalogue ships."""
ALWAYS_COUNTED: Final = 30
_WHOSE: Final = ("tenant_id", "execution_id")
KEPT: Final[dict[str, tuple[str, ...]]] = dict.fromkeys(AUDITED, _WHOSE) | {
    "agent.failures.v1": (*_WHOSE, "failure_id"),
    "agent.outcomes.v1": (*_WHOSE, "command_id", "status"),
    "recovery.commands.v1": (
        *_WHOSE, "recovery_id", "attempt", "command_id", "fence", "strategy", "decision", "outcome_deadline"
    ),
    "recovery.results.v1": (*_WHOSE, "recovery_id", "status", "reason", "total_duration_s"),
    "recovery.settled.v1": (
        *_WHOSE, "command_id", "attempt", "subtype", "severity", "strategy", "status"
    ),
    "recovery.dispositions.v1": (
        *_WHOSE, "subject", "subject_id", "kind", "attempt",
        "origin_topic", "origin_partition", "origin_offset",
    ),
    "recovery.dead-letters.v1": ("origin_topic", "origin_partition", "origin_offset", "reason", "error"),
} | {topic: (*_WHOSE, "origin") for topic in AUDITED if topic.startswith("recovery.options.")}  # fmt: skip
"""What the judge looks at. All of it at once: of a hundred thousand failures whole records would not fit."""
LOST: Final = "1 no failure is lost"
TWICE: Final = "2 one command an attempt"
AUDIT: Final = "3 audit complete"
COUNTS: Final = "4 counts equal the fold"
INPUT: Final = "5 no input stops a worker"
TENANTS: Final = "6 tenants apart"
DECISIONS: Final = "7 decisions recomputable"

Query = Callable[[str], list[tuple[Any, ...]]]
Rows = Mapping[str, list[Row]]
Entries = list[dict[str, Any]]


@dataclass
class Verdict:
    """What was found. `broken` is empty where all invariants held."""

    broken: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    looked_at: Counter[str] = field(default_factory=Counter)
    """Invariant to how many cases of it were looked at: of none it says nothing."""
    failures: int = 0
    commands: int = 0
    duplicates_dropped: int = 0
    lost: int = 0
    commands_twice: int = 0
    audit_missing: int = 0
    audit_twice: int = 0
    success_s: list[float] = field(default_factory=list)
    """From failure to success, by the broker's clock."""
    happened: Counter[str] = field(default_factory=Counter)
    """What should sometimes happen, else the run proved nothing."""

    def accuse(self, invariant: str, what: str) -> None:
        self.broken[invariant].append(what)


def judge(bootstrap: str, logs: Iterable[Path], query: Query | None, crashes: Sequence[str] = ()) -> Verdict:
    """Check everything; the workers have settled. `crashes`: processes that ended by themselves."""
    verdict = Verdict()
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in dump(bootstrap, *AUDITED, kept=KEPT):
        rows[row.topic].append(row)
    entries = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    no_failure_is_lost(verdict, rows, entries)
    every_failure_is_decided(verdict, rows, entries)
    one_command_an_attempt(verdict, rows)
    one_end_a_recovery(verdict, rows)
    inputs_count_once(verdict, rows)
    words_in_time_count(verdict, rows)
    effects_once(verdict, entries)
    tenants_apart(verdict, rows)
    decisions_recomputable(verdict, rows)
    no_input_stops_a_worker(verdict, rows, entries, crashes)
    counts_are_the_fold(verdict, rows["recovery.settled.v1"], dump(bootstrap, "recovery.confidence.v1"))
    transactions_ended(verdict, bootstrap)
    verdict.happened["options overtook their failure"] = overtaken(bootstrap)
    if query:
        audit_complete(verdict, rows, query)
    return verdict


def _said(rows: Rows, subject: str) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    """What was said of each input of a kind, by its place."""
    for row in rows["recovery.dispositions.v1"]:
        if row.value and row.value["subject"] == subject:
            yield (row.value["origin_partition"], row.value["origin_offset"]), row.value


def _buried(rows: Rows, topic: str) -> set[tuple[int, int]]:
    return {
        (row.value["origin_partition"], row.value["origin_offset"])
        for row in rows["recovery.dead-letters.v1"]
        if row.value and row.value["origin_topic"] == topic
    }


def no_failure_is_lost(verdict: Verdict, rows: Rows, entries: Entries) -> None:
    became: dict[tuple[int, int], set[str]] = defaultdict(set)
    by_id: dict[str, set[str]] = defaultdict(set)
    for place, said in _said(rows, "failure"):
        became[place].add(said["kind"])
        by_id[said["subject_id"]].add(said["kind"])
    for row in rows["recovery.dispositions.v1"]:
        if row.value:
            verdict.happened[f"{row.value['subject']} {row.value['kind']}"] += 1
    dead = _buried(rows, "agent.failures.v1")
    buried_ids = {
        row.value.get("failure_id")
        for row in rows["agent.failures.v1"]
        if row.value and (row.partition, row.offset) in dead
    }
    acked = {tuple(e["place"]): e["failure_id"] for e in entries if e["did"] == "failure-acked"}
    verdict.failures = verdict.looked_at[LOST] = len(acked)
    verdict.duplicates_dropped = sum("duplicate" in kinds for kinds in became.values())
    for (partition, offset), failure_id in acked.items():
        kinds, buried = became[partition, offset], (partition, offset) in dead
        if "forwarded" in kinds:
            # Another record of the same failure, where its execution belongs, has what became of it.
            kinds, buried = by_id[failure_id] - {"forwarded"}, failure_id in buried_ids
        if not kinds & FINAL and not buried:
            verdict.lost += 1
            verdict.accuse(LOST, f"{failure_id} at {partition}:{offset} became {sorted(kinds)}")


def every_failure_is_decided(verdict: Verdict, rows: Rows, entries: Entries) -> None:
    """streams answers each failure, also one that recover has no use for: one that it skipped would wait in vain."""
    decided = _buried(rows, "agent.failures.v1")
    for topic, found in rows.items():
        if topic.startswith("recovery.options."):
            decided |= {(row.value["origin"]["partition"], row.value["origin"]["offset"]) for row in found if row.value}
    for entry in entries:
        if entry["did"] == "failure-acked" and tuple(entry["place"]) not in decided:
            verdict.accuse(LOST, f"{entry['failure_id']} at {entry['place']} got no options")


def one_command_an_attempt(verdict: Verdict, rows: Rows) -> None:
    commands = [row.value for row in rows["recovery.commands.v1"] if row.value]
    verdict.commands = verdict.looked_at[TWICE] = len(commands)
    for (recovery, attempt), count in Counter((c["recovery_id"], c["attempt"]) for c in commands).items():
        if count > 1:
            verdict.commands_twice += count - 1
            verdict.accuse(TWICE, f"{recovery} attempt {attempt}: {count} commands")
    last: dict[str, tuple[int, int]] = {}
    for command in commands:
        fence = (command["fence"]["offset"], command["fence"]["attempt"])
        if fence <= last.get(command["execution_id"], (-1, 0)):
            verdict.accuse(TWICE, f"fence of {command['execution_id']} does not rise: {fence}")
        last[command["execution_id"]] = fence
    ended = {row.value["recovery_id"] for row in rows["recovery.results.v1"] if row.value}
    for command in commands:
        if command["recovery_id"] not in ended:
            verdict.accuse(LOST, f"recovery {command['recovery_id']} was commanded and never ended")


def one_end_a_recovery(verdict: Verdict, rows: Rows) -> None:
    results = [row.value for row in rows["recovery.results.v1"] if row.value]
    for recovery, count in Counter(r["recovery_id"] for r in results).items():
        if count > 1:
            verdict.accuse(TWICE, f"{recovery} ended {count} times")
    settled = Counter(row.value["command_id"] for row in rows["recovery.settled.v1"] if row.value)
    for command_id, count in settled.items():
        if count > 1:
            verdict.accuse(TWICE, f"command {command_id} was settled {count} times")
    verdict.success_s = sorted(r["total_duration_s"] for r in results if r["status"] == "success")
    verdict.happened.update(f"result {r['status']}/{r['reason']}" for r in results)


def inputs_count_once(verdict: Verdict, rows: Rows) -> None:
    """However often an input is read, what became of it is said once: a replay is not another input."""
    failures = Counter(place for place, said in _said(rows, "failure") if said["kind"] in ONCE)
    answers = Counter((*p, s["attempt"]) for p, s in _said(rows, "failure") if s["kind"] == "commanded")
    outcomes = Counter(place for place, _ in _said(rows, "outcome"))
    for told, what in ((failures, "the failure"), (answers, "an attempt for the failure"), (outcomes, "the outcome")):
        for place, count in told.items():
            if count > 1:
                verdict.accuse(TWICE, f"{what} at {place} was taken {count} times")
    heard = outcomes.keys() | _buried(rows, "agent.outcomes.v1")
    for row in rows["agent.outcomes.v1"]:
        if row.value and (row.partition, row.offset) not in heard:
            verdict.accuse(LOST, f"nothing became of the outcome at {row.partition}:{row.offset}")


def words_in_time_count(verdict: Verdict, rows: Rows) -> None:
    """No attempt expires of which it had been said in time, in the partition of its command, that it succeeded."""
    commands = {row.value["command_id"]: row for row in rows["recovery.commands.v1"] if row.value}
    expired = {r.value["command_id"] for r in rows["recovery.settled.v1"] if r.value and r.value["status"] == "expired"}
    verdict.happened["attempt expired"] = len(expired)
    for row in rows["agent.outcomes.v1"]:
        said = row.value or {}
        command = commands.get(said.get("command_id", "")) if said.get("status") == "succeeded" else None
        if command is None or command.value is None or said["tenant_id"] != command.value["tenant_id"]:
            continue
        in_time = row.at_ms < ms(command.value["outcome_deadline"]) and row.partition == command.partition
        if in_time and said["command_id"] in expired:
            verdict.accuse(LOST, f"command {said['command_id']} expired although its success had been said in time")


def effects_once(verdict: Verdict, entries: Entries) -> None:
    taken = Counter((e["execution_id"], tuple(e["fence"])) for e in entries if e["did"] == "took")
    for (execution, fence), count in taken.items():
        if count > 1:
            verdict.accuse(TWICE, f"{execution} took {fence} {count} times")
    verdict.happened["fence refused"] = sum(e["did"] == "refused" for e in entries)


def tenants_apart(verdict: Verdict, rows: Rows) -> None:
    for topic, found in rows.items():
        for row in found:
            record = row.value or {}
            number = str(record.get("execution_id", "")).removeprefix("x-")
            if not number.isdigit():
                continue
            verdict.looked_at[TENANTS] += 1
            if record["tenant_id"] == FORGER and record.get("kind") in ("phantom", "forwarded"):
                verdict.happened["forgery refused"] += 1
            elif topic != "agent.outcomes.v1" and record["tenant_id"] != f"tenant-{int(number) % 7}":
                verdict.accuse(TENANTS, f"{topic} says x-{number} is of {record['tenant_id']}")
    for row in rows["recovery.results.v1"]:
        # Only a forger gives up here.
        if row.value and row.value["reason"] == "abandoned":
            verdict.accuse(TENANTS, f"a stranger ended {row.value['recovery_id']}")


def decisions_recomputable(verdict: Verdict, rows: Rows) -> None:
    for row in rows["recovery.commands.v1"]:
        decision = (row.value or {}).get("decision")
        if not row.value or not decision or decision["mode"] not in ("static", "greedy"):
            continue
        verdict.looked_at[DECISIONS] += 1
        best = max((c["confidence"] for c in decision["candidates"] if c["eligible"]), default=None)
        chosen = decision["candidates"][decision["chosen"]]
        if chosen["confidence"] != best or chosen["strategy"] != row.value["strategy"]:
            verdict.accuse(DECISIONS, f"{row.value['command_id']} chose {chosen['strategy']}")


def no_input_stops_a_worker(verdict: Verdict, rows: Rows, entries: Entries, crashes: Sequence[str]) -> None:
    """Garbage becomes dead letters, nothing else does but what the broker refused, and nobody dies of it."""
    garbage = {(e["topic"], *e["place"]) for e in entries if e["did"] == "garbage-acked"}
    verdict.looked_at[INPUT] = verdict.happened["garbage"] = len(garbage)
    letters = {(t, *place) for t in ("agent.failures.v1", "agent.outcomes.v1") for place in _buried(rows, t)}
    for topic, partition, offset in garbage - letters:
        verdict.accuse(INPUT, f"garbage at {topic}:{partition}:{offset} became nothing")
    for row in rows["recovery.dead-letters.v1"]:
        if row.value:
            verdict.happened[f"dead letter {row.value['reason']}"] += 1
            place = (row.value["origin_topic"], row.value["origin_partition"], row.value["origin_offset"])
            if row.value["error"] == REFUSED:
                verdict.happened["what the broker refused buried"] += 1
            elif place not in garbage:
                verdict.accuse(INPUT, f"{place} was a good record, and is a dead letter: {row.value['error']}")
    for crash in crashes:
        verdict.accuse(INPUT, crash)


def counts_are_the_fold(verdict: Verdict, settled: list[Row], confidence: Iterable[Row]) -> None:
    """The newest row of each stratum says what settled of it, of which no tenant has more than its share."""
    settled_of: dict[tuple[str, ...], dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    seen: set[str] = set()
    for row in settled:
        attempt = row.value
        if not attempt or attempt["command_id"] in seen or attempt["status"] not in ("succeeded", "failed", "expired"):
            continue
        seen.add(attempt["command_id"])
        later = "1" if attempt["attempt"] == 1 else "2+"
        tally = settled_of[attempt["subtype"], attempt["severity"], later, attempt["strategy"]][attempt["tenant_id"]]
        tally[0] += 1
        tally[1] += attempt["status"] == "succeeded"
    learned: dict[tuple[str, ...], list[int]] = {}
    for row in confidence:
        if record := row.value:
            stratum = (record["subtype"], record["severity"], record["attempt_class"], record["strategy"])
            learned[stratum] = [record["samples"], record["successes"]]
    verdict.looked_at[COUNTS] = len(settled_of)
    for key, tenants in settled_of.items():
        if learned.get(key) != (counts := _in_shares(list(tenants.values()))):
            verdict.accuse(COUNTS, f"{key}: learned {learned.get(key)}, settled {counts} of {sorted(tenants)}")


def _in_shares(tenants: list[list[int]]) -> list[int]:
    """Attempts and successes, each tenant's scaled to what it may count: looked for from above, one by one."""
    share = max(SHARE, Fraction(1, len(tenants)))
    most = max(n for n, _ in tenants)
    while most > ALWAYS_COUNTED and most > share * sum(min(n, most) for n, _ in tenants):
        most -= 1
    scales = [min(Fraction(most, n), Fraction(1)) for n, _ in tenants]
    halves_up = (floor(s * scale + Fraction(1, 2)) for (_, s), scale in zip(tenants, scales, strict=True))
    return [sum(min(n, most) for n, _ in tenants), sum(halves_up)]


def transactions_ended(verdict: Verdict, bootstrap: str) -> None:
    """Of every partition that recover writes, the last stable offset is the end."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    known = admin.list_topics(timeout=60).topics
    places = [TopicPartition(topic, n) for topic in TRANSACTIONAL for n in known[topic].partitions]
    stable = _ends(admin, places, IsolationLevel.READ_COMMITTED)
    for place, end in _ends(admin, places, IsolationLevel.READ_UNCOMMITTED).items():
        if stable[place] != end:
            verdict.accuse(TWICE, f"a transaction is open on {place}: {stable[place]} of {end}")


def _ends(
    admin: AdminClient, places: list[TopicPartition], level: IsolationLevel, timeout_s: float = 60
) -> dict[tuple[str, int], int]:
    """Where the partitions end. Raises KafkaException where brokers do not know for `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        asked = {TopicPartition(place.topic, place.partition): OffsetSpec.latest() for place in places}
        answer = admin.list_offsets(asked, isolation_level=level, request_timeout=20)
        try:
            return {(tp.topic, tp.partition): future.result().offset for tp, future in answer.items()}
        except KafkaException:
            # A leader has just been elected, and the client would go on asking as if it had not.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
            admin.list_topics(timeout=60)


def audit_complete(verdict: Verdict, rows: Rows, query: Query) -> None:
    verdict.looked_at[AUDIT] = sum(map(len, rows.values()))
    verdict.happened["audit row repeated"] = int(
        query("SELECT (SELECT count() FROM audit_events) - (SELECT count() FROM v_events)")[0][0]
    )
    for topic in AUDITED:
        # One by one: a reader may not ask for everything at once.
        places = query(f"SELECT partition, offset FROM v_events WHERE topic = '{topic}'")
        stored = Counter((int(partition), int(offset)) for partition, offset in places)
        for row in rows.get(topic, ()):
            count = stored.pop((row.partition, row.offset), 0)
            if count == 0:
                verdict.audit_missing += 1
                verdict.accuse(AUDIT, f"{topic}:{row.partition}:{row.offset} is missing")
            elif count > 1:
                verdict.audit_twice += 1
                verdict.accuse(AUDIT, f"{topic}:{row.partition}:{row.offset} stands {count} times")
        for partition, offset in stored:
            verdict.accuse(AUDIT, f"{topic}:{partition}:{offset} is in no topic")
