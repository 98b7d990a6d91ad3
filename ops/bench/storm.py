"""What a storm of one tenant's failures on one tool does to everybody else's recoveries; the storm is a process:

python -m ops.bench.storm BOOTSTRAP RATE SECONDS     that many rate-limited failures a second, each of its own run
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Consumer, Producer, TopicPartition

from ops.bench.latency import SERVER_JVM, Latency, measure, workers
from ops.bench.load import failure
from ops.broker import Broker
from ops.runtime import topics
from ops.runtime.settings import Settings
from schemas.codec import encode
from schemas.flows import dependency_header
from schemas.records import ToolResponse
from schemas.topics import COMMANDS, FAILURES

TENANT: Final = "bench-0"
"""One of those whose other failures are measured."""
RATE: Final = 5_000
_OTHERS_PER_S: Final = 50
_WARM_UP_S: Final = 20.0
"""Before each of the two. A storm's first ten seconds cost a broker's Java machine 0.4 of a core for its compiler."""
_LONGEST_S: Final = 600.0
_PREFIX: Final = "storm"


@dataclass(frozen=True)
class Storm:
    """Latencies of the others, before and during the storm."""

    quiet: Latency
    stormy: Latency
    commands: int
    """That runs of the storm were resumed with."""


def send(bootstrap: str, rate: int, seconds: float) -> None:
    """The storm."""
    producer = Producer(Settings(bootstrap=bootstrap).producer(**{"linger.ms": 5}))
    limited = ToolResponse(tool="search", status_code=429, error="slow down", headers={"Retry-After": "2"})
    name = f"{_PREFIX}-{0:08}"
    fields = {"tenant_id": TENANT, "tool_response": limited, "execution_id": name, "failure_id": name}
    event = failure(1).model_copy(update=fields)
    record = encode(FAILURES, event, source="bench", trace=dependency_header(event))
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        # Encoded once: whoever storms has other machines for it.
        this = f"{_PREFIX}-{number:08}".encode()
        value, key = record.value.replace(name.encode(), this), record.key.replace(name.encode(), this)
        if (wait := began + number / rate - time.perf_counter()) > 0.002:
            time.sleep(wait)
        producer.produce(record.topic, value, key, headers=[*record.headers])
        producer.poll(0)
    producer.flush()


def run(seconds: float) -> Storm:
    """The others for `seconds` without, then for `seconds` in the storm, twenty after it began."""
    with Broker(jvm=SERVER_JVM) as broker:
        settings = Settings(bootstrap=broker.bootstrap, app="storm")
        topics.create(settings)
        with workers(settings, govern="processors.govern.main"):
            measure(settings, _OTHERS_PER_S, _WARM_UP_S, "warm")
            quiet = measure(settings, _OTHERS_PER_S, seconds, "quiet")
            command = [sys.executable, "-m", "ops.bench.storm", broker.bootstrap, str(RATE), str(_LONGEST_S)]
            with subprocess.Popen(command) as storm:
                measure(settings, _OTHERS_PER_S, _WARM_UP_S, "begun")
                stormy = measure(settings, _OTHERS_PER_S, seconds, "stormy")
                storm.terminate()
        return Storm(quiet, stormy, _commands(settings))


def _commands(settings: Settings) -> int:
    """How many of the storm's runs were told to resume."""
    consumer = Consumer(settings.kafka(**{"group.id": "storm-count", "enable.partition.eof": True}))
    consumer.assign([TopicPartition(COMMANDS.name, p, 0) for p in range(settings.partitions)])
    found, left = 0, settings.partitions
    while left:
        if (record := consumer.poll(1)) is None:
            continue
        if record.error() is not None:
            left -= 1
        else:
            found += (record.key() or b"").startswith(f"{TENANT}/{_PREFIX}-".encode())
    consumer.close()
    return found


if __name__ == "__main__":
    send(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
