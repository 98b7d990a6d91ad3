"""Bugs that somebody could write, each as a change of the source, and what must catch it.

What is replaced must stand exactly once in its package: where the code has moved on, the bug is adapted here, or it
proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ops.chaos.checker import AUDIT, COUNTS, INPUT, LOST, TENANTS, TWICE

_RECOVER: Final = "processors/recover"
_AUDIT: Final = "processors/audit"


@dataclass(frozen=True, slots=True)
class Simulation:
    """The seeded worlds of the reducer."""

    seeds: int = 4000


@dataclass(frozen=True, slots=True)
class Judge:
    """A short run with these faults, which ends with `breaks` among the broken invariants."""

    faults: str
    breaks: str
    failures: int = 300
    rate: float = 30
    settle_s: float = 20


@dataclass(frozen=True, slots=True)
class Tests:
    """These tests, of which one fails."""

    select: str


@dataclass(frozen=True, slots=True)
class Bug:
    """`edits`: pairs of what stands in a file of `package` and what a mistake would make of it."""

    name: str
    package: str
    edits: tuple[tuple[str, str], ...]
    caught_by: Simulation | Judge | Tests


def _bug(name: str, package: str, caught_by: Simulation | Judge | Tests, *edits: tuple[str, str]) -> Bug:
    return Bug(name, package, edits, caught_by)


_DECIDED: Final = (
    _bug(
        "no deduplication", _RECOVER, Simulation(),
        ("    if repeated:\n", "    if False:\n"),
    ),
    _bug(
        "duplicates are known only while their recovery is open", _RECOVER, Simulation(),
        ("    if repeated:\n", "    if repeated and turn.state.recovery:\n"),
    ),
    _bug(
        "the outcome of an older attempt is taken", _RECOVER, Simulation(),
        ("if recovery.command is None or record.attempt < recovery.attempt:", "if recovery.command is None:"),
    ),
    _bug(
        "options of another failure are taken", _RECOVER, Simulation(),
        ("(b.partition, b.offset) == origin and b.options is None", "b.options is None"),
    ),
    _bug(
        "a result twice", _RECOVER, Simulation(),
        ("    result = _result(turn, recovery, status, reason, final_output, error)\n",
         "    result = _result(turn, recovery, status, reason, final_output, error)\n    turn.emit(result, trace)\n"),
    ),
    _bug(
        "random ids", _RECOVER, Simulation(),
        ('return digest("command", recovery, str(attempt))',
         'return digest("command", recovery, __import__("uuid").uuid4().hex)'),
    ),
    _bug(
        "a fence that does not rise with the attempt", _RECOVER, Simulation(),
        ("*(b.offset for b in recovery.branches)), attempt=attempt)",
         "*(b.offset for b in recovery.branches)), attempt=1)"),
    ),
    _bug(
        "an unclamped delay", _RECOVER, Simulation(),
        ("min(policy.attempt_s + work_s(merged, call_s), policy.max_outcome_wait_s)",
         "policy.attempt_s + work_s(merged, call_s)"),
    ),
    _bug(
        "heartbeats move the deadline for ever", _RECOVER, Simulation(),
        ("until_ms = min(turn.now + round(policy.attempt_s * 1000), bound_ms)",
         "until_ms = turn.now + round(policy.attempt_s * 1000) + 0 * bound_ms"),
    ),
    _bug(
        "the changelog lacks the memory of duplicates", _RECOVER, Simulation(),
        ("_ADAPTER.dump_json(state, exclude_defaults=True)",
         '_ADAPTER.dump_json(state, exclude_defaults=True, exclude={"seen"})'),
    ),
    _bug(
        "the same remedy again on the same call", _RECOVER, Simulation(),
        ("        return _TRIED\n", "        return None\n"),
    ),
    _bug(
        "no fence in the acceptor", "client/omium", Tests("client/tests/test_client_acceptor.py"),
        ("if not command.fence > held.fence:", "if False:"),
    ),
)  # fmt: skip
_RESTORING: Final = '"isolation.level": "{}",\n{}"auto.offset.reset": "earliest",\n{}"fetch.message.max'
_20: Final = 20 * " "
_APPLIED: Final = (
    _bug(
        "offsets are committed before the outputs are produced", _RECOVER,
        Judge("failpoint:recover.produced@4,failpoint:recover.produced@4,failpoint:recover.produced@4", LOST),
        ("        producer.begin_transaction()\n",
         "        producer.begin_transaction()\n"
         "        producer.send_offsets_to_transaction(offsets, metadata, RPC_S)\n"
         "        producer.commit_transaction(RPC_S)\n"
         "        producer.begin_transaction()\n"),
    ),
    _bug(
        "the committed offset is one too high", _RECOVER,
        Judge("kill_worker:recover,kill_worker:recover,kill_worker:recover", LOST),
        ("        self.positions.update(positions)\n",
         "        self.positions.update({topic: at + 1 for topic, at in positions.items()})\n"),
    ),
    _bug(
        "producer and state are kept after an abort", _RECOVER,
        Tests("tests/processors/recover/test_recover_broker.py -k fenced_takes_over_anew"),
        ("        lane.writer.discard()\n        lane.forget_read()\n        self.live.pop(number, None)\n"
         "        self._pause(number)\n", "        lane.forget_read()\n"),
    ),
    _bug(
        "the changelog is not written", _RECOVER,
        Judge("kill_worker:recover-1,kill_worker:recover-2", LOST),
        ("out.messages.append(_changelog(key.encode(), value, self._ledger.partition))", "pass"),
    ),
    _bug(
        "a restore ends early", _RECOVER,
        Tests("tests/processors/recover/test_recover_takeover.py -k what_was_read_ahead"),
        ("        self._read_to(self._stable_end(admin, stopped), stopped)\n", ""),
    ),
    _bug(
        "a restore reads what was aborted", _RECOVER,
        Tests("tests/processors/recover/test_recover_broker.py -k kill_9_at_every_boundary"),
        (_RESTORING.format("read_committed", _20, _20), _RESTORING.format("read_uncommitted", _20, _20)),
    ),
    _bug(
        "applied offsets are not stored", _RECOVER, Judge("replay:recover", TWICE),
        ("                self.out.applied[topic] = position\n", "                pass\n"),
    ),
    _bug(
        "what was applied before its turn is not stored", _RECOVER,
        Tests("tests/processors/recover/test_recover_applied.py -k take_turns"),
        ("                self.out.ahead[topic] = left\n", "                pass\n"),
    ),
    _bug(
        "records that wait for their turn are committed", _RECOVER,
        Tests("tests/processors/recover/test_recover_lane.py"),
        ("known = {topic: progress.position for", "known = {topic: self._seen.get(topic) for"),
    ),
    _bug(
        "a deadline does not wait for what is unread", _RECOVER,
        Judge("recover_down:16,recover_down:16", LOST),
        ("min(lane.barrier_ms, now)", "now"),
    ),
    _bug(
        "a record in the wrong partition is dropped", _RECOVER, Judge("kill_agents", LOST),
        ("                return self._forward(raw, record, right)\n", "                return None\n"),
    ),
    _bug(
        "the key says whose recovery it is, not the tenant in the record", _RECOVER,
        Judge("kill_agents", TENANTS),
        ("right = partition_of(record.key.encode(),", "right = partition_of(raw.key or b'',"),
        ("self._step(record.key, self._event", "self._step((raw.key or b'').decode(), self._event"),
    ),
    _bug(
        "malformed input raises", _RECOVER, Judge("kill_agents", INPUT),
        ("            return self._bury(raw, decoded.reason, decoded.error)\n",
         "            raise ValueError(decoded.error)\n"),
    ),
    _bug(
        "audit commits before it inserts", _AUDIT,
        Judge("failpoint:audit.before-insert@1,failpoint:audit.before-insert@1", AUDIT),
        ("            self._store.open()\n            if rows:\n",
         "            self._store.open()\n            self._commit()\n            if rows:\n"),
    ),
    _bug(
        "audit drops a batch that it could not insert", _AUDIT, Judge("clickhouse_gone:25", AUDIT),
        ("            self._back_off(self._store_problem)\n",
         "            self._batch.stored()\n            self._back_off(self._store_problem)\n"),
    ),
    _bug(
        "a replayed attempt counts again", "streams/learning",
        Judge("kill_agents,replay:streams,replay:streams", COUNTS),
        ("success is None or offset <= count.offset", "success is None"),
    ),
    _bug(
        "streams acknowledges before the broker has the output", "streams/edge",
        Tests("tests/streams/edge/test_edge_loss.py -k refused_dead_letter"),
        ("        self._outputs.send(output, report,",
         "        progress.done(record.offset)\n"
         "        self._outputs.send(output, report,"),
    ),
)  # fmt: skip
BUGS: Final = (*_DECIDED, *_APPLIED)
