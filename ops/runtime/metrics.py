"""Every metric of the product, in one place. Labels are closed sets: never an execution, a tenant or a message."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)

FAILURES_DETECTED = Counter("omium_failures_detected_total", "Failures detected, by category.", ["failure_type"])
RECOVERY_SUCCESS = Counter(
    "omium_recovery_success_total", "Recoveries that succeeded, by the strategy that did.", ["strategy"]
)
RECOVERY_DURATION = Histogram(
    "omium_recovery_duration_seconds",
    "From the broker's time of the failure to the success, by the strategy that succeeded.",
    ["strategy"],
    buckets=_SECONDS,
)
STRATEGY_EFFECTIVENESS = Gauge(
    "omium_strategy_effectiveness", "Share of settled attempts that succeeded over the last seven days.", ["strategy"]
)
ATTEMPTS = Counter("omium_recovery_attempts_total", "Resume commands issued, by strategy.", ["strategy"])
RECOVERIES = Counter("omium_recoveries_total", "Recoveries that ended, by status and reason.", ["status", "reason"])
COMMAND_LATENCY = Histogram(
    "omium_command_latency_seconds",
    "From the broker's time of the failure to its command's commit.",
    buckets=_SECONDS,
)
PENDING_FAILURES = Gauge("omium_pending_failures", "Failures that wait for options or a checkpoint.", ["partition"])
HELD_RECOVERIES = Gauge(
    "omium_held_recoveries", "Recoveries whose next command waits for a permit, a pause or a person.", ["partition"]
)
CIRCUITS = Gauge(
    "omium_circuits",
    "Dependencies that the governor looks after, by the state of their circuit.",
    ["circuit", "partition"],
)
BUDGETS_EXHAUSTED = Gauge("omium_retry_budgets_exhausted", "Dependencies whose retry budget is used up.", ["partition"])
PERMITS = Counter("omium_permits_total", "Permits given, to probe a dependency or to be let go.", ["kind"])
PERMITS_WAITING = Gauge(
    "omium_permits_waiting", "Recoveries that wait for a permit, as the governor knows.", ["partition"]
)
INCIDENTS = Counter("omium_incidents_total", "Words on incidents, by status.", ["status"])
INCIDENTS_OPEN = Gauge("omium_incidents_open", "Incidents that have not ended.", ["partition"])
OPEN_RECOVERIES = Gauge("omium_open_recoveries", "Recoveries that have not ended.", ["partition"])
DISPOSITIONS = Counter("omium_dispositions_total", "Inputs of recover, by what became of them.", ["subject", "kind"])
VERIFICATIONS = Counter(
    "omium_verifications_total",
    "Failures about which a verifier was asked, by what came of it: judged, timeout or error.",
    ["result"],
)
BROKER_CLOCK_OFF = Gauge(
    "omium_broker_clock_off_seconds",
    "How far the brokers' time is ahead of the time that recover goes by, which makes up a jump slowly.",
)
DEAD_LETTERS = Counter("omium_dead_letters_total", "Records nobody could act on.", ["worker", "reason"])
CONSUMER_LAG_RECORDS = Gauge(
    "omium_consumer_lag_records", "Records behind the end of the partition.", ["group", "topic", "partition"]
)
CONSUMER_LAG_SECONDS = Gauge(
    "omium_consumer_lag_seconds",
    "Since the broker appended the first record that the group has not committed.",
    ["group", "topic", "partition"],
)
FLOOD_RECORDS = Gauge(
    "omium_flood_records", "Records of floods that were read and wait; the others overtake them.", ["worker"]
)
AUDIT_ROWS = Counter("omium_audit_rows_total", "Rows inserted into ClickHouse.", ["topic"])
AUDIT_BATCH_AGE = Gauge("omium_audit_batch_age_seconds", "Age of the oldest record that is not yet in ClickHouse.")
AUDIT_INSERT_DURATION = Histogram("omium_audit_insert_duration_seconds", "One insert of a batch.", buckets=_SECONDS)
AUDIT_GAPS = Counter(
    "omium_audit_gaps_total", "Times that retention took records of a partition before they were audited.", ["topic"]
)
TRANSACTION_DURATION = Histogram(
    "omium_transaction_duration_seconds", "One transaction of recover, begin to commit.", buckets=_SECONDS
)
TRANSACTIONS_ABORTED = Counter("omium_transactions_aborted_total", "Transactions aborted or in doubt.", ["cause"])
BUILD_INFO = Gauge("omium_build_info", "Version of this process; always 1.", ["version", "worker"])
