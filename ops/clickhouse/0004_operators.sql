-- What people said, and what recover made of it: both records name the signature.
CREATE OR REPLACE VIEW v_operator_actions AS
SELECT
    a.appended_at AS said_at,
    a.tenant_id AS tenant_id,
    a.execution_id AS execution_id,
    a.recovery_id AS recovery_id,
    a.attempt AS attempt,
    JSONExtractString(a.body, 'operator') AS operator,
    a.status AS action,
    a.strategy AS strategy,
    a.reason AS reason,
    d.became AS became,
    d.why AS why
FROM v_events AS a
LEFT JOIN
(
    SELECT
        e.tenant_id AS tenant_id,
        e.execution_id AS execution_id,
        JSONExtractString(e.body, 'subject_id') AS signature,
        argMin(e.status, (e.appended_at, e.offset)) AS became,
        argMin(e.reason, (e.appended_at, e.offset)) AS why
    FROM v_events AS e
    WHERE e.kind = 'disposition' AND JSONExtractString(e.body, 'subject') = 'operator' AND e.status != 'forwarded'
    GROUP BY tenant_id, execution_id, signature
) AS d
    ON d.tenant_id = a.tenant_id AND d.execution_id = a.execution_id
    AND d.signature = substring(JSONExtractString(a.body, 'signature'), 1, 32)
WHERE a.kind = 'operator_action'
COMMENT 'Answers of people to escalations; became is empty while recover has not read them';

CREATE OR REPLACE VIEW v_pauses AS
SELECT
    JSONExtractString(e.body, 'scope') AS scope,
    JSONExtractString(e.body, 'target') AS target,
    parseDateTime64BestEffortOrNull(JSONExtractString(e.body, 'issued_at'), 3, 'UTC') AS said_at,
    e.status AS status,
    JSONExtractString(e.body, 'operator') AS operator,
    e.reason AS reason
FROM v_events AS e
WHERE e.kind = 'pause'
COMMENT 'Every pause and resumption that was said; workers heed those whose signature is good';
