"""Workers as processes on a broker of the module's own, a load for them, and a reader of what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from recover_broker import Load, Reader, worker

from ops.broker import Broker
from ops.runtime import topics
from ops.runtime.child import Child
from ops.runtime.settings import Settings


@pytest.fixture(scope="module")
def ours(fresh_kafka: Broker) -> Settings:
    settings = Settings(bootstrap=fresh_kafka.bootstrap, app="recover-test")
    topics.create(settings)
    return settings


@pytest.fixture
def start(ours: Settings, tmp_path: Path) -> Iterator:  # type: ignore[type-arg]
    """Starts workers; whatever is left of them is killed, and their logs are shown."""
    started: list[tuple[Child, Path]] = []

    def start(**options: object) -> Child:
        log = tmp_path / f"worker-{len(started)}.log"
        started.append((worker(ours, log, **options), log))  # type: ignore[arg-type]
        return started[-1][0]

    yield start
    for child, log in started:
        if child.exit_code is None:
            child.stop(10)
        print(f"--- {log.name}: {child.exit_code}\n{log.read_text()}")


@pytest.fixture
def reader(ours: Settings, request: pytest.FixtureRequest) -> Iterator[Reader]:
    reader = Reader(ours, _tenant(request))
    yield reader
    reader.close()


@pytest.fixture
def load(ours: Settings, request: pytest.FixtureRequest) -> Load:
    return Load(ours, _tenant(request))


def _tenant(request: pytest.FixtureRequest) -> str:
    return request.node.name.replace("[", "-").replace("]", "")[-60:]
