"""With the broker gone, slow or wrong, the agent gets its own exception, and soon."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from omium import Agent, Omium
from omium.clock import BrokerClock
from omium.codec import Message
from omium.outbox import Outbox
from orchestrator import Orchestrator, eventually

from ops.broker import Broker
from ops.runtime import topics
from ops.runtime.settings import Settings


@pytest.fixture
def dead_port() -> Iterator[str]:
    """An address that is ours, and where nobody listens."""
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def test_dead_port(dead_port: str) -> None:
    """Once it is known that nobody is there, a failing step does not wait at all, however long it might."""
    with Omium(dead_port, "acme", wait_s=3600) as client:
        eventually(lambda: client.unreachable)

        @client.step("apr")
        def propose() -> None:
            raise ValueError("APR = 0")

        for _ in range(50):
            with pytest.raises(ValueError, match="APR = 0"):
                propose()
        client.run("r").checkpoint("c")
        assert client.flush(0) is False
        client.close(timeout_s=0)
    assert client.stats.dropped == 51
    assert client.stats.delivered == 0


def test_the_queue_is_bounded(dead_port: str) -> None:
    with Omium(dead_port, "acme", wait_s=0, queue_records=10) as client:
        for _ in range(100):
            client.run("r").report("no")
        assert client.stats.dropped == 90
        client.close(timeout_s=0)


def test_a_listener_that_never_answers() -> None:
    """The connection stands and nothing comes: the agent waits `wait_s`, and no longer."""

    def propose() -> None:
        raise ValueError("APR = 0")

    with (
        closing(socket.create_server(("127.0.0.1", 0))) as server,
        Omium(f"127.0.0.1:{server.getsockname()[1]}", "acme", wait_s=0.2) as client,
    ):
        with pytest.raises(ValueError, match="APR = 0"):
            client.step("apr")(propose)()
        client.close(timeout_s=0)


def test_settings_that_no_client_takes(caplog: pytest.LogCaptureFixture) -> None:
    """A wrong setting is logged; the agent runs on."""
    with caplog.at_level(logging.ERROR), Omium("127.0.0.1:1", "acme", wait_s=0.1, no_such_setting="x") as client:

        @client.step("apr")
        def propose() -> None:
            raise ValueError("APR = 0")

        with pytest.raises(ValueError, match="APR = 0"):
            propose()
    assert "no_such_setting" in caplog.text.replace(".", "_")


@pytest.mark.integration
def test_killed_mid_wait_and_back() -> None:
    """Killed while a step waits: its own exception. Back again: the same client goes on, and nothing queued is lost."""
    with Broker() as broker:
        topics.create(Settings(bootstrap=broker.bootstrap))
        with Omium(broker.bootstrap, "acme", Agent(id="loan"), wait_s=2) as client:
            assert client.ready(15)
            killing = threading.Thread(target=broker.kill)

            @client.step("apr", execution="run-1")
            def propose() -> None:
                killing.start()
                raise ValueError("APR = 0")

            with pytest.raises(ValueError, match="APR = 0"):
                propose()
            killing.join()
            client.run("run-2").report("while it was gone", checkpoint="c")
            broker.restart()
            with Orchestrator(broker.bootstrap, "acme") as orchestrator:
                orchestrator.answer = lambda heard: heard.command()
                run = client.run("run-3")
                command = run.wait(run.report("after", checkpoint="c"), 20)
                assert command is not None
                run.succeeded(command)
                orchestrator.outcomes()
            assert client.flush(20)
            assert client.stats.dropped == 0


def test_posting_never_waits_for_the_sender() -> None:
    """Even with a sender that is stuck, `post` returns."""
    outbox = Outbox({"bootstrap.servers": "127.0.0.1:1"}, BrokerClock(), lambda: False, 100)
    for n in range(200):
        assert outbox.post(Message("t", b"k", b"v", [], "id")) is (n < 100)
    assert outbox.dropped == 100


@pytest.mark.integration
def test_a_burst_is_not_refused_as_one_batch(bootstrap: str, tenant: str) -> None:
    """The broker bounds batches, not records: a hundred reports at once must not become one that is too large."""
    with Orchestrator(bootstrap, tenant) as orchestrator, Omium(bootstrap, tenant, wait_s=0) as client:
        assert client.ready(20)
        for n in range(100):
            client.run("one-execution").report("x" * 8_000, checkpoint=f"c-{n}")
        assert client.flush(30)
        assert client.stats.dropped == 0
        assert len(orchestrator.failures(100)) == 100


class _DeliveredNowhere:
    """A delivery report as librdkafka gives it where the broker answered DUPLICATE_SEQUENCE_NUMBER."""

    def offset(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 0, -1


def test_what_was_delivered_nowhere_is_sent_again_once() -> None:
    outbox = Outbox({"bootstrap.servers": "127.0.0.1:1"}, BrokerClock(), lambda: False, 100)
    message = Message("t", b"k", b"v", [], "id")
    assert outbox.post(message)
    outbox._waiting.popleft()  # It is on its way.
    outbox._settled(message, 0.0, False, None, _DeliveredNowhere())  # type: ignore[arg-type]
    assert [waiting for waiting, _, _ in outbox._waiting] == [message]
    assert outbox.delivered == 0
    outbox._waiting.popleft()
    outbox._settled(message, 0.0, True, None, _DeliveredNowhere())  # type: ignore[arg-type]
    assert not outbox._waiting
    assert outbox.delivered == 1


_SCRIPT = """
import sys
from omium import Omium
client = Omium(sys.argv[1], sys.argv[2], wait_s=0)
client.run("exits").report("last words", checkpoint="c")
raise SystemExit(3)
"""


@pytest.mark.integration
def test_last_words(bootstrap: str, tenant: str) -> None:
    """A process that fails and exits at once has still said so: the interpreter's exit sends what is queued."""
    with Orchestrator(bootstrap, tenant) as orchestrator:
        ended = subprocess.run([sys.executable, "-c", _SCRIPT, bootstrap, tenant], timeout=60)
        assert ended.returncode == 3
        [failure] = orchestrator.failures()
    assert failure.error is not None
    assert failure.error.message == "last words"


def test_exit_with_nobody_there(dead_port: str) -> None:
    ended = subprocess.run([sys.executable, "-c", _SCRIPT, dead_port, "acme"], timeout=60)
    assert ended.returncode == 3


_FORK = """
import os, sys
from omium import Omium
client = Omium(sys.argv[1], sys.argv[2], wait_s=0)
client.run("parent").report("parent", checkpoint="c")
child = os.fork()
if child == 0:
    client.run("child").report("child", checkpoint="c")
    os._exit(0 if client.flush(30) else 1)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status) or not client.flush(30))
"""


@pytest.mark.integration
def test_forked(bootstrap: str, tenant: str) -> None:
    """A server that forks its workers after import: the child connects anew."""
    with Orchestrator(bootstrap, tenant) as orchestrator:
        ended = subprocess.run([sys.executable, "-c", _FORK, bootstrap, tenant], timeout=90, env={**os.environ})
        assert ended.returncode == 0
        assert sorted(failure.execution_id for failure in orchestrator.failures(2)) == ["child", "parent"]
