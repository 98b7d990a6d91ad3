"""One step under way: the state as it becomes, what is said so far, and the bounds of what is kept."""

from __future__ import annotations

from typing import Final

from processors.recover.events import Emit, Place, Trace, Wire
from processors.recover.policy import Policies
from processors.recover.state import Branch, Execution
from processors.recover.strategies import MAX_PARAMETERS_CHARS
from processors.recover.view import View
from schemas.records import Checkpoint, Disposition, DispositionKind, Event, RecoveryOptions, from_epoch_ms
from schemas.topics import FAILURES

MAX_INLINE_CHARS: Final = 16 * 1024
"""A checkpoint's data beyond it is dropped; the claim (id, uri, digest) stays."""
_MAX_OPTIONS_CHARS: Final = 96 * 1024
_MAX_GROWTH: Final = 16
"""JSON over Avro at most: 6 for text of control characters, 14 for a piece of evidence with nothing in it."""
_TEXT_CHARS: Final = 2_000


class Turn:
    """Collects what one step does; replaced as a whole, never shared."""

    __slots__ = ("effects", "now", "policies", "state", "view")

    def __init__(self, state: Execution, now: int, policies: Policies, view: View) -> None:
        self.state = state
        self.now = now
        self.policies = policies
        self.view = view
        self.effects: list[Emit] = []

    def emit(self, record: Event, trace: Trace = (), wire_format: Wire = "avro", since_ms: int = 0) -> None:
        self.effects.append(Emit(record, trace, wire_format, since_ms))

    def dispose(
        self,
        subject: str,
        subject_id: str,
        kind: DispositionKind,
        place: Place,
        reason: str = "",
        recovery_id: str | None = None,
        attempt: int = 0,
    ) -> None:
        """Say what became of one input."""
        self.emit(
            Disposition(
                tenant_id=self.state.tenant_id,
                execution_id=self.state.execution_id,
                subject=subject,
                subject_id=subject_id,
                kind=kind,
                reason=reason,
                recovery_id=recovery_id,
                attempt=attempt,
                origin_topic=place.topic,
                origin_partition=place.partition,
                origin_offset=place.offset,
                decided_at=from_epoch_ms(self.now),
            )
        )

    def dispose_branch(self, branch: Branch, kind: DispositionKind, reason: str = "") -> None:
        """Say what became of a failure that was read earlier."""
        recovery = self.state.recovery
        place = Place(topic=FAILURES.name, partition=branch.partition, offset=branch.offset, at_ms=branch.at_ms)
        self.dispose(
            "failure",
            branch.failure_id,
            kind,
            place,
            reason,
            recovery.recovery_id if recovery else None,
            recovery.attempt if recovery else 0,
        )


def bounded_checkpoint(checkpoint: Checkpoint | None) -> Checkpoint | None:
    """The checkpoint, without inline data that does not fit a command."""
    if checkpoint and checkpoint.data and len(checkpoint.data) > MAX_INLINE_CHARS:
        return checkpoint.model_copy(update={"data": None})
    return checkpoint


def bounded_options(record: RecoveryOptions, size_bytes: int | None = None) -> RecoveryOptions:
    """The options, without what does not fit the state: evidence goes first, then overlong parameters.

    `size_bytes`: of the options as they came, if known.
    """
    if (checkpoint := bounded_checkpoint(record.checkpoint)) is not record.checkpoint:
        record = record.model_copy(update={"checkpoint": checkpoint})
    if size_bytes is not None and size_bytes * _MAX_GROWTH <= _MAX_OPTIONS_CHARS:
        return record
    if len(record.model_dump_json()) <= _MAX_OPTIONS_CHARS:
        return record
    verdict = record.classification
    short = verdict.model_copy(
        update={
            "details": verdict.details if len(verdict.details) <= _TEXT_CHARS else "{}",
            "evidence": (),
            "explanation": verdict.explanation[:_TEXT_CHARS],
            "counterfactual": verdict.counterfactual[:_TEXT_CHARS],
            "subtype": verdict.subtype[:256],
            "rule": verdict.rule[:256],
        }
    )
    kept, room = [], _MAX_OPTIONS_CHARS // 2
    for option in record.options:
        size = len(option.parameters.encode())
        if size <= min(room, MAX_PARAMETERS_CHARS):
            room -= size
            kept.append(option.model_copy(update={"why": option.why[: _TEXT_CHARS // 10]}))
    return record.model_copy(update={"classification": short, "options": tuple(kept[:32])})
