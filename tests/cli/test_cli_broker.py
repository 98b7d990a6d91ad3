"""Commands that ask the broker, and the supervisor of the workers."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from cli.context import ExitCode
from cli.main import app
from ops.broker import Broker
from ops.runtime.child import Child
from ops.runtime.settings import Settings
from schemas.codec import encode
from schemas.records import FailureEvent
from schemas.topics import DISPOSITIONS, FAILURES, TOPICS

pytestmark = pytest.mark.integration
Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    with Broker() as broker:
        yield broker.bootstrap


def _omium(bootstrap: str, *args: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["--bootstrap", bootstrap, *args], env={"OMIUM_CLICKHOUSE": "http://127.0.0.1:1"})
    return done.exit_code, done.stdout


def _checks(bootstrap: str) -> dict[str, str]:
    return {check["name"]: check["status"] for check in json.loads(_omium(bootstrap, "doctor", "--json")[1])}


def test_topics_and_doctor(bootstrap: str) -> None:
    assert _checks(bootstrap)["topics"] == "failed"
    code, text = _omium(bootstrap, "topics", "create", "--json")
    assert (code, len(json.loads(text)["created"])) == (ExitCode.OK, len(TOPICS))
    code, text = _omium(bootstrap, "topics", "create", "--json")
    assert (code, json.loads(text)) == (ExitCode.OK, {"created": []})
    code, text = _omium(bootstrap, "topics", "list", "--json")
    assert {state["partitions"] for state in json.loads(text)} == {4}
    _, text = _omium(bootstrap, "topics", "list")
    assert [line.split()[0] for line in text.splitlines()[1:]] == [topic.name for topic in TOPICS]
    found = _checks(bootstrap)
    assert found.pop("clickhouse") == "failed"
    assert set(found.values()) == {"ok"}


def test_tail_shows_what_is_there_and_what_is_wrong_with_it(bootstrap: str) -> None:
    _omium(bootstrap, "topics", "create")
    settings = Settings(bootstrap=bootstrap)
    producer = Producer(settings.producer())
    event = FailureEvent(tenant_id="acme", execution_id="run-1", output='{"apr":0}')
    message = encode(FAILURES, event, source="test")
    for value in (message.value, b"{}", b"\xff"):
        producer.produce(FAILURES.name, value, key=message.key, headers=message.headers)
    assert producer.flush(60) == 0

    code, text = _omium(bootstrap, "tail", "failures", "--from-start", "--no-follow", "--json")
    documents = [json.loads(line) for line in text.splitlines()]
    assert code == ExitCode.OK
    assert [document["key"] for document in documents] == ["acme/run-1"] * 3
    assert documents[0]["record"]["output"] == {"apr": 0}
    assert [document.get("reason") for document in documents] == [None, "invalid", "not_utf8"]

    code, text = _omium(bootstrap, "tail", "agent.failures.v1", "-n", "1", "--no-follow")
    assert (code, text.count("not_utf8"), text.count("\n")) == (ExitCode.OK, 1, 1)


def test_tail_to_the_end_is_in_order_of_time(bootstrap: str) -> None:
    _omium(bootstrap, "topics", "create")
    producer = Producer(Settings(bootstrap=bootstrap).producer())
    for number in range(40):
        producer.produce(DISPOSITIONS.name, str(number).encode(), partition=number * 7 % 4)
        assert producer.flush(60) == 0
        time.sleep(0.002)  # so that no two have the same time
    code, text = _omium(bootstrap, "tail", "dispositions", "--from-start", "--no-follow", "--json")
    documents = [json.loads(line) for line in text.splitlines()]
    assert (code, len(documents)) == (ExitCode.OK, 40)
    assert [document["partition"] for document in documents] == [number * 7 % 4 for number in range(40)]


def test_all_workers_come_back_and_stop_together(bootstrap: str, tmp_path: Path, eventually: Eventually) -> None:
    """A killed worker is started again; SIGTERM to the supervisor ends all in order, SIGKILL leaves none behind."""
    log = tmp_path / "all.log"
    environment = {"OMIUM_BOOTSTRAP": bootstrap, "OMIUM_CLICKHOUSE": f"chdb://{tmp_path / 'db'}", "OMIUM_APP": "all"}
    command = [sys.executable, "-m", "cli.main", "worker", "all"]

    def pids(name: str) -> list[int]:
        return [int(line.split()[-1]) for line in log.read_text().splitlines() if f" {name} runs as process " in line]

    first = Child(command, log=log, env=os.environ | environment)
    try:
        eventually(lambda: len(pids("audit")) == 1)
        os.kill(pids("recover")[0], signal.SIGKILL)
        eventually(lambda: len(pids("recover")) == 2)
        assert first.stop(60) == ExitCode.OK
        assert all(_gone(pid) for name in ("streams", "recover", "audit") for pid in pids(name))
    finally:
        first.kill()

    second = Child(command, log=log, env=os.environ | environment)
    eventually(lambda: len(pids("audit")) == 1)
    second.kill()
    eventually(lambda: all(_gone(pid) for name in ("streams", "recover", "audit") for pid in pids(name)))


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True
