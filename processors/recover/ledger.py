"""One partition's state, and what a batch of records makes of it. Pure: bytes in, bytes out, no clock, no IO."""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson

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
    Place,
)
from processors.recover.partitioner import partition_of
from processors.recover.persons import refusal
from processors.recover.policy import Policies
from processors.recover.reducer import step
from processors.recover.state import Execution, decode, encode, header
from processors.recover.view import NOTHING, View
from schemas import codec
from schemas.records import (
    CheckpointSaved,
    DeadLetterReason,
    Disposition,
    DispositionKind,
    Event,
    FailureEvent,
    OperatorAction,
    RecoveryOptions,
    ResumeOutcome,
    from_epoch_ms,
)
from schemas.topics import BY_NAME, FAILURES, RECOVER_STATE, TOPICS, Topic

APPLIED_KEY: Final = b"@applied"
"""Changelog key of the positions; no execution's, whose tenant has no `@`."""
SOURCE: Final = "omium/recover"
WORKER: Final = "recover"
RUNG_TOKENS: Final = 5
"""What the deadline of an open recovery costs; to forget a closed one costs 1."""
_OVERHEAD: Final = 4096
"""Bytes of key, headers and framing that a topic's limit counts beside the value."""
_TOPIC_OF: Final[dict[type[Event], Topic]] = {t.record: t for t in TOPICS if t.record and not t.from_agents}
_RANK: Final = {name: rank for rank, name in enumerate(BY_NAME)}
"""Records of one millisecond: the failure before its options."""


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
    tokens: int = 0
    """What the deadlines that fired cost."""
    replayed: int = 0
    unreadable: int = 0
    """Deadlines of states that this release cannot read."""
    ignored: int = 0
    """Failures that cannot be decoded: streams makes dead letters of them."""

    def __bool__(self) -> bool:
        return bool(self.messages or self.changes or self.applied)


class OversizedError(ValueError):
    """An output exceeds its topic's limit; produced, it would abort the batch for ever."""


class Ledger:
    """The executions of one partition, as their changelog records, and how far each input was applied."""

    def __init__(self, partition: int, partitions: int, policies: Policies) -> None:
        self.partition = partition
        self.partitions = partitions
        self.policies = policies
        self.states: dict[str, bytes] = {}
        self.applied: dict[str, int] = {}
        """Topic to the next offset."""
        self.open = 0
        self.pending = 0
        self.held = 0
        self._due: list[tuple[int, str]] = []

    # --- the changelog

    def restore(self, key: bytes, value: bytes | None) -> None:
        """Take one record of the changelog. Raises ValueError where it cannot be read."""
        if key == APPLIED_KEY:
            self.applied = {} if value is None else orjson.loads(value)
        else:
            self._put(key.decode(), value)

    def forget_beyond(self, ends: dict[str, int]) -> list[str]:
        """Drop applied positions beyond the end of their topic: it was made anew. Returns the topics."""
        renewed = [topic for topic, end in ends.items() if self.applied.get(topic, 0) > end]
        for topic in renewed:
            del self.applied[topic]
        return renewed

    def _put(self, key: str, value: bytes | None) -> None:
        before = self.states.get(key)
        if before is not None:
            _, was_open, was_pending, was_held = header(before)
            self.open -= was_open
            self.pending -= was_pending
            self.held -= was_held
        if value is None:
            self.states.pop(key, None)
            return
        due_ms, is_open, is_pending, is_held = header(value)
        self.states[key] = value
        self.open += is_open
        self.pending += is_pending
        self.held += is_held
        if due_ms and (before is None or header(before)[0] != due_ms):
            heapq.heappush(self._due, (due_ms, key))

    @property
    def next_due_ms(self) -> int | None:
        """When something happens by itself next; None: never."""
        while self._due:
            due_ms, key = self._due[0]
            state = self.states.get(key)
            if state is not None and header(state)[0] == due_ms:
                return due_ms
            heapq.heappop(self._due)
        return None

    # --- batches

    def stage(
        self,
        batch: Sequence[Raw],
        now: int,
        *,
        fire_until: int = 0,
        tokens: int = 500,
        suspects: frozenset[tuple[str, int]] = frozenset(),
        breaks: bool = False,
        view: View = NOTHING,
    ) -> Staged:
        """What `batch`, then the deadlines up to `fire_until`, make of this state.

        Per topic the batch is a run of offsets without gaps. `tokens`: what deadlines may cost. `suspects`: (topic,
        offset) of records whose outputs the broker refused: they become dead letters. `breaks`: the same for
        deadlines, whose recoveries end as internal errors.
        """
        staging = _Staging(self, now, suspects, view)
        for raw in turns(batch):
            staging.take(raw)
        for raw in batch:
            position = max(raw.offset + 1, staging.out.applied.get(raw.topic, 0))
            if position > self.applied.get(raw.topic, 0):
                staging.out.applied[raw.topic] = position
        for key in self._fired(fire_until, tokens, staging.out):
            staging.fire(key, Broken("the broker refused what it caused") if breaks else Due())
        return staging.finish()

    def _fired(self, until: int, tokens: int, out: Staged) -> list[str]:
        """The keys that are due, as many as the tokens pay for, and at least one."""
        keys: dict[str, None] = {}
        while (due_ms := self.next_due_ms) is not None and due_ms <= until:
            _, is_open, _, _ = header(self.states[self._due[0][1]])
            cost = RUNG_TOKENS if is_open else 1
            if keys and out.tokens + cost > tokens:
                break
            out.tokens += cost
            keys[heapq.heappop(self._due)[1]] = None
        return list(keys)

    def commit(self, staged: Staged) -> None:
        """`staged` is on the broker: from now on it holds."""
        for key, value in staged.changes.items():
            self._put(key, value)
        self.applied.update(staged.applied)


