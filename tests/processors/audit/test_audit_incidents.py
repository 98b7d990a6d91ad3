"""An outage is one row, with its recoveries in a list, however often its records came in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from processors.audit.store import Store
from schemas.records import (
    Category,
    Incident,
    IncidentStatus,
    RecoveryResult,
    ResultReason,
    ResultStatus,
)
from schemas.topics import INCIDENTS, RESULTS
from tests.processors.audit.scene import START, Scene

pytestmark = pytest.mark.integration


def test_an_incident_is_one_row_and_lists_its_recoveries(
    store: Store, tenant: str, ask: Callable[..., list[dict[str, Any]]]
) -> None:
    scene = Scene(tenant)
    for number, status in enumerate((IncidentStatus.OPENED, IncidentStatus.ONGOING, IncidentStatus.CLOSED)):
        at = START + timedelta(seconds=number)
        scene.write(
            INCIDENTS,
            Incident(
                incident_id=f"i-{tenant}", tenant_id=tenant, dependency=f"{tenant}/tool:crm", status=status,
                reason="20 of 20 runs on it failed within 30 s", opened_at=START, updated_at=at,
                closed_at=at if status is IncidentStatus.CLOSED else None, failures=20 * number, held=7, unresolved=2,
            ),
        )  # fmt: skip
    for run, incident_id in (("exec-1", f"i-{tenant}"), ("exec-2", f"i-{tenant}"), ("exec-3", None)):
        scene.write(
            RESULTS,
            RecoveryResult(
                recovery_id=f"r-{run}", failure_id="f", tenant_id=tenant, execution_id=run, attempts=1,
                failure_type=Category.TOOL_FAILURE, status=ResultStatus.PARTIAL, reason=ResultReason.EXHAUSTED,
                started_at=START, ended_at=START, incident_id=incident_id,
            ),
        )  # fmt: skip
    store.insert(scene.rows)
    store.insert(scene.rows)
    (row,) = ask("SELECT * FROM v_incidents WHERE tenant_id = {tenant:String}", tenant=tenant)
    assert (row["incident_id"], row["dependency"], row["status"]) == (f"i-{tenant}", f"{tenant}/tool:crm", "closed")
    assert (row["failures"], row["held"], row["unresolved"]) == (40, 7, 2)
    assert row["opened_at"] < row["closed_at"]
    listed = ask(
        "SELECT execution_id, reason, attempts FROM v_incident_recoveries "
        "WHERE incident_id = {incident:String} ORDER BY execution_id",
        incident=f"i-{tenant}",
    )
    assert [tuple(each.values()) for each in listed] == [("exec-1", "exhausted", 1), ("exec-2", "exhausted", 1)]
