"""A world around the reducer: topics with offsets, a runtime and streams that answer, in any order, at any time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from processors.recover.events import (
    AnyEvent,
    CheckpointRead,
    Due,
    Emit,
    FailureRead,
    OperatorRead,
    OptionsRead,
    OutcomeRead,
    Place,
)
from processors.recover.persons import refusal
from processors.recover.policy import Policies
from processors.recover.reducer import step
from processors.recover.state import Execution, decode, encode
from processors.recover.view import NOTHING, View
from schemas.records import (
    Category,
    Checkpoint,
    CheckpointSaved,
    Classification,
    FailureEvent,
    OperatorAction,
    Option,
    Origin,
    RecoveryOptions,
    ResumeCommand,
    ResumedBy,
    ResumeOutcome,
    Strategy,
    from_epoch_ms,
)
from schemas.topics import CHECKPOINTS, FAILURES, OPERATOR_ACTIONS, OPTIONS, OUTCOMES

START_MS = 1_800_000_000_000
TENANT, EXECUTION = "acme", "run-1"
POLICIES = Policies({})

PARAMETERS = {
    Strategy.FUNCTION_CALLING: '{"name":"answer","schema":{"type":"object"}}',
    Strategy.MODEL_UPGRADE: '{"model":"large"}',
    Strategy.CONSTRAINT_INJECTION: '{"text":"IMPORTANT: APR must be between 1 and 36."}',
    Strategy.VALIDATION_TOOL: '{"name":"check","description":"checks","input_schema":{}}',
    Strategy.EXPONENTIAL_BACKOFF: '{"max_attempts":5}',
    Strategy.ASYNC_EXECUTION: '{"poll_interval_s":10,"max_polls":30}',
    Strategy.INCREASE_TIMEOUT: '{"timeout_s":60}',
    Strategy.REFRESH_CREDENTIALS: '{"service":"crm"}',
    Strategy.FALLBACK_SERVICE: '{"service":"crm-2"}',
    Strategy.CORRECT_CONTEXT: '{"text":"The rate is 4 %."}',
    Strategy.DECISION_RUBRIC: '{"name":"risk","text":"Weigh income first."}',
    Strategy.REDUCE_COMPLEXITY: '{"text":"Be concise."}',
    Strategy.FASTER_MODEL: '{"model":"small"}',
    Strategy.PROCESS_IN_BATCHES: '{"batch_size":10}',
    Strategy.COMPRESS_CONTEXT: "{}",
    Strategy.LARGER_CONTEXT_MODEL: '{"model":"long"}',
    Strategy.REPAIR_ARGUMENTS: '{"text":"amount is a number"}',
    Strategy.CORRECT_IDENTIFIER: '{"wrong":"V47"}',
    Strategy.BREAK_LOOP: '{"text":"Do not call it again."}',
    Strategy.REPAIR_HISTORY: '{"problem":"a tool call has no answer"}',
    Strategy.REPHRASE_REQUEST: '{"text":"Ask politely."}',
    Strategy.EXTEND_STEP_LIMIT: '{"step_limit":50}',
    Strategy.RETRY_ONCE: '{"max_attempts":1}',
}


@lru_cache(maxsize=4096)
def option(strategy: Strategy, confidence: float = 0.9, cost_microusd: int = 1000, parameters: str = "") -> Option:
    return Option(
        strategy=strategy,
        parameters=parameters or PARAMETERS.get(strategy, "{}"),
        confidence=confidence,
        prior=confidence,
        cost_microusd=cost_microusd,
    )


def failure(failure_id: str | None = "f1", *, checkpoint: str | None = "c1", **fields: Any) -> FailureEvent:
    return FailureEvent(
        tenant_id=TENANT,
        execution_id=EXECUTION,
        failure_id=failure_id,
        checkpoint=Checkpoint(id=checkpoint) if checkpoint else None,
        **fields,
    )


def options(
    failure_id: str,
    offset: int,
    *chosen: Option,
    category: Category = Category.TOOL_FAILURE,
    subtype: str = "timeout",
    **fields: Any,
) -> RecoveryOptions:
    return RecoveryOptions(
        tenant_id=TENANT,
        execution_id=EXECUTION,
        failure_id=failure_id,
        origin=Origin(partition=0, offset=offset),
        classification=Classification(category=category, subtype=subtype),
        options=chosen,
        rules_version="r1",
        catalogue_version="c1",
        decided_at=from_epoch_ms(START_MS),
        **fields,
    )


def outcome(command: ResumeCommand, status: str = "succeeded", **fields: Any) -> ResumeOutcome:
    return ResumeOutcome(
        command_id=command.command_id,
        recovery_id=command.recovery_id,
        attempt=command.attempt,
        tenant_id=TENANT,
        execution_id=EXECUTION,
        status=status,
        **fields,
    )


@dataclass
class World:
    """One execution: its topics, its state, all that was ever said. Nothing is read before `read`."""

    policies: Policies = POLICIES
    view: View = NOTHING
    now: int = START_MS
    state: Execution | None = None
    said: list[Emit] = field(default_factory=list)
    logs: dict[str, list[tuple[int, Any]]] = field(
        default_factory=lambda: {
            name: [] for name in (FAILURES.name, "options", CHECKPOINTS.name, OUTCOMES.name, OPERATOR_ACTIONS.name)
        }
    )
    """Topic to (append time, record)."""
    at: dict[str, int] = field(default_factory=dict)
    """Topic to the next offset to be read."""
    overtook: set[int] = field(default_factory=set)
    """Offsets of failures whose options were read before them."""

    # --- the topics

    def append(self, record: Any) -> int:
        topic = {
            FailureEvent: FAILURES.name, RecoveryOptions: "options",
            CheckpointSaved: CHECKPOINTS.name, ResumeOutcome: OUTCOMES.name, OperatorAction: OPERATOR_ACTIONS.name,
        }[type(record)]  # fmt: skip
        self.logs[topic].append((self.now, record))
        return len(self.logs[topic]) - 1

    def unread(self) -> list[str]:
        return [topic for topic, log in self.logs.items() if self.at.get(topic, 0) < len(log)]

    def read(self, topic: str) -> list[Emit]:
        offset = self.at.get(topic, 0)
        self.at[topic] = offset + 1
        return self.step(self._event(topic, offset))

    def _event(self, topic: str, offset: int) -> AnyEvent:
        at_ms, record = self.logs[topic][offset]
        place = Place(topic=topic, partition=0, offset=offset, at_ms=at_ms)
        match record:
            case FailureEvent():
                return FailureRead(record, place)
            case RecoveryOptions():
                name = OPTIONS[record.classification.category].name
                place = Place(topic=name, partition=0, offset=offset, at_ms=at_ms)
                early = record.origin.offset >= self.at.get(FAILURES.name, 0)
                if early:
                    self.overtook.add(record.origin.offset)
                return OptionsRead(record, place, early)
            case CheckpointSaved():
                return CheckpointRead(record, place)
            case OperatorAction():
                return OperatorRead(record, place, refusal(record, self.policies, max(self.now, at_ms)))
            case _:
                return OutcomeRead(record, place)

    def read_all(self, rng: random.Random | None = None) -> None:
        while waiting := self.unread():
            self.read(rng.choice(waiting) if rng else waiting[0])

    # --- recover

    def step(self, event: AnyEvent) -> list[Emit]:
        before = self.state or Execution(tenant_id=TENANT, execution_id=EXECUTION)
        self.state, effects = step(before, event, self.now, self.policies, self.view)
        self.said += effects
        return list(effects)

    def restart(self) -> None:
        if self.state is not None:
            self.state = decode(encode(self.state))

    def tick(self, ms: int = 0) -> None:
        """Time passes; what is due fires, behind all that was said before."""
        self.now += ms
        self.read_all()
        while self.state and 0 < self.state.due_ms <= self.now:
            due = self.state.due_ms
            self.step(Due())
            assert self.state is None or self.state.due_ms == 0 or self.state.due_ms > due

    def until_due(self) -> None:
        if self.state and self.state.due_ms:
            self.tick(max(self.state.due_ms - self.now, 0))

    # --- what came of it

    def records(self, kind: type) -> list[Any]:
        return [emit.record for emit in self.said if type(emit.record) is kind]

    @property
    def commands(self) -> list[ResumeCommand]:
        return self.records(ResumeCommand)

    # --- shorthands

    def fail(self, failure_id: str | None = "f1", **fields: Any) -> int:
        """A failure, read at once; its offset."""
        offset = self.append(failure(failure_id, **fields))
        self.read_all()
        return offset

    def offer(self, offset: int, *chosen: Option, **fields: Any) -> None:
        """Options for the failure at `offset`, read at once."""
        record = self.logs[FAILURES.name][offset][1]
        self.append(options(record.identity(0, offset), offset, *chosen, **fields))
        self.read_all()

    def answer(self, command: ResumeCommand, status: str = "succeeded", **fields: Any) -> None:
        self.append(outcome(command, status, **fields))
        self.read_all()


def again(command: ResumeCommand) -> ResumedBy:
    """What a run that this command resumed says when it fails."""
    return ResumedBy(recovery_id=command.recovery_id, attempt=command.attempt)


Rule = Callable[[random.Random], None]
