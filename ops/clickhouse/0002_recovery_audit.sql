-- One row per resume command: command, settled attempt and outcome share command_id, so one pass joins them.
CREATE OR REPLACE VIEW v_commands AS
SELECT
    e.tenant_id,
    e.execution_id,
    e.command_id,
    anyIf(e.recovery_id, e.kind = 'resume_command') AS recovery_id,
    anyIf(e.attempt, e.kind = 'resume_command') AS attempt,
    anyIf(e.failure_id, e.kind = 'resume_command') AS failure_id,
    anyIf(e.failure_type, e.kind = 'resume_command') AS failure_type,
    anyIf(e.subtype, e.kind = 'resume_command') AS subtype,
    anyIf(e.strategy, e.kind = 'resume_command') AS strategy,
    minOrNullIf(e.appended_at, e.kind = 'resume_command') AS applied_at,
    argMinIf(e.status, e.appended_at, e.kind = 'settled_attempt') AS status,
    minOrNullIf(e.appended_at, e.kind = 'settled_attempt') AS settled_at,
    argMinIf(e.severity, e.appended_at, e.kind = 'settled_attempt') AS severity,
    argMinIf(e.cost_microusd, e.appended_at, e.kind = 'settled_attempt') AS cost_microusd,
    argMinIf(e.duration_s, e.appended_at, e.kind = 'settled_attempt') AS duration_s,
    argMinIf(e.body, (e.appended_at, e.offset), e.kind = 'resume_outcome') AS outcome,
    anyIf(e.body, e.kind = 'resume_command') AS command
FROM audit_events AS e
WHERE e.kind IN ('resume_command', 'settled_attempt', 'resume_outcome') AND e.command_id != ''
GROUP BY e.tenant_id, e.execution_id, e.command_id
HAVING countIf(e.kind = 'resume_command') > 0
COMMENT 'One row per resume command, with how it ended (status is empty while it has not)';

CREATE OR REPLACE VIEW v_recoveries AS
SELECT
    e.tenant_id,
    e.execution_id,
    e.recovery_id,
    anyIf(e.failure_id, e.kind = 'recovery_result') AS failure_id,
    anyIf(e.failure_type, e.kind = 'recovery_result') AS failure_type,
    anyIf(e.subtype, e.kind = 'recovery_result') AS subtype,
    anyIf(e.status, e.kind = 'recovery_result') AS status,
    anyIf(e.reason, e.kind = 'recovery_result') AS reason,
    anyIf(e.strategy, e.kind = 'recovery_result') AS last_strategy,
    anyIf(e.attempt, e.kind = 'recovery_result') AS attempts,
    anyIf(e.cost_microusd, e.kind = 'recovery_result') AS cost_microusd,
    anyIf(e.duration_s, e.kind = 'recovery_result') AS duration_s,
    minOrNullIf(e.appended_at, e.kind = 'recovery_result') AS ended_at,
    countIf(e.kind = 'escalation') > 0 AS escalated,
    anyIf(e.body, e.kind = 'recovery_result') AS result
FROM audit_events AS e
WHERE e.kind IN ('recovery_result', 'escalation')
GROUP BY e.tenant_id, e.execution_id, e.recovery_id
COMMENT 'One row per recovery that ended or was escalated';

-- The verdict is the first that streams gave: it may give a second, with later rates, which recover ignores.
-- A failure is handled unless all that recover did was to set it aside.
CREATE OR REPLACE VIEW v_failures AS
SELECT
    e.tenant_id,
    e.execution_id,
    e.failure_id,
    minOrNullIf(e.appended_at, e.kind = 'failure_event') AS detected_at,
    max(e.appended_at) AS last_seen_at,
    argMaxIf(e.recovery_id, e.attempt, e.kind IN ('resume_command', 'disposition') AND e.recovery_id != '') AS recovery_id,
    maxIf(e.attempt, e.kind = 'failure_event') AS failed_attempt,
    maxIf(e.attempt, e.kind IN ('resume_command', 'disposition')) AS last_attempt,
    if(last_attempt > failed_attempt, last_attempt, 0) AS attempt,
    argMinIf(e.failure_type, (e.appended_at, e.partition, e.offset), e.kind = 'recovery_options') AS verdict_type,
    argMinIf(e.subtype, (e.appended_at, e.partition, e.offset), e.kind = 'recovery_options') AS verdict_subtype,
    argMinIf(e.severity, (e.appended_at, e.partition, e.offset), e.kind = 'recovery_options') AS severity,
    if(verdict_type != '', verdict_type, anyIf(e.failure_type, e.kind = 'resume_command')) AS failure_type,
    if(verdict_type != '', verdict_subtype, anyIf(e.subtype, e.kind = 'resume_command')) AS subtype,
    countIf(e.kind = 'resume_command' OR e.kind = 'disposition'
        AND e.status NOT IN ('duplicate', 'ignored', 'expired', 'stale', 'phantom', 'forwarded')) > 0
        AND countIf(e.kind = 'disposition' AND e.status = 'ignored') = 0
        AND failure_type != 'none' AS handled,
    arraySort(groupUniqArrayIf(e.status, e.kind = 'disposition')) AS dispositions,
    argMinIf(e.body, (e.appended_at, e.partition, e.offset), e.kind = 'failure_event') AS failure,
    argMinIf(e.body, (e.appended_at, e.partition, e.offset), e.kind = 'recovery_options') AS options
