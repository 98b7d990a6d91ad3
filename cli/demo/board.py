"""What the topics tell of each run: a fold over decoded records. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from schemas.records import (
    Escalation,
    Event,
    FailureEvent,
    RecoveryOptions,
    RecoveryResult,
    ResultStatus,
    ResumeCommand,
    ResumeOutcome,
)


@dataclass(slots=True, kw_only=True)
class Story:
    """One execution, so far."""

    execution_id: str
    error: str = ""
    verdict: str = ""
    """category/subtype of the first failure."""
    failures: int = 0
    strategies: list[str] = field(default_factory=list)
    """Of the commands, in order."""
    command_ms: list[int] = field(default_factory=list)
    """From each failure to its command, by the timestamps of both records."""
    result: RecoveryResult | None = None
    escalated: str = ""
    """What a person is asked, where one is."""
    _failed_at_ms: dict[str, int] = field(default_factory=dict)

    @property
    def recovered(self) -> bool:
        """Whether the recovery succeeded, by its result."""
        return self.result is not None and self.result.status is ResultStatus.SUCCESS

    @property
    def ending(self) -> str:
        """How it ended, or where it stands."""
        if self.result is not None:
            reason = str(self.result.reason).replace("_", " ")
            return reason if self.recovered or not self.escalated else f"escalated: {reason}"
        if self.strategies:
            return "resumed" if len(self.strategies) == 1 else f"resumed, attempt {len(self.strategies)}"
        return "classified" if self.verdict else "failed" if self.failures else "works"


class Board:
    """All runs. `take` each record of the watched topics, in any order between topics."""

    def __init__(self) -> None:
        self.stories: dict[str, Story] = {}

    def story(self, execution_id: str) -> Story:
        """What is known of one execution, which may be nothing yet."""
        return self.stories.setdefault(execution_id, Story(execution_id=execution_id))

    def take(self, record: Event, timestamp_ms: int) -> Story | None:
        """Learn from one record; the story that it belongs to, or None where it belongs to none."""
        match record:
            case FailureEvent():
                story = self.story(record.execution_id)
                story.failures += 1
                story._failed_at_ms[record.failure_id or ""] = timestamp_ms
                if not story.error and record.error is not None:
                    story.error = record.error.message or record.error.class_name or ""
            case RecoveryOptions():
                story = self.story(record.execution_id)
                verdict = record.classification
                story.verdict = story.verdict or f"{verdict.category}/{verdict.subtype}"
            case ResumeCommand():
                story = self.story(record.execution_id)
                story.strategies.append(str(record.strategy))
                if (failed_at_ms := story._failed_at_ms.get(record.failure_id)) is not None:
                    story.command_ms.append(timestamp_ms - failed_at_ms)
            case RecoveryResult():
                story = self.story(record.execution_id)
                story.result = record
            case Escalation():
                story = self.story(record.execution_id)
                story.escalated = record.summary
            case ResumeOutcome():
                return self.story(record.execution_id)
            case _:
                return None
        return story


def percentile(values: list[int], share: float) -> int | None:
    """The smallest value that at least `share` (above 0) of the values do not exceed; None of none."""
    if not values:
        return None
    return sorted(values)[math.ceil(share * len(values)) - 1]
