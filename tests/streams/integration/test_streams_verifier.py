"""A verifier is an operator's own code: whatever it does, each failure is answered once, in its execution's order."""

from __future__ import annotations

import signal
from collections import defaultdict
from pathlib import Path

import orjson
import pytest
import streams_checker as checker
from confluent_kafka import Producer
from streams_process import Worker, committed_all, until, workers

from ops.broker import Broker
from ops.runtime import topics
from ops.runtime.settings import Settings
from schemas.topics import FAILURES

pytestmark = pytest.mark.integration

VERIFIER = {"OMIUM_VERIFIER": "streams_verifiers:Verifier"}
PLAIN = "plain"
BROKEN = ("raises", "times out", "babbles", "judges another claim", "bytes")


def fail(settings: Settings, claims: list[tuple[str, str]]) -> None:
    """Failures (execution, what it assumed), in order."""
    producer = Producer(settings.producer())
    for execution, claim in claims:
        reasoning = [] if claim == PLAIN else [{"assumption": claim}]
        event = {"tenant_id": "t", "execution_id": execution, "reasoning": reasoning}
        producer.produce(FAILURES.name, orjson.dumps(event), f"t/{execution}")
    assert producer.flush(30) == 0


def answered(settings: Settings, executions: set[str]) -> bool:
    return executions <= {execution for execution, *_ in verdicts(settings)}


def verdicts(settings: Settings) -> list[tuple[str, int, str, str]]:
    """(execution, offset of the failure, subtype, details) of each answer, in the order of its partition."""
    found = []
    for *_, value in checker.read(settings.bootstrap, *checker.OPTIONS):
        options = checker.avro("recovery_options", value or b"")
        verdict = options["classification"]
        found.append((options["execution_id"], options["origin"]["offset"], verdict["subtype"], verdict["details"]))
    return found


@pytest.fixture
def one_partition(fresh_kafka: Broker) -> Settings:
    settings = Settings(bootstrap=fresh_kafka.bootstrap, app="verifier", partitions=1)
    topics.create(settings)
    return settings


def test_each_failure_is_answered_once_whatever_the_verifier_does(one_partition: Settings, tmp_path: Path) -> None:
    settings = one_partition
    asked = tmp_path / "asked"
    with workers() as started:
        started.append(Worker(settings, **VERIFIER, OMIUM_VERIFIER_TIMEOUT_S="2"))
        until(started[0].ready, "not ready")
        broken = [(claim, claim) for claim in BROKEN]
        fail(settings, [("late", "slow"), ("late", PLAIN), ("late", PLAIN), *broken, ("honest", "the sky is green")])
        fail(settings, [("other", PLAIN)])
        until(lambda: committed_all(settings, FAILURES.name), "not committed")
        figures = started[0].metrics()
        found = verdicts(settings)
        assert len(found) == len(BROKEN) + 5
        by_execution = defaultdict(list)
        for execution, offset, subtype, _ in found:
            by_execution[execution].append((offset, subtype))
        assert by_execution["late"] == [(0, "unknown"), (1, "unknown"), (2, "unknown")]
        assert {by_execution[claim][0][1] for claim in BROKEN} == {"unknown"}
        order = [execution for execution, *_ in found if execution != "honest"]
        # Who waits for a verifier holds nobody up but those behind it in the same execution.
        assert order.index("other") < order.index("late")
        (judged,) = (details for execution, *_, details in found if execution == "honest")
        assert orjson.loads(judged)["correct_value"] == "blue"
        for result, times in (("judged", 1), ("timeout", 1), ("error", len(BROKEN))):
            assert f'omium_verifications_total{{result="{result}"}} {times:.1f}' in figures

        # It hangs with its whole thread: who comes meanwhile is answered without it.
        fail(settings, [("b1", "blocking"), ("b2", "the sky is green")])
        until(lambda: answered(settings, {"b1", "b2"}), "a verifier that blocks holds the worker up")
        assert started[0].end(signal.SIGTERM) == 0

        # Ended while it waits: nothing is committed, and the next worker answers.
        started.append(Worker(settings, **VERIFIER, OMIUM_VERIFIER_TIMEOUT_S="60", VERIFIER_TELLS=str(asked)))
        fail(settings, [("ended", "slow")])
        until(asked.exists, "not asked")
        assert started[1].end(signal.SIGTERM) == 0
        assert not committed_all(settings, FAILURES.name)
        started.append(Worker(settings))
        until(lambda: committed_all(settings, FAILURES.name), "not committed after a restart")
        assert answered(settings, {"ended"})
        assert started[2].end(signal.SIGTERM) == 0
    assert checker.unanswered(settings.bootstrap) == set()


def test_a_verifier_that_cannot_be_had_ends_the_worker_at_once(one_partition: Settings) -> None:
    """Else its operator would believe that claims are verified."""
    with workers() as started:
        started.append(Worker(one_partition, OMIUM_VERIFIER="streams_verifiers:Missing"))
        assert started[0].process.wait(60) == 1