class _Staging:
    """One batch under way on top of a ledger."""

    def __init__(self, ledger: Ledger, now: int, suspects: frozenset[tuple[str, int]], view: View) -> None:
        self.out = Staged()
        self._ledger = ledger
        self._now = now
        self._suspects = suspects
        self._view = view
        self._touched: dict[str, tuple[Execution | None, bytes | None]] = {}
        """Key to its state and that state's changelog record."""
        self._read: set[int] = set()
        """Offsets of the failures of this batch that were taken."""

    def take(self, raw: Raw) -> None:
        if raw.offset < self._ledger.applied.get(raw.topic, 0):
            self.out.replayed += 1
            return None
        if raw.topic == FAILURES.name:
            self._read.add(raw.offset)
        if (raw.topic, raw.offset) in self._suspects:
            return self._bury(raw, DeadLetterReason.HANDLER_ERROR, "the broker refused what it caused")
        decoded = codec.decode(raw.topic, raw.value, raw.headers)
        if isinstance(decoded, codec.Malformed):
            if raw.topic == FAILURES.name:
                self.out.ignored += 1
                return None
            return self._bury(raw, decoded.reason, decoded.error)
        record = decoded.record
        if record.key not in self._ledger.states:
            right = partition_of(record.key.encode(), self._ledger.partitions)
            if right != self._ledger.partition:
                return self._forward(raw, record, right)
        try:
            self._step(record.key, self._event(raw, decoded), max(self._now, raw.at_ms))
        except OversizedError as error:
            self._bury(raw, DeadLetterReason.OUTPUT_OVERSIZED, str(error))
        except Exception as error:
            self._bury(raw, DeadLetterReason.HANDLER_ERROR, type(error).__name__)
        return None

    def fire(self, key: str, event: Due | Broken) -> None:
        try:
            self._step(key, event, self._now)
        except Exception as error:
            # Its deadline would come back for ever: a person gets it instead.
            try:
                self._step(key, Broken(type(error).__name__), self._now)
            except Exception:
                # Not even that: a state that this release cannot read stays as it is, for one that can.
                self.out.unreadable += 1

    def finish(self) -> Staged:
        out = self.out
        for key, (_, value) in self._touched.items():
            if value != self._ledger.states.get(key):
                out.changes[key] = value
                out.messages.append(_changelog(key.encode(), value, self._ledger.partition))
        if out.applied:
            positions = orjson.dumps({**self._ledger.applied, **out.applied})
            out.messages.append(_changelog(APPLIED_KEY, positions, self._ledger.partition))
        return out

    def _event(self, raw: Raw, decoded: codec.Decoded) -> Input:
        place = Place(topic=raw.topic, partition=raw.partition, offset=raw.offset, at_ms=raw.at_ms)
        match decoded.record:
            case FailureEvent() as failure:
                return FailureRead(failure, place, decoded.trace, decoded.format)
            case RecoveryOptions() as options:
                return OptionsRead(options, place, self._overtook(options))
            case CheckpointSaved() as saved:
                return CheckpointRead(saved, place)
            case ResumeOutcome() as outcome:
                return OutcomeRead(outcome, place)
            case OperatorAction() as action:
                return OperatorRead(action, place, refusal(action, self._ledger.policies, max(self._now, raw.at_ms)))
            case other:
                raise TypeError(type(other).__name__)

    def _overtook(self, options: RecoveryOptions) -> bool:
        """Whether the failure that these options are for is still to be read."""
        origin = options.origin
        unread = origin.offset >= self._ledger.applied.get(FAILURES.name, 0) and origin.offset not in self._read
        return origin.partition == self._ledger.partition and unread

    def _step(self, key: str, event: AnyEvent, now: int) -> None:
        state = self._state(key)
        after, effects = step(state or _blank(key), event, now, self._ledger.policies, self._view)
        messages = [_encoded(effect) for effect in effects]
        value = None if after is None else encode(after)
        if value is not None and len(value) > RECOVER_STATE.max_message_bytes - _OVERHEAD:
            raise OversizedError(f"state of {key[:64]}")
        self._touched[key] = after, value
        self.out.messages += messages
        self.out.emitted += [effect.record for effect in effects]
        self.out.answered_ms += [effect.since_ms for effect in effects if effect.since_ms]

    def _state(self, key: str) -> Execution | None:
        if key in self._touched:
            return self._touched[key][0]
        data = self._ledger.states.get(key)
        return None if data is None else decode(data)

    def _forward(self, raw: Raw, record: Event, right: int) -> None:
        self.out.messages.append(Message(raw.topic, record.key.encode(), raw.value, raw.headers, right))
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
            case _:
                subject, subject_id = "checkpoint", record.event_id
        self._say(
            Disposition(
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
        )

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
        self._say(letter)

    def _say(self, record: Event) -> None:
        self.out.messages.append(_encoded(Emit(record)))
        self.out.emitted.append(record)


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


def _changelog(key: bytes, value: bytes | None, partition: int) -> Message:
    return Message(RECOVER_STATE.name, key, value, partition=partition)


def turns(batch: Iterable[Raw]) -> Iterator[Raw]:
    """The records of a batch, tenants and option categories in turn; each execution's in the order of time."""
    lanes: dict[bytes, deque[Raw]] = defaultdict(deque)
    for raw in sorted(batch, key=lambda raw: (raw.at_ms, _RANK[raw.topic], raw.offset)):
        lanes[(raw.key or b"").partition(b"/")[0]].append(raw)
    waiting = deque(lanes.values())
    while waiting:
        lane = waiting.popleft()
        yield lane.popleft()
        if lane:
            waiting.append(lane)
