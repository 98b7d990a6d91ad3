"""What people tell the orchestrator. Signed: who wrote to the topic does not matter, whose key signed does."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.records.base import Bytes, Count, Event, Id, Lenient, TenantId, UtcMs, WireEnum, execution_key
from schemas.records.options import Strategy

OperatorName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class ActionKind(WireEnum):
    """What a person decided."""

    UNKNOWN = "unknown"
    APPROVE = "approve"
    """Do the first of what was proposed."""
    REJECT = "reject"
    """End the recovery."""
    CHOOSE = "choose"
    """Do another of what was proposed."""


class OperatorAction(Event):
    """A person's answer to an escalation. Counts for the one question that `approval_hash` is of, once."""

    type_name = "operator_action"

    tenant_id: TenantId
    execution_id: Id
    recovery_id: Id
    attempt: int = Field(ge=1, le=1000)
    """The attempt that is decided on."""
    approval_hash: str = Field(max_length=128)
    """Of the question, as `schemas.signing.approval_hash` computes it from what the person was shown."""
    kind: Lenient[ActionKind]
    proposal: Count = 0
    """Index into the escalation's proposals; approve means 0."""
    strategy: Lenient[Strategy] | None = None
    """Of that proposal; absent where it is rejected."""
    operator: OperatorName
    reason: str = Field(default="", max_length=2000)
    issued_at: UtcMs
    expires_at: UtcMs
    """Read later, it does nothing."""
    signature: Bytes
    """Ed25519, over `schemas.signing.signed_bytes`."""

    @property
    def event_id(self) -> str:
        # Ed25519 is deterministic: equal content has an equal signature.
        return f"{self.recovery_id}:{self.attempt}:{self.kind}:{self.signature[:16].hex()}"

    @property
    def key(self) -> str:
        return execution_key(self.tenant_id, self.execution_id)


class PauseScope(WireEnum):
    """What stands still."""

    UNKNOWN = "unknown"
    ALL = "all"
    TENANT = "tenant"
    TOOL = "tool"
    STRATEGY = "strategy"


class Pause(Event):
    """No new commands in a scope, or commands again. Per scope and target the newest `issued_at` holds."""

    type_name = "pause"

    scope: Lenient[PauseScope]
    target: str = Field(default="", max_length=256)
    """Tenant id, tool or strategy; empty for all."""
    paused: bool
    operator: OperatorName
    reason: str = Field(default="", max_length=2000)
    issued_at: UtcMs
    signature: Bytes
    """Ed25519, over `schemas.signing.signed_bytes`."""

    @property
    def event_id(self) -> str:
        return f"{self.key}:{self.signature[:16].hex()}"

    @property
    def key(self) -> str:
        return f"{self.scope}:{self.target}"
