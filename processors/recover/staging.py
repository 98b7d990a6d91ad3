"""One batch of records on top of a partition's state, up to the messages of its transaction. Pure: no clock, no IO."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import orjson

from processors.recover.applied import packed
from processors.recover.events import (
    AnyEvent,
    Broken,
    CheckpointRead,
    Due,
    Emit,
    FailureRead,
    Input,
    OperatorRead,
    OptionsRead,
    OutcomeRead,
    PermitRead,
    Place,
)
from processors.recover.governed import Reports
from processors.recover.partitioner import partition_of
from processors.recover.persons import refusal
from processors.recover.reducer import step
from processors.recover.state import Execution, decode, encode
from processors.recover.view import View
from schemas import codec
from schemas.records import (
    CheckpointSaved,
    DeadLetterReason,
    Disposition,
    DispositionKind,
    Event,
    FailureEvent,
    OperatorAction,
    Permit,
    RecoveryOptions,
    ResumeOutcome,
    from_epoch_ms,
)
from schemas.topics import FAILURES, RECOVER_STATE, TOPICS, Topic

if TYPE_CHECKING:
    from processors.recover.ledger import Ledger

APPLIED_KEY: Final = b"@applied"
"""Changelog key of the positions; no execution's, whose tenant has no `@`."""
SOURCE: Final = "omium/recover"
WORKER: Final = "recover"
_OVERHEAD: Final = 4096
"""Bytes of key, headers and framing that a topic's limit counts beside the value."""
_TOPIC_OF: Final[dict[type[Event], Topic]] = {t.record: t for t in TOPICS if t.record and not t.from_agents}


@dataclass(frozen=True, slots=True)
class Raw:
    """A record as it was read."""

    topic: str
    partition: int
    offset: int
    at_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """A record to be produced. `partition` None: by its key."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None


@dataclass(slots=True)
class Staged:
    """What one transaction does. The ledger holds it only after `Ledger.commit`."""

    messages: list[Message] = field(default_factory=list)
    emitted: list[Event] = field(default_factory=list)
    """The records among the messages, for the metrics."""
    answered_ms: list[int] = field(default_factory=list)
    """Broker's times of the failures that first commands answer."""
    changes: dict[str, bytes | None] = field(default_factory=dict)
    applied: dict[str, int] = field(default_factory=dict)
    ahead: dict[str, frozenset[int]] = field(default_factory=dict)
    """Topic to the offsets that were applied beyond `applied`, where they have changed."""
    tokens: int = 0
    """What the deadlines that fired cost."""
    replayed: int = 0
    unreadable: int = 0
    """Deadlines of states that this release cannot read."""

    def __bool__(self) -> bool:
        return bool(self.messages or self.changes or self.applied or self.ahead)


class OversizedError(ValueError):
    """An output exceeds its topic's limit; produced, it would abort the batch for ever."""


