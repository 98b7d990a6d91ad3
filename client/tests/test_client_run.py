"""Commands by hand: which are given out, when, and to whom."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from omium import Command, Omium
from orchestrator import Heard, Orchestrator
from test_client_step import TEXT, ladder

pytestmark = pytest.mark.integration


def test_the_trace_goes_on_from_command_to_outcome(client: Omium, orchestrator: Orchestrator) -> None:
    orchestrator.answer = ladder(TEXT)
    trace = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    run = client.run("loan-13")
    command = run.wait(run.report("APR = 0", traceparent=trace, checkpoint="c"))
    assert command is not None
    assert command.traceparent == trace
    run.running(command)
    run.succeeded(command, {"apr": 4}, retry_count=2)
    beat, outcome = orchestrator.outcomes(2)
    assert (beat.status, beat.applied, beat.command_id) == ("running", "unknown", command.command_id)
    assert outcome.retry_count == 2
    assert dict(orchestrator.heard[-1].trace)["traceparent"] == trace.encode()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"lives_s": -5}, "expired"),
        ({"failure_id": "of another life"}, "not current"),
        ({"starts_in_s": 3600}, "begins too late"),
    ],
)
def test_commands_that_are_not_followed(client: Omium, orchestrator: Orchestrator, fields: Any, why: str) -> None:
    run = client.run("loan-14")
    first = run.report("APR = 0", checkpoint="c")
    orchestrator.failures()
    heard = Heard(orchestrator.heard[-1], 0, 5)
    orchestrator.command(heard.command(TEXT, **{"failure_id": first} | fields))
    orchestrator.command(heard.command(TEXT, attempt=2))
    command = run.wait(first)
    assert command is not None
    assert command.attempt == 2, why


def test_a_command_is_followed_once(client: Omium, orchestrator: Orchestrator) -> None:
    """Repeated, and below one that was followed: neither is given out."""
    run = client.run("loan-15")
    failure_id = run.report("APR = 0", checkpoint="c")
    orchestrator.failures()
    heard = Heard(orchestrator.heard[-1], 0, 5)
    second, third = heard.command(TEXT, attempt=2), heard.command(TEXT, attempt=3)
    for each in (second, second, heard.command(TEXT, attempt=1), third):
        orchestrator.command(each)
    taken: list[int] = []
    for _ in range(2):
        command = run.wait(failure_id)
        assert command is not None
        taken.append(command.attempt)
        run.not_applied(command, "no")
    assert taken == [2, 3]
    assert client.stats.refused == 2


def test_committed_commands_only(bootstrap: str, tenant: str, client: Omium, orchestrator: Orchestrator) -> None:
    """A command of a transaction that is aborted was never given."""
    from confluent_kafka import Producer

    from schemas import codec, topics

    run = client.run("loan-19")
    failure_id = run.report("APR = 0", checkpoint="c")
    orchestrator.failures()
    heard = Heard(orchestrator.heard[-1], 0, 5)
    producer = Producer(
        {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "transactional.id": tenant, "log_level": 2}
    )
    producer.init_transactions(10)
    producer.begin_transaction()
    encoded = codec.encode(topics.COMMANDS, heard.command(TEXT, attempt=1), source="test")
    producer.produce(encoded.topic, encoded.value, encoded.key, headers=encoded.headers)
    producer.flush(10)
    producer.abort_transaction(10)
    orchestrator.command(heard.command(TEXT, attempt=2))
    command = run.wait(failure_id)
    assert command is not None
    assert command.attempt == 2


def test_not_before_is_waited_for(client: Omium, orchestrator: Orchestrator) -> None:
    orchestrator.answer = lambda heard: heard.command(TEXT, starts_in_s=0.5)
    run = client.run("loan-20")
    command = run.wait(run.report("APR = 0", checkpoint="c"))
    assert isinstance(command, Command)
    assert client.clock.now() >= command.not_before - timedelta(milliseconds=50)
    assert isinstance(command.not_before, datetime)
