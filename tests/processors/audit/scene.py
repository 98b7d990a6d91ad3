"""Hand-made records of one execution, each at its place in its topic, as recover and the agents would write them."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from processors.audit.rows import Row, Source, row
from schemas import codec
from schemas.records import (
    Agent,
    Candidate,
    Category,
    Checkpoint,
    ChoiceMode,
    Classification,
    Decision,
    Disposition,
    DispositionKind,
    ErrorInfo,
    Event,
    FailureEvent,
    Fence,
    Modification,
    ModificationKind,
    Option,
    Origin,
    OutcomeStatus,
    RecoveryOptions,
    RecoveryResult,
    ResultReason,
    ResultStatus,
    ResumeCommand,
    ResumedBy,
    ResumeOutcome,
    SettledAttempt,
    SettledStatus,
    Severity,
    Strategy,
)
from schemas.topics import COMMANDS, DISPOSITIONS, FAILURES, OPTIONS, OUTCOMES, RESULTS, SETTLED, Topic

START = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
_IDS = UUID(int=7)
_counter = itertools.count(1000)


class Scene:
    """Writes records of one execution, a second apart. Offsets rise over all scenes: places are never used twice."""

    def __init__(self, tenant: str, execution: str = "exec-1") -> None:
        self.tenant = tenant
        self.execution = execution
        self.recovery = f"rec-{tenant}-{execution}"
        self.sources: list[Source] = []
        self.now = START

    @property
    def rows(self) -> list[Row]:
        return [row(source) for source in self.sources]

    def append(self, topic: Topic, value: bytes | None, key: bytes = b"") -> Source:
        self.now += timedelta(seconds=1)
        source = Source(
            topic=topic.name,
            topic_id=uuid5(_IDS, topic.name),
            partition=0,
            offset=next(_counter),
            appended_ms=int(self.now.timestamp() * 1000),
            key=key,
            value=value,
        )
        self.sources.append(source)
        return source

    def write(self, topic: Topic, record: Event) -> Source:
        encoded = codec.encode(topic, record, source="test")
        return self.append(topic, encoded.value, encoded.key)

    @property
    def _whose(self) -> dict[str, str]:
        return {"tenant_id": self.tenant, "execution_id": self.execution}

    def failure(self, failure_id: str | None, *, resumed_attempt: int | None = None, **fields: Any) -> Source:
        return self.write(
            FAILURES,
            FailureEvent(
                **self._whose,
                failure_id=failure_id,
                agent=Agent(id="loan-agent"),
                error=ErrorInfo(message="APR 0 % is out of range"),
                resumed_by=(resumed_attempt and ResumedBy(recovery_id=self.recovery, attempt=resumed_attempt)) or None,
                **fields,
            ),
        )

    def options(self, failure: str, *strategies: Strategy, at: Source | None = None, **fields: Any) -> Source:
        category = fields.pop("category", Category.HALLUCINATION)
        return self.write(
            OPTIONS[category],
            RecoveryOptions(
                **self._whose,
                failure_id=failure,
                origin=Origin(partition=0, offset=at.offset if at else 0),
                classification=Classification(
                    category=category,
                    subtype="out_of_range",
                    severity=Severity.HIGH,
                    details='{"field": "apr", "actual_value": 0}',
                    explanation="apr is 0, and must lie between 0.1 and 36.",
                ),
                checkpoint=Checkpoint(id="cp-1", created_at=START, data='{"step": 3}'),
                options=tuple(
                    Option(strategy=s, confidence=0.9, prior=0.9, why=f"{s} fits the evidence") for s in strategies
                ),
                rules_version="1",
                catalogue_version="1",
                decided_at=self.now,
                **fields,
            ),
        )

    def disposition(self, failure: str, kind: DispositionKind, *, attempt: int = 0, **fields: Any) -> Source:
        return self.write(
            DISPOSITIONS,
            Disposition(
                **self._whose,
                subject=fields.pop("subject", "failure"),
                subject_id=failure,
                kind=kind,
                recovery_id=self.recovery,
                attempt=attempt,
                origin_topic=FAILURES.name,
                origin_partition=0,
                origin_offset=0,
                decided_at=self.now,
                **fields,
            ),
        )

    def command(self, failure: str, attempt: int, strategy: Strategy) -> Source:
        return self.write(
            COMMANDS,
            ResumeCommand(
                **self._whose,
                command_id=f"{self.recovery}:{attempt}",
                recovery_id=self.recovery,
                failure_id=failure,
                attempt=attempt,
                fence=Fence(offset=1, attempt=attempt),
                checkpoint=Checkpoint(id="cp-1", created_at=START, data='{"step": 3}'),
                category="hallucination",
                subtype="out_of_range",
                strategy=strategy,
                modifications=(Modification(kind=ModificationKind.APPEND_PROMPT, parameters='{"text": "APR > 0"}'),),
                not_before=self.now,
                expires_at=self.now,
                outcome_deadline=self.now,
                idempotency_key="k",
                issued_at=self.now,
                decision=Decision(
                    mode=ChoiceMode.STATIC,
                    policy_version="1",
                    rules_version="1",
                    catalogue_version="1",
                    candidates=(
                        Candidate(strategy=strategy, confidence=0.9, prior=0.9, eligible=True, why="best allowed"),
                        Candidate(
                            strategy=Strategy.MODEL_UPGRADE,
                            confidence=0.8,
                            prior=0.8,
                            eligible=False,
                            why="the runtime cannot set a model",
                        ),
                    ),
                    chosen=0,
                ),
            ),
        )

    def outcome(
        self, attempt: int, status: OutcomeStatus = OutcomeStatus.SUCCEEDED, output: str = '{"apr": 7}'
    ) -> Source:
        return self.write(
            OUTCOMES,
            ResumeOutcome(
                **self._whose,
                command_id=f"{self.recovery}:{attempt}",
                recovery_id=self.recovery,
                attempt=attempt,
                status=status,
                final_output=output,
                retry_count=2,
                duration_s=1.5,
                cost_microusd=900,
            ),
        )

    def settled(self, attempt: int, strategy: Strategy, status: SettledStatus) -> Source:
        return self.write(
            SETTLED,
            SettledAttempt(
                **self._whose,
                recovery_id=self.recovery,
                command_id=f"{self.recovery}:{attempt}",
                attempt=attempt,
                category=Category.HALLUCINATION,
                subtype="out_of_range",
                severity=Severity.HIGH,
                strategy=strategy,
                status=status,
                cost_microusd=900,
                duration_s=1.5,
                settled_at=self.now,
            ),
        )

    def result(self, failure: str, status: ResultStatus, reason: ResultReason, attempts: int, **fields: Any) -> Source:
        return self.write(
            RESULTS,
            RecoveryResult(
                **self._whose,
                recovery_id=self.recovery,
                failure_id=failure,
                failure_type=Category.HALLUCINATION,
                subtype="out_of_range",
                status=status,
                reason=reason,
                attempts=attempts,
                retry_success=status == ResultStatus.SUCCESS,
                total_cost_microusd=900 * attempts,
                total_duration_s=4.0,
                started_at=START,
                ended_at=self.now,
                **fields,
            ),
        )

    def recovered(self, failure: str = "f1", strategy: Strategy = Strategy.CONSTRAINT_INJECTION) -> Scene:
        """The whole of a recovery that succeeds at its first attempt."""
        at = self.failure(failure)
        self.disposition(failure, DispositionKind.OPENED)
        self.options(failure, strategy, Strategy.MODEL_UPGRADE, at=at)
        self.disposition(failure, DispositionKind.COMMANDED, attempt=1)
        self.command(failure, 1, strategy)
        self.outcome(1)
        self.settled(1, strategy, SettledStatus.SUCCEEDED)
        self.result(failure, ResultStatus.SUCCESS, ResultReason.RECOVERED, 1, selected_option=strategy)
        return self

    def second_rung(self) -> Scene:
        """The first strategy fails, the run says so as a new failure, the second strategy succeeds."""
        self.failure("f1")
        self.disposition("f1", DispositionKind.OPENED)
        self.options("f1", Strategy.CONSTRAINT_INJECTION, Strategy.FUNCTION_CALLING)
        self.command("f1", 1, Strategy.CONSTRAINT_INJECTION)
        self.failure("f2", resumed_attempt=1)
        self.disposition("f2", DispositionKind.JOINED, attempt=1)
        self.settled(1, Strategy.CONSTRAINT_INJECTION, SettledStatus.FAILED)
        self.options("f2", Strategy.FUNCTION_CALLING)
        self.command("f2", 2, Strategy.FUNCTION_CALLING)
        self.outcome(2)
        self.settled(2, Strategy.FUNCTION_CALLING, SettledStatus.SUCCEEDED)
        self.result("f1", ResultStatus.SUCCESS, ResultReason.RECOVERED, 2, selected_option=Strategy.FUNCTION_CALLING)
        return self