class Staging:
    """One batch under way on top of a ledger."""

    def __init__(
        self, ledger: Ledger, now: int, suspects: frozenset[tuple[str, int]], view: View, *, tries: bool = False
    ) -> None:
        """`tries`: whether each step's outputs are tried out before the next step."""
        self.out = Staged()
        self._ledger = ledger
        self._now = now
        self._suspects = suspects
        self._view = replace(view, held=ledger.held)
        self._reports = Reports(ledger.partition, view.allowances)
        self._tries = tries
        self._touched: dict[str, Execution | None] = {}
        self._said: list[Emit | Message] = []
        self._read: set[int] = set()
        """Offsets of the failures of this batch that were taken."""

    def all(
        self, batch: Sequence[Raw], positions: Mapping[str, int] | None, due: Iterable[str], event: Due | Broken
    ) -> Staged:
        """What `batch`, in its order, then `event` of the executions that are due, come to."""
        for raw in batch:
            self._take(raw)
        self._apply(batch, positions)
        for key in due:
            self._fire(key, event)
        return self._finished()

    def _apply(self, batch: Sequence[Raw], positions: Mapping[str, int] | None) -> None:
        """Note that `batch` was applied. `positions`: as of `Ledger.stage`."""
        offsets: dict[str, set[int]] = defaultdict(set)
        for raw in batch:
            offsets[raw.topic].add(raw.offset)
        for topic, taken in offsets.items():
            applied, ahead = self._ledger.applied.get(topic, 0), self._ledger.ahead.get(topic, frozenset())
            position = max(applied, max(taken) + 1 if positions is None else positions[topic])
            left = frozenset(offset for offset in ahead | taken if offset >= position)
            if position > applied:
                self.out.applied[topic] = position
            if left != ahead:
                self.out.ahead[topic] = left

    def _take(self, raw: Raw) -> None:
        if self._ledger.has_applied(raw.topic, raw.offset):
            self.out.replayed += 1
            return None
        if raw.topic == FAILURES.name:
            self._read.add(raw.offset)
        if (raw.topic, raw.offset) in self._suspects:
            return self._bury(raw, DeadLetterReason.HANDLER_ERROR, "the broker refused what it caused")
        decoded = codec.decode(raw.topic, raw.value, raw.headers)
        if isinstance(decoded, codec.Malformed):
            if raw.topic == FAILURES.name:
                return None  # streams makes a dead letter of it
            return self._bury(raw, decoded.reason, decoded.error)
        record = decoded.record
        if record.key not in self._ledger.states:
            right = partition_of(record.key.encode(), self._ledger.partitions)
            if right != self._ledger.partition:
                return self._forward(raw, record, right)
        try:
            self._step(record.key, self._event(raw, decoded), self._now)
        except OversizedError as error:
            self._bury(raw, DeadLetterReason.OUTPUT_OVERSIZED, str(error))
        except Exception as error:
            self._bury(raw, DeadLetterReason.HANDLER_ERROR, type(error).__name__)
        return None

    def _fire(self, key: str, event: Due | Broken) -> None:
        try:
            self._step(key, event, self._now)
        except Exception as error:
            # Its deadline would come back for ever: a person gets it instead.
            try:
                self._step(key, Broken(type(error).__name__), self._now)
            except Exception:
                # Not even that: a state that this release cannot read stays as it is, for one that can.
                self.out.unreadable += 1

    def _finished(self) -> Staged:
        self._said += [Emit(report) for report in self._reports.added_up()]
        out, needless = self.out, self._needless()
        for n, said in enumerate(self._said):
            if isinstance(said, Message):
                out.messages.append(said)
            elif n not in needless:
                out.messages.append(_encoded(said))
                out.emitted.append(said.record)
        for key, state in self._touched.items():
            value = _kept(key, state)
            if value != self._ledger.states.get(key):
                out.changes[key] = value
                out.messages.append(_changelog(key.encode(), value, self._ledger.partition))
        if out.applied or out.ahead:
            applied = {**self._ledger.applied, **out.applied}
            value = orjson.dumps(packed(applied, {**self._ledger.ahead, **out.ahead}))
            out.messages.append(_changelog(APPLIED_KEY, value, self._ledger.partition))
        return out

    def _needless(self) -> set[int]:
        """That a failure opened a recovery, where the same transaction says what became of it."""
        opened: dict[tuple[str, int, int], int] = {}
        needless = set()
        for n, said in enumerate(self._said):
            if isinstance(said, Emit) and isinstance(record := said.record, Disposition):
                place = (record.origin_topic, record.origin_partition, record.origin_offset)
                if record.kind is DispositionKind.OPENED:
                    opened[place] = n
                elif place in opened:
                    needless.add(opened[place])
        return needless

    def _event(self, raw: Raw, decoded: codec.Decoded) -> Input:
        # Appended in the future: by a broker whose clock is wrong.
        at_ms = min(raw.at_ms, self._now)
        place = Place(topic=raw.topic, partition=raw.partition, offset=raw.offset, at_ms=at_ms)
        match decoded.record:
            case FailureEvent() as failure:
                return FailureRead(failure, place, decoded.trace, decoded.format)
            case RecoveryOptions() as options:
                return OptionsRead(options, place, self._overtook(options), len(raw.value or b""))
            case CheckpointSaved() as saved:
                return CheckpointRead(saved, place)
            case ResumeOutcome() as outcome:
                return OutcomeRead(outcome, place)
            case OperatorAction() as action:
                return OperatorRead(action, place, refusal(action, self._ledger.policies, self._now))
            case Permit() as permit:
                return PermitRead(permit, place)
            case other:
                raise TypeError(type(other).__name__)

    def _overtook(self, options: RecoveryOptions) -> bool:
        """Whether the failure that these options are for is still to be read."""
        origin = options.origin
        unread = not self._ledger.has_applied(FAILURES.name, origin.offset) and origin.offset not in self._read
        return origin.partition == self._ledger.partition and unread

    def _step(self, key: str, event: AnyEvent, now: int) -> None:
        state = self._state(key)
        after, effects = step(state or _blank(key), event, now, self._ledger.policies, self._view)
        if self._tries:
            for effect in effects:
                _encoded(effect)
            _kept(key, after)
        self._touched[key] = after
        self._said += self._reports.taken(effects, self._ledger.policies, now)
        self.out.answered_ms += [effect.since_ms for effect in effects if effect.since_ms]

    def _state(self, key: str) -> Execution | None:
        if key in self._touched:
            return self._touched[key]
        data = self._ledger.states.get(key)
        return None if data is None else decode(data)

    def _forward(self, raw: Raw, record: Event, right: int) -> None:
        self._said.append(Message(raw.topic, record.key.encode(), raw.value, raw.headers, right))
        execution = _blank(record.key)
        match record:
            case FailureEvent():
                subject, subject_id = "failure", record.identity(raw.partition, raw.offset)
            case ResumeOutcome():
                subject, subject_id = "outcome", record.command_id
            case RecoveryOptions():
                subject, subject_id = "options", record.failure_id
            case OperatorAction():
                subject, subject_id = "operator", record.recovery_id
            case Permit():
                subject, subject_id = "permit", record.recovery_id
            case _:
                subject, subject_id = "checkpoint", record.event_id
        disposition = Disposition(
            tenant_id=execution.tenant_id,
            execution_id=execution.execution_id,
            subject=subject,
            subject_id=subject_id,
            kind=DispositionKind.FORWARDED,
            reason=f"to partition {right}",
            origin_topic=raw.topic,
            origin_partition=raw.partition,
            origin_offset=raw.offset,
            decided_at=from_epoch_ms(self._now),
        )
        self._said.append(Emit(disposition))

    def _bury(self, raw: Raw, reason: DeadLetterReason, error: str) -> None:
        letter = codec.dead_letter(
            codec.Malformed(reason, error),
            worker=WORKER,
            topic=raw.topic,
            partition=raw.partition,
            offset=raw.offset,
            key=raw.key,
            value=raw.value,
            died_at=from_epoch_ms(self._now),
        )
        self._said.append(Emit(letter))


def _blank(key: str) -> Execution:
    tenant_id, _, execution_id = key.partition("/")
    return Execution(tenant_id=tenant_id, execution_id=execution_id)


def _encoded(effect: Emit) -> Message:
    topic = _TOPIC_OF[type(effect.record)]
    encoded = codec.encode(topic, effect.record, source=SOURCE, trace=effect.trace, wire_format=effect.wire_format)
    size = len(encoded.value) + sum(len(name) + len(value) for name, value in encoded.headers)
    if size > topic.max_message_bytes - _OVERHEAD:
        raise OversizedError(f"{effect.record.type_name} of {size} bytes")
    return Message(encoded.topic, encoded.key, encoded.value, tuple(encoded.headers))


def _kept(key: str, state: Execution | None) -> bytes | None:
    value = None if state is None else encode(state)
    if value is not None and len(value) > RECOVER_STATE.max_message_bytes - _OVERHEAD:
        raise OversizedError(f"state of {key[:64]}")
    return value


def _changelog(key: bytes, value: bytes | None, partition: int) -> Message:
    return Message(RECOVER_STATE.name, key, value, partition=partition)
