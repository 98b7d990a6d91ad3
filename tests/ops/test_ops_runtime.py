"""What workers share, as far as it needs no broker."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from ops.runtime import failpoints, logs
from ops.runtime.child import Child
from ops.runtime.delivery import delivery_error
from ops.runtime.settings import Settings

Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def test_a_failpoint_acts_at_its_hit_only() -> None:
    failpoints.arm("a=raise@2, b=raise")
    failpoints.hit("a")
    with pytest.raises(failpoints.FailpointError):
        failpoints.hit("a")
    failpoints.hit("a")
    for _ in range(2):
        with pytest.raises(failpoints.FailpointError):
            failpoints.hit("b")
    failpoints.hit("c")


def test_a_pause_is_as_long_as_it_says() -> None:
    failpoints.arm("a=pause:0.05@1")
    began_s = time.monotonic()
    failpoints.hit("a")
    assert time.monotonic() - began_s >= 0.05


@pytest.mark.parametrize("text", ["a", "a=explode", "a=exit@0", "a=pause", "a=raise:1", "a=exit@x", "=exit"])
def test_a_typo_in_failpoints_stops_the_process(text: str) -> None:
    """A failpoint that is silently ignored makes a crash test that tests nothing."""
    done = subprocess.run(
        [sys.executable, "-c", "import ops.runtime.failpoints"],
        env=os.environ | {failpoints.VARIABLE: text},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "ValueError" in done.stderr


def test_exit_runs_no_cleanup() -> None:
    """As after SIGKILL: neither `finally` nor atexit."""
    code = (
        "import atexit\nfrom ops.runtime.failpoints import hit\natexit.register(print, 'atexit')\n"
        "try:\n    hit('x'); print('first'); hit('x')\nfinally:\n    print('finally')"
    )
    done = subprocess.run(
        [sys.executable, "-uc", code],
        env=os.environ | {failpoints.VARIABLE: "x=exit@2"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (failpoints.EXIT_CODE, "first\n")


@given(st.text())
def test_a_log_line_is_one_line(text: str) -> None:
    """What an agent wrote can neither end a line nor move a terminal's cursor."""
    formatter = logs._OneLine("%(message)s")
    try:
        raise ValueError(text)
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "%s", (text,), sys.exc_info())
    line = formatter.format(record)
    assert len(line.splitlines()) <= 1
    assert not any(ord(c) < 32 and c != "\t" for c in line)


def test_settings_reach_librdkafka_and_hide_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMIUM_SASL_PASSWORD", "hunter2")
    settings = Settings(security_protocol="SASL_SSL", sasl_mechanism="PLAIN", sasl_username="u")
    assert settings.kafka()["sasl.password"] == "hunter2"
    assert "hunter2" not in repr(settings)


def test_a_child_dies_with_a_killed_parent(eventually: Eventually) -> None:
    code = (
        "import time\nfrom ops.runtime.child import Child\n"
        "c = Child(['sleep', '99']); print(c.pid, flush=True); time.sleep(99)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    eventually(lambda: _gone(pid))


def test_a_child_that_ended_is_not_signalled_again() -> None:
    """Its number may be another process's by then."""
    child = Child(["true"])
    assert child.wait(10) == 0
    child.signal(signal.SIGKILL)
    assert (child.exit_code, child.pid, child.stop(1), child.kill()) == (0, None, 0, 0)


def test_an_end_is_seen_by_all_threads_that_look() -> None:
    """Of a supervisor's thread and one that kills, each may be the first to see it."""
    codes: list[int] = []
    looking = threading.Barrier(8)

    def look(child: Child) -> None:
        looking.wait()
        while (code := child.exit_code) is None:
            """Look again."""
        codes.append(code)

    for _ in range(20):
        child = Child(["true"])
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(look, [child] * 8))
    assert codes == [0] * 160


def _gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


class _Report:
    def __init__(self, offset: int | None) -> None:
        self._offset = offset

    def offset(self) -> int | None:
        return self._offset


def test_a_record_delivered_at_no_offset_is_not_delivered() -> None:
    """librdkafka calls a batch delivered that the broker took for a duplicate, though it may stand in no log."""
    refused = KafkaError(KafkaError._MSG_TIMED_OUT)
    assert delivery_error(None, _Report(0)) is None  # type: ignore[arg-type]
    assert delivery_error(refused, _Report(None)) is refused  # type: ignore[arg-type]
    doubt = delivery_error(None, _Report(None))  # type: ignore[arg-type]
    assert doubt is not None
    assert doubt.code() == KafkaError._FAIL
