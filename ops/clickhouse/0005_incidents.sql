-- One row per outage, as the governor last said of it.
CREATE OR REPLACE VIEW v_incidents AS
SELECT
    e.tenant_id AS tenant_id,
    JSONExtractString(e.body, 'incident_id') AS incident_id,
    argMax(JSONExtractString(e.body, 'dependency'), (e.appended_at, e.offset)) AS dependency,
    argMax(e.status, (e.appended_at, e.offset)) AS status,
    argMax(e.reason, (e.appended_at, e.offset)) AS reason,
    minIf(e.appended_at, e.status = 'opened') AS opened_at,
    minOrNullIf(e.appended_at, e.status = 'closed') AS closed_at,
    argMax(JSONExtractUInt(e.body, 'failures'), (e.appended_at, e.offset)) AS failures,
    argMax(JSONExtractUInt(e.body, 'held'), (e.appended_at, e.offset)) AS held,
    argMax(JSONExtractUInt(e.body, 'released'), (e.appended_at, e.offset)) AS released,
    argMax(JSONExtractUInt(e.body, 'recovered'), (e.appended_at, e.offset)) AS recovered,
    argMax(JSONExtractUInt(e.body, 'unresolved'), (e.appended_at, e.offset)) AS unresolved
FROM audit_events AS e
WHERE e.kind = 'incident'
GROUP BY tenant_id, incident_id
COMMENT 'Outages of tools and models, one row each: what failed, was held, was let go, recovered, and needs a person';

-- They have no escalation of their own: the incident speaks for them.
CREATE OR REPLACE VIEW v_incident_recoveries AS
SELECT
    JSONExtractString(e.body, 'incident_id') AS incident_id,
    e.tenant_id AS tenant_id,
    e.execution_id AS execution_id,
    e.recovery_id AS recovery_id,
    e.failure_id AS failure_id,
    e.status AS status,
    e.reason AS reason,
    e.attempt AS attempts,
    e.appended_at AS ended_at
FROM v_events AS e
WHERE e.kind = 'recovery_result' AND incident_id != ''
COMMENT 'Recoveries that ended with a person needed because of an outage';
