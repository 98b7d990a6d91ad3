-- What analysts build on: v_ views, whose names and columns stay.

CREATE OR REPLACE VIEW v_strategy_success AS
SELECT
    c.failure_type AS failure_type,
    c.subtype AS subtype,
    c.strategy AS strategy,
    countIf(c.status IN ('succeeded', 'failed', 'expired')) AS attempts,
    countIf(c.status = 'succeeded') AS successes,
    if(attempts = 0, 0, successes / attempts) AS success_rate,
    -- Wilson score interval, 95 %: of three successes in three attempts little is known.
    if(attempts = 0, 0, (success_rate + 3.8416 / (2 * attempts)
        - 1.96 * sqrt(success_rate * (1 - success_rate) / attempts + 3.8416 / (4 * attempts * attempts)))
        / (1 + 3.8416 / attempts)) AS success_rate_low,
    if(attempts = 0, 1, (success_rate + 3.8416 / (2 * attempts)
        + 1.96 * sqrt(success_rate * (1 - success_rate) / attempts + 3.8416 / (4 * attempts * attempts)))
        / (1 + 3.8416 / attempts)) AS success_rate_high,
    countIf(c.status = 'not_applied') AS not_applied,
    countIf(c.status = '') AS open,
    medianIf(c.duration_s, c.status = 'succeeded') AS median_duration_s,
    sum(c.cost_microusd) AS cost_microusd
FROM v_commands AS c
GROUP BY failure_type, subtype, strategy
COMMENT 'How often each strategy works. Attempts that were not applied, or are open, count neither way';

CREATE OR REPLACE VIEW v_hourly AS
SELECT
    toStartOfHour(a.failure_detected_at) AS hour,
    a.tenant_id AS tenant_id,
    a.failure_type AS failure_type,
    count() AS failures,
    countIf(a.success = true) AS recovered,
    countIf(a.success = false) AS not_recovered,
    countIf(a.success IS NULL) AS open,
    quantileIf(0.5)(a.duration_s, a.success = true) AS median_duration_s,
    quantileIf(0.99)(a.duration_s, a.success = true) AS p99_duration_s,
    sum(a.cost_microusd) AS cost_microusd
FROM recovery_attempts AS a
GROUP BY hour, tenant_id, failure_type
COMMENT 'Handled failures and their recoveries by the hour of the failure';

CREATE OR REPLACE VIEW v_escalations AS
SELECT
    e.appended_at AS escalated_at,
    e.tenant_id AS tenant_id,
    e.execution_id AS execution_id,
    e.recovery_id AS recovery_id,
    e.reason AS reason,
    JSONExtractString(e.body, 'summary') AS summary,
    JSONExtractUInt(e.body, 'attempts') AS attempts
FROM v_events AS e
WHERE e.kind = 'escalation'
COMMENT 'Where a person was asked';

CREATE OR REPLACE VIEW v_dead_letters AS
SELECT
    e.appended_at AS died_at,
    e.tenant_id AS tenant_id,
    e.execution_id AS execution_id,
    e.reason AS reason,
    JSONExtractString(e.body, 'worker') AS worker,
    JSONExtractString(e.body, 'error') AS error,
    JSONExtractString(e.body, 'origin_topic') AS origin_topic,
    JSONExtractUInt(e.body, 'origin_partition') AS origin_partition,
    JSONExtractUInt(e.body, 'origin_offset') AS origin_offset,
    JSONExtractString(e.body, 'sha256') AS sha256,
    JSONExtractUInt(e.body, 'size_bytes') AS size_bytes
FROM v_events AS e
WHERE e.kind = 'dead_letter'
COMMENT 'Records that nobody could act on; whose they are is what their key claims';

CREATE OR REPLACE VIEW v_unanswered AS
SELECT
    f.tenant_id AS tenant_id,
    f.execution_id AS execution_id,
    f.failure_id AS failure_id,
    f.detected_at AS detected_at,
    dateDiff('second', f.detected_at, now64(3)) AS age_s,
    f.failure_type AS failure_type,
    f.dispositions AS dispositions
FROM v_failures AS f
LEFT JOIN v_recoveries AS r
    ON r.tenant_id = f.tenant_id AND r.execution_id = f.execution_id AND r.recovery_id = f.recovery_id
WHERE f.detected_at IS NOT NULL AND r.status = '' AND f.last_attempt = 0
    AND empty(arrayFilter(kind -> kind NOT IN ('opened', 'joined', 'held', 'forwarded'), f.dispositions))
COMMENT 'Failures that have neither a command, nor an end, nor a reason to be set aside: should be young';

ALTER TABLE recovery_audit
    COMMENT COLUMN execution_id 'The run, as its runtime names it',
    COMMENT COLUMN tenant_id 'Whose run it is',
    COMMENT COLUMN timestamp 'When it ended; before that, when the newest record about it was appended',
    COMMENT COLUMN failure_type 'hallucination, tool_failure, logical_error, performance or unclassified; empty before the verdict',
    COMMENT COLUMN failure_detected_at 'When the broker appended the failure',
    COMMENT COLUMN failure_agent 'Id of the agent that failed',
    COMMENT COLUMN failure_details 'JSON: the details of the verdict; before it, the error',
    COMMENT COLUMN checkpoint_id 'Where the run was resumed from, or would have been',
    COMMENT COLUMN checkpoint_created_at 'When the runtime saved it',
    COMMENT COLUMN checkpoint_data 'JSON: the saved state, where it travelled inline',
    COMMENT COLUMN recovery_strategy 'Of the last command that answered the failure; empty where there was none',
    COMMENT COLUMN options_considered 'JSON list, best first: strategy, confidence, cost, and why each was eligible or not',
    COMMENT COLUMN modifications 'JSON list of what the command changed in the run: kind and parameters',
    COMMENT COLUMN applied_at 'When the broker appended the command',
    COMMENT COLUMN result_success 'NULL while it is open',
    COMMENT COLUMN final_output 'JSON: what the resumed run gave, where it succeeded',
    COMMENT COLUMN retry_count 'Repeats inside the attempt, as the runtime reported them',
    COMMENT COLUMN duration_seconds 'From the failure to its end, by the broker''s clock; NULL while it is open';

ALTER TABLE v_strategy_success
    COMMENT COLUMN attempts 'Settled attempts: succeeded, failed or expired',
    COMMENT COLUMN success_rate_low 'Lower bound of the 95 % Wilson interval',
    COMMENT COLUMN success_rate_high 'Upper bound of the 95 % Wilson interval',
    COMMENT COLUMN not_applied 'The runtime did not do what the command said: teaches nothing about the strategy',
    COMMENT COLUMN median_duration_s 'Of the attempts that succeeded',
    COMMENT COLUMN cost_microusd 'Of all attempts, millionths of a dollar';
