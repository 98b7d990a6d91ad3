"""What people did is told like the rest: in rows, in views, in the story of an execution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from cli.main import app
from processors.audit.store import Store
from schemas import codec, signing
from schemas.records import (
    ActionKind,
    Disposition,
    DispositionKind,
    Escalation,
    OperatorAction,
    Pause,
    PauseScope,
    ResultReason,
    ResultStatus,
    Strategy,
)
from schemas.topics import DISPOSITIONS, ESCALATIONS, OPERATOR_ACTIONS, OPERATOR_PAUSES
from tests.processors.audit.scene import START, Scene

pytestmark = pytest.mark.integration
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)


def _asked(tenant: str) -> Scene:
    """A person is asked, answers twice over, and a stranger answers too."""
    scene = Scene(tenant)
    scene.failure("f1")
    scene.disposition("f1", DispositionKind.OPENED)
    scene.options("f1", Strategy.CONSTRAINT_INJECTION)
    scene.disposition("f1", DispositionKind.HELD)
    whose = {"tenant_id": tenant, "execution_id": "exec-1", "recovery_id": scene.recovery}
    scene.write(
        ESCALATIONS,
        Escalation(
            **whose, failure_id="f1", reason=ResultReason.NEEDS_HUMAN, summary="It is asked.", escalated_at=START,
            attempt=1, approval_hash="a" * 64,
        ),
    )  # fmt: skip
    for operator, kind, became, why in (
        ("eve", ActionKind.REJECT, DispositionKind.REFUSED, "the policy knows no such operator"),
        ("ann", ActionKind.APPROVE, DispositionKind.COMMANDED, "constraint_injection, decided by ann"),
    ):
        action = signing.sign(
            OperatorAction(
                **whose, attempt=1, approval_hash="a" * 64, kind=kind, strategy=Strategy.CONSTRAINT_INJECTION,
                operator=operator, reason="seen", issued_at=START, expires_at=START, signature=b"",
            ),
            KEY,
        )  # fmt: skip
        for kinds in (became, DispositionKind.STALE):
            said = scene.write(OPERATOR_ACTIONS, action)
            scene.write(
                DISPOSITIONS,
                Disposition(
                    **whose, subject="operator", subject_id=action.signature[:16].hex(), kind=kinds, reason=why,
                    attempt=1, origin_topic=said.topic, origin_partition=said.partition, origin_offset=said.offset,
                    decided_at=START,
                ),
            )  # fmt: skip
    scene.command("f1", 1, Strategy.CONSTRAINT_INJECTION)
    scene.result("f1", ResultStatus.PARTIAL, ResultReason.EXHAUSTED, 1)
    return scene


def test_each_answer_with_what_became_of_it(
    store: Store, ask: Callable[..., list[dict[str, Any]]], tenant: str
) -> None:
    store.insert(_asked(tenant).rows)
    columns = "operator, action, reason, became, why"
    query = f"SELECT DISTINCT {columns} FROM v_operator_actions WHERE tenant_id = {{t:String}} ORDER BY ALL"
    assert [tuple(row.values()) for row in ask(query, t=tenant)] == [
        ("ann", "approve", "seen", "commanded", "constraint_injection, decided by ann"),
        ("eve", "reject", "seen", "refused", "the policy knows no such operator"),
    ]


def test_who_decided_can_be_verified_from_the_audit_alone(tenant: str) -> None:
    (record, *_) = [row for row in _asked(tenant).rows if row.kind == "operator_action"]
    decoded = codec.decode(OPERATOR_ACTIONS.name, record.body)
    assert isinstance(decoded, codec.Decoded)
    assert isinstance(decoded.record, OperatorAction)
    assert signing.is_signed_by(decoded.record, KEY.public_key())


def test_explain_tells_who_decided(store: Store, engine_url: str, tenant: str) -> None:
    store.insert(_asked(tenant).rows)
    text = CliRunner().invoke(app, ["--clickhouse", engine_url, "explain", f"{tenant}/exec-1"]).stdout
    assert text.count("ann said approve constraint_injection (seen): commanded") == 1
    assert text.count("eve said reject constraint_injection (seen): refused: the policy knows no such operator") == 1
    assert text.index("It is asked.") < text.index("eve said") < text.index("ann said")


def test_a_pause_belongs_to_its_tenant_or_to_nobody(
    store: Store, ask: Callable[..., list[dict[str, Any]]], tenant: str
) -> None:
    scene = Scene(tenant)
    for scope, target, paused in ((PauseScope.TENANT, tenant, True), (PauseScope.TOOL, f"crm-{tenant}", False)):
        record = Pause(scope=scope, target=target, paused=paused, operator="ann", issued_at=START, signature=b"")
        scene.write(OPERATOR_PAUSES, signing.sign(record, KEY))
    assert [(r.tenant_id, r.status) for r in scene.rows] == [(tenant, "paused"), ("", "resumed")]
    store.insert(scene.rows)
    rows = ask("SELECT scope, status, said_at FROM v_pauses WHERE endsWith(target, {t:String}) ORDER BY ALL", t=tenant)
    assert [tuple(row.values()) for row in rows] == [("tenant", "paused", START), ("tool", "resumed", START)]
