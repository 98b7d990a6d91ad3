"""The real broker for every test that asks for it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from ops.broker import Broker
from ops.runtime.settings import Settings


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Bootstrap address of a broker that this session's tests share (under xdist: this worker's tests)."""
    with Broker() as broker:
        yield broker.bootstrap


@pytest.fixture(scope="module")
def fresh_kafka() -> Iterator[Broker]:
    """A broker of the module's own, that it may kill: 2 s."""
    with Broker() as broker:
        yield broker


Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture
def eventually() -> Eventually:
    """Looks again until a condition holds; fails after a minute."""

    def look(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "did not happen within a minute"
            time.sleep(0.05)

    return look


@pytest.fixture
def settings(kafka: str) -> Settings:
    """Settings for the shared broker, with group names and transactional ids of this test's own."""
    return Settings(bootstrap=kafka, app=f"test-{uuid.uuid4().hex[:8]}", log_level="WARNING")
