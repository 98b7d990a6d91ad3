"""One execution, as its agent sees it: checkpoints, failures, commands, outcomes."""

from __future__ import annotations

import contextvars
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

from pydantic import TypeAdapter

from omium import codec
from omium.evidence import FREE_FORM_BYTES, TEXT_BYTES, checkpoint, clean, failure_fields, json_text
from omium.modifications import Modifications, using
from omium.records import Applied, Checkpoint, Command, Evidence, Id, Outcome

if TYPE_CHECKING:
    from omium.client import Omium

_log = logging.getLogger("omium")
IN_PLACE: Final = "in-place:"
"""Begins the id of a checkpoint from which only the process can go on that waits there: `serve` leaves it alone."""
_ID: Final = TypeAdapter(Id)
# What the broker takes is 256 KiB, headers and framing included.
_MAX_VALUE_BYTES: Final = 240 * 1024
# Given up in this order where an event is still too large: the least telling first.
_LAST_RESORT: Final = ("execution", "calls", "facts", "reasoning", "tool_response", "expected_output", "output")


class Run:
    """A handle for one execution. Cheap; any number may name the same execution. Nothing here waits but `wait`.

    Nothing here raises either, once it exists: what cannot be sent is logged and counted in `client.stats`.
    As a context manager it makes itself the current run, to which the steps inside belong.
    """

    def __init__(self, client: Omium, execution_id: str, traceparent: str | None, environment: str | None) -> None:
        """Raises ValueError where `execution_id` is empty, longer than 256 or holds control characters."""
        self.execution_id: str = _ID.validate_python(execution_id)
        self.last_checkpoint: Checkpoint | None = None
        """The last one saved here: a report that names none names this one."""
        self._client = client
        self._traceparent = traceparent
        self._environment = environment
        self._tokens: list[contextvars.Token[Run | None]] = []

    @property
    def key(self) -> str:
        """`tenant_id/execution_id`."""
        return f"{self._client.tenant_id}/{self.execution_id}"

    def __enter__(self) -> Self:
        self._tokens.append(_current.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.reset(self._tokens.pop())

    def checkpoint(
        self,
        checkpoint_id: str,
        data: Any = None,
        *,
        step: str | None = None,
        uri: str | None = None,
        sha256: str | None = None,
        size_bytes: int | None = None,
        created_at: datetime | None = None,
    ) -> None:
        """Say that a state was saved from which this execution can go on.

        `data` is any JSON value of at most 16 KiB; a larger state stays with you, and `uri` says where.
        """
        try:
            saved = Checkpoint(
                id=checkpoint_id,
                created_at=created_at or datetime.now(UTC),
                data=data,
                uri=uri,
                sha256=sha256,
                size_bytes=size_bytes,
            )
            self.last_checkpoint = saved
            record = self._identity() | {"agent_id": self._client.agent.id, "checkpoint": checkpoint(saved)}
            if step is not None:
                record["step"] = clean(step, TEXT_BYTES)
            self._post(codec.CHECKPOINTS, record, saved.id, None)
        except Exception:
            self._client.lost("checkpoint")

    def report(
        self,
        error: BaseException | str | None = None,
        *,
        resumed_by: Command | None = None,
        failure_id: str | None = None,
        traceparent: str | None = None,
        **evidence: Unpack[Evidence],
    ) -> str:
        """Report that the execution failed: with an exception, a sentence, or evidence alone.

        `resumed_by` is the command whose run failed again. Of an exception its class, message, codes and
        causes are sent; everything else is sent only as given in `evidence`. Returns the id of the
        failure, to `wait` for; the same also where the report could not be sent.
        """
        failure_id = failure_id or uuid.uuid4().hex
        try:
            self._client.pending.expect(self.key, failure_id)
            if resumed_by is not None:
                self._client.pending.ended(resumed_by, well=False)
            if "checkpoint" not in evidence and self.last_checkpoint is not None:
                evidence["checkpoint"] = self.last_checkpoint
            record = self._identity() | {"occurred_at": datetime.now(UTC)} | failure_fields(error, evidence)
            # Commands as JSON: it can be read whatever version wrote them.
            record |= {"failure_id": failure_id, "agent": self._client.agent.model_dump(), "reply_format": "json"}
            if self._environment:
                record["environment"] = clean(self._environment, TEXT_BYTES)
            if resumed_by is not None:
                record["resumed_by"] = resumed_by.resumed_by.model_dump()
            self._post(
                codec.FAILURES,
                record,
                failure_id,
                traceparent or (resumed_by.traceparent if resumed_by is not None else None),
            )
        except Exception:
            self._client.lost("failure")
        return failure_id

    def wait(self, failure_id: str, timeout_s: float | None = None) -> Command | None:
        """The command that answers the failure, accepted and due to begin now; None where none came in time.

        Waits at most `timeout_s` (the client's `wait_s`) for the command, and then until its
        `not_before` where that is less than the client's `hold_s` away. A command is given out once:
        whoever gets it follows it, then says how it ended.
        """
        return self._client.pending.wait(self.key, failure_id, self._patience_s(timeout_s))

    async def wait_async(self, failure_id: str, timeout_s: float | None = None) -> Command | None:
        """As `wait`, without blocking the event loop."""
        return await self._client.pending.wait_async(self.key, failure_id, self._patience_s(timeout_s))

    def _patience_s(self, timeout_s: float | None) -> float:
        return self._client.wait_s if timeout_s is None else timeout_s

    def give_up(self, failure_id: str, *, only_here: bool = False) -> None:
        """Nobody here waits for the command any more. With `only_here` nobody else can follow it either: then a
        late one is answered as abandoned, so that the recovery ends at once and not by its deadlines."""
        late = (lambda command: self.abandoned(command, "nobody waits for it any more")) if only_here else None
        self._client.pending.give_up(self.key, failure_id, late)

    def failed_again(self, command: Command, error: BaseException, **evidence: Unpack[Evidence]) -> str:
        """The resumed run failed again. Returns the failure to `wait` for: another attempt may be commanded.

        Where it failed before anything of the command took effect, that says nothing about the strategy,
        and is told as not applied; otherwise it is reported as a new failure of this attempt.
        """
        modifications = command.modifications
        if len(modifications) and modifications.applied == "none":
            self.not_applied(command, f"failed before anything took effect: {type(error).__qualname__}")
            return command.failure_id
        return self.report(error, resumed_by=command, **evidence)

    def succeeded(
        self,
        command: Command,
        final_output: Any = None,
        *,
        applied: Applied | None = None,
        retry_count: int | None = None,
        cost_microusd: int | None = None,
    ) -> None:
        """The resumed run went on and ended well. See `Outcome` for what is taken where nothing is given."""
        outcome = Outcome.model_construct(
            status="succeeded",
            final_output=final_output,
            applied=applied,
            retry_count=retry_count,
            cost_microusd=cost_microusd,
        )
        self.tell(command, outcome)

    def not_applied(self, command: Command, why: str) -> None:
        """The command could not be followed: another strategy may be commanded."""
        self.tell(command, Outcome.not_applied(why))

    def abandoned(self, command: Command, why: str) -> None:
        """This execution will not be resumed: no more commands for it, please."""
        self.tell(command, Outcome.abandoned(why))

    def running(self, command: Command) -> None:
        """Heartbeat of a long attempt: it is still at work, so its outcome may come later.

        Send it on progress, not by a timer: a timer also beats for a run that hangs.
        """
        try:
            record = _outcome(command, Outcome.succeeded())
            record |= {"status": "running", "applied": "unknown", "applied_why": "", "finished_at": None}
            beat_id = f"{command.command_id}:running:{uuid.uuid4().hex}"
            self._post(codec.OUTCOMES, record, beat_id, command.traceparent)
        except Exception:
            self._client.lost("heartbeat")

    def tell(self, command: Command, outcome: Outcome) -> None:
        """Say how the run of `command` ended. A run that failed again is told by `report(resumed_by=command)`."""
        message: codec.Message | None = None
        try:
            if not self._client.pending.ended(command, well=outcome.status == "succeeded"):
                return
            event_id = f"{command.command_id}:outcome"
            message = self._message(codec.OUTCOMES, _outcome(command, outcome), event_id, command.traceparent)
        except Exception:
            self._client.lost("outcome")

        def post() -> None:
            if message is not None:
                self._client.post(message)

        # First the fence: what is told as ended must not begin again, whatever becomes of this process.
        post() if outcome.status == "not_applied" else self._client.pending.finish(command, post)

    def _identity(self) -> dict[str, Any]:
        return {"tenant_id": self._client.tenant_id, "execution_id": self.execution_id}

    def _post(self, topic: str, record: dict[str, Any], event_id: str, traceparent: str | None) -> None:
        self._client.post(self._message(topic, record, event_id, traceparent))

    def _message(self, topic: str, record: dict[str, Any], event_id: str, traceparent: str | None) -> codec.Message:
        traceparent = traceparent or self._traceparent
        trace = [("traceparent", traceparent.encode("ascii", "replace"))] if traceparent else []
        for name in (None, *_LAST_RESORT):
            if name is not None:
                record = {k: v for k, v in record.items() if k != name}
            message = codec.encode(topic, record, event_id=event_id, source=self._client.source, trace=trace)
            if len(message.value) <= _MAX_VALUE_BYTES:
                break
            _log.warning("omium: %s is %d bytes large, and sent without %s", topic, len(message.value), name)
        return message


def _outcome(command: Command, outcome: Outcome) -> dict[str, Any]:
    modifications = command.modifications
    applied = outcome.applied or modifications.applied
    why = outcome.why
    if not why and applied != "all" and modifications.unused:
        why = f"not used: {', '.join(modifications.unused)}"
    record: dict[str, Any] = {
        "command_id": command.command_id,
        "recovery_id": command.recovery_id,
        "attempt": command.attempt,
        "tenant_id": command.tenant_id,
        "execution_id": command.execution_id,
        "status": outcome.status,
        "applied": applied,
        "applied_why": clean(why, TEXT_BYTES),
        "retry_count": modifications.retry_count if outcome.retry_count is None else outcome.retry_count,
        "finished_at": datetime.now(UTC),
    }
    if command.begun_at is not None:
        record["duration_s"] = time.monotonic() - command.begun_at
    if outcome.cost_microusd is not None:
        record["cost_microusd"] = outcome.cost_microusd
    if outcome.final_output is not None:
        record["final_output"] = json_text(outcome.final_output, FREE_FORM_BYTES["output"], "final_output")
    return record


_current: contextvars.ContextVar[Run | None] = contextvars.ContextVar("omium_run", default=None)

_command: contextvars.ContextVar[Command | None] = contextvars.ContextVar("omium_command", default=None)
_notes: contextvars.ContextVar[Evidence | None] = contextvars.ContextVar("omium_notes", default=None)


def current_run() -> Run | None:
    """The run that the code here belongs to, or None."""
    return _current.get()


def current_command() -> Command | None:
    """The command by which the run that the code here belongs to was resumed, or None."""
    return _command.get()


def note(**evidence: Unpack[Evidence]) -> None:
    """Inside a step: evidence that is sent only if the step fails, such as its tool's answer or its reasoning."""
    notes = _notes.get()
    if notes is not None:
        notes.update(evidence)


@contextmanager
def attempt(run: Run, command: Command | None, modifications: Modifications) -> Iterator[Evidence]:
    """Inside, the code belongs to `run` and to the attempt of `command`. Gives what it notes."""
    notes = Evidence()
    tokens = _command.set(command), _notes.set(notes)
    try:
        with run, using(modifications):
            yield notes
    finally:
        _command.reset(tokens[0])
        _notes.reset(tokens[1])
