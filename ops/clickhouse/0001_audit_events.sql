-- Every record of every audited topic. Append-only; the only table that holds facts: all else is views on it,
-- so what they show is a function of the set of records, whatever order or number of times they came in.
-- Not a ReplacingMergeTree: a repeat must stay countable, and no later insert may take a record's place.
CREATE TABLE IF NOT EXISTS audit_events
(
    kind          LowCardinality(String)  COMMENT 'Type of the record, or malformed',
    tenant_id     LowCardinality(String)  COMMENT 'Empty where the record names none',
    execution_id  String                  COMMENT 'Empty where the record names none',
    appended_at   DateTime64(3, 'UTC')    COMMENT 'When the broker appended it' CODEC(Delta, ZSTD(1)),
    topic         LowCardinality(String),
    topic_id      UUID                    COMMENT 'With partition and offset: the identity of the record, also after the topic is made anew',
    partition     UInt32,
    offset        UInt64                  COMMENT 'Rises, but not by one: transaction markers and aborted records use offsets too' CODEC(Delta, ZSTD(1)),
    event_id      String                  COMMENT 'What happened; equal where the same thing was said twice',
    failure_id    String,
    recovery_id   String,
    command_id    String,
    attempt       UInt16                  COMMENT 'Of the command, outcome or settled attempt; of a failure: the attempt that failed',
    failure_type  LowCardinality(String)  COMMENT 'Category of the verdict',
    subtype       LowCardinality(String),
    severity      LowCardinality(String),
    strategy      LowCardinality(String),
    status        LowCardinality(String)  COMMENT 'How it ended; of a disposition: its kind',
    reason        LowCardinality(String)  COMMENT 'Why it ended so; of a malformed record: why it is none',
    cost_microusd UInt64,
    duration_s    Float64,
    traceparent   String                  COMMENT 'W3C trace context that came with the record',
    body          String                  COMMENT 'The decoded record as JSON, secrets masked; empty where malformed' CODEC(ZSTD(3)),
    sha256        FixedString(32)         COMMENT 'Digest of the bytes on the topic',
    size_bytes    UInt32                  COMMENT 'Size of the bytes on the topic',
    INDEX by_execution execution_id TYPE bloom_filter GRANULARITY 1,
    INDEX by_failure   failure_id   TYPE bloom_filter GRANULARITY 1,
    INDEX by_recovery  recovery_id  TYPE bloom_filter GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(appended_at)
ORDER BY (kind, tenant_id, execution_id, appended_at, topic_id, partition, offset)
-- Offsets are committed after the insert: what was inserted must survive a power cut.
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Every record of every audited topic, with physical repeats; read v_events for each once';

CREATE OR REPLACE VIEW v_events AS
SELECT * REPLACE (lower(hex(sha256)) AS sha256)
FROM audit_events
LIMIT 1 BY kind, tenant_id, execution_id, topic_id, partition, offset
COMMENT 'Every record of every audited topic, each exactly once';

CREATE OR REPLACE VIEW v_coverage AS
SELECT
    topic,
    topic_id,
    partition,
    count() AS rows,
    uniqExact(offset) AS records,
    rows - records AS repeats,
    uniqExact(offset, sha256) - records AS conflicts,
    min(offset) AS first_offset,
    max(offset) AS last_offset,
    max(appended_at) AS last_appended_at
FROM audit_events
GROUP BY topic, topic_id, partition
COMMENT 'What is held of each partition. repeats: inserted more than once after a crash, harmless. conflicts: one offset, two contents: never right';