FROM audit_events AS e
WHERE e.kind IN ('failure_event', 'recovery_options', 'resume_command', 'disposition') AND e.failure_id != ''
GROUP BY e.tenant_id, e.execution_id, e.failure_id
COMMENT 'One row per failure that an agent reported, handled or not';

-- A failure of a parallel branch has no command of its own: it shares the one that its disposition names.
CREATE OR REPLACE VIEW recovery_attempts AS
SELECT
    f.tenant_id AS tenant_id,
    f.execution_id AS execution_id,
    f.failure_id AS failure_id,
    f.recovery_id AS recovery_id,
    c.command_id AS command_id,
    f.attempt AS attempt,
    if(f.failure_type != '', f.failure_type, r.failure_type) AS failure_type,
    if(f.failure_type != '', f.subtype, r.subtype) AS subtype,
    f.severity AS severity,
    f.detected_at AS failure_detected_at,
    f.last_seen_at AS last_seen_at,
    c.applied_at AS applied_at,
    if(c.status != '', c.settled_at, r.ended_at) AS ended_at,
    c.strategy AS recovery_strategy,
    multiIf(c.status != '', c.status, r.status != '', r.status, 'open') AS status,
    r.reason AS reason,
    CAST(multiIf(
        c.status = 'succeeded' OR r.status = 'success' AND f.attempt IN (0, r.attempts), true,
        c.status != '' OR r.status != '', false,
        NULL), 'Nullable(Bool)') AS success,
    c.cost_microusd AS cost_microusd,
    dateDiff('millisecond', f.detected_at, ended_at) / 1000 AS duration_s,
    f.failure AS failure,
    f.options AS options,
    c.command AS command,
    c.outcome AS outcome,
    r.result AS result
FROM v_failures AS f
LEFT JOIN v_commands AS c
    ON c.tenant_id = f.tenant_id AND c.execution_id = f.execution_id
    AND c.recovery_id = f.recovery_id AND c.attempt = f.attempt
LEFT JOIN v_recoveries AS r
    ON r.tenant_id = f.tenant_id AND r.execution_id = f.execution_id AND r.recovery_id = f.recovery_id
WHERE f.handled
COMMENT 'One row per handled failure: the failure, the last command that answered it, how that ended';

CREATE OR REPLACE VIEW recovery_audit AS
WITH trail AS
(
    SELECT *, multiIf(
        JSONHas(command, 'checkpoint', 'id'), JSONExtractRaw(command, 'checkpoint'),
        JSONHas(options, 'checkpoint', 'id'), JSONExtractRaw(options, 'checkpoint'),
        JSONExtractRaw(failure, 'checkpoint')) AS checkpoint
    FROM recovery_attempts
)
SELECT
    execution_id,
    tenant_id,
    coalesce(ended_at, applied_at, last_seen_at) AS timestamp,
    failure_type,
    failure_detected_at,
    JSONExtractString(failure, 'agent', 'id') AS failure_agent,
    if(options != '', JSONExtractRaw(options, 'classification', 'details'), JSONExtractRaw(failure, 'error'))
        AS failure_details,
    JSONExtractString(checkpoint, 'id') AS checkpoint_id,
    parseDateTime64BestEffortOrNull(JSONExtractString(checkpoint, 'created_at'), 3, 'UTC') AS checkpoint_created_at,
    JSONExtractRaw(checkpoint, 'data') AS checkpoint_data,
    recovery_strategy,
    multiIf(
        JSONHas(command, 'decision'), JSONExtractRaw(command, 'decision', 'candidates'),
        JSONLength(result, 'options_considered') > 0, JSONExtractRaw(result, 'options_considered'),
        JSONExtractRaw(options, 'options')) AS options_considered,
    JSONExtractRaw(command, 'modifications') AS modifications,
    applied_at,
    success AS result_success,
    if(success, JSONExtractRaw(outcome, 'final_output'), '') AS final_output,
    JSONExtractUInt(outcome, 'retry_count') AS retry_count,
    duration_s AS duration_seconds
FROM trail
COMMENT 'The recovery trail: one row per handled failure';

CREATE OR REPLACE VIEW recovery_history AS
WITH
    (SELECT CAST(groupArray((timestamp, failure_type, recovery_strategy, result_success)),
        'Array(Tuple(time DateTime64(3, \'UTC\'), failure_type String, recovery_strategy String, success Nullable(Bool)))')
     FROM recovery_audit
     WHERE tenant_id = {tenant_id:String} AND execution_id = {execution_id:String}) AS found
SELECT
    {execution_id:String} AS execution_id,
    length(found) AS total_failures,
    -- What is open has neither succeeded nor failed yet.
    arrayCount(success -> ifNull(success, false), found.success)
        / greatest(1, arrayCount(success -> success IS NOT NULL, found.success)) AS recovery_success_rate,
    arraySort(found) AS events
COMMENT 'The history of one execution: SELECT * FROM recovery_history(tenant_id = ..., execution_id = ...)';
