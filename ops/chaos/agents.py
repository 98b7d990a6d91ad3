"""Agents as a process: fail, obey commands, answer; remember in a file what they did: `python -m ops.chaos.agents`.

They speak JSON, as a runtime in another language would, and know nothing of the product but its topics. Killed
and started again they read their file, then every command from the beginning, and go on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

FAILURES: Final = "agent.failures.v1"
OUTCOMES: Final = "agent.outcomes.v1"
COMMANDS: Final = "recovery.commands.v1"
LONG_WORK: Final = ("async_execution", "exponential_backoff")
"""Commands whose outcome is waited for longer than a run lasts: these agents are never silent on them."""

KINDS: Final[tuple[dict[str, Any], ...]] = (
    {"tool_response": {"tool": "payments", "status_code": 429, "headers": {"retry-after": "1"}}},
    {"tool_response": {"tool": "crm", "status_code": 401}},
    {"tool_response": {"tool": "quotes", "status_code": 503, "fallbacks": ["quotes-2"]}},
    {"tool_response": {"tool": "search", "error": "Connection timeout after 30s"}},
    {"output": {"apr": 0}, "constraints": {"apr": {"type": "range", "min": 2.5, "max": 8.5}}},
    {
        "output": {"product": "Unknown_Product_V47"},
        "constraints": {"product": {"type": "enum", "values": ["Savings", "Checking", "Credit", "Loan"]}},
    },
    {"conclusion": "cheap, so good", "expected_output": {"correct_conclusion": "compare features with price"}},
    {"metrics": {"duration_s": 45, "timeout_s": 30}},
    {"metrics": {"memory_bytes": 3_000_000_000, "memory_limit_bytes": 2_000_000_000}},
    {"metrics": {"tokens": 5000, "token_limit": 4000}},
)


def draw(*parts: str) -> int:
    """A number below 100 that follows from `parts` alone: a restarted agent decides the same."""
    return int.from_bytes(hashlib.sha256("|".join(parts).encode()).digest()[:4], "big") % 100


class Agents:
    """Execution numbers `shard`, `shard + shards`, ... below `count`."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._log = Path(args.log).open("a", buffering=1)  # noqa: SIM115  open as long as the process
        self._acked: set[str] = set()
        self._taken: dict[str, list[int]] = {}
        self._answered: set[str] = set()
        self._unanswered: list[dict[str, Any]] = []
        self._lost: list[tuple[str, dict[str, Any], Callable[[Message], None]]] = []
        for line in Path(args.log).read_text().splitlines():
            self._remember(json.loads(line))
        self._producer = Producer(
            {
                "bootstrap.servers": args.bootstrap,
                "partitioner": args.partitioner,
                "enable.idempotence": True,
                "linger.ms": 2,
                "batch.size": 48 * 1024,
                "delivery.timeout.ms": 600_000,
            }
        )
        self._consumer = Consumer(
            {
                "bootstrap.servers": args.bootstrap,
                "group.id": f"chaos-agents-{args.shard}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 50,
            }
        )

    def run(self) -> None:
        stop: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
        partitions = self._consumer.list_topics(COMMANDS, timeout=60).topics[COMMANDS].partitions
        self._consumer.assign([TopicPartition(COMMANDS, number, 0) for number in partitions])
        begun, due = time.monotonic(), 0
        numbers = iter(range(self._args.shard, self._args.count, self._args.shards))
        number = next(numbers, None)
        while not stop:
            allowed = (time.monotonic() - begun) * self._args.rate
            while number is not None and due < allowed and len(self._producer) < 5000:
                due += self._fail(number)
                number = next(numbers, None)
            self._producer.poll(0)
            for message in self._consumer.consume(200, 0.02):
                self._command(message)
            lost, self._lost = self._lost, []
            for each in lost:
                self._send(*each)
            again, self._unanswered = self._unanswered, []
            for command in again:
                self._obey(command)
        self._producer.flush(30)
        self._consumer.close()

    def _remember(self, entry: dict[str, Any]) -> None:
        match entry["did"]:
            case "failure-acked":
                self._acked.add(entry["failure_id"])
            case "took":
                self._taken[entry["execution_id"]] = entry["fence"]
                self._unanswered.append(entry["command"])
            case "answered":
                self._answered.add(entry["command_id"])

    def _write(self, **entry: Any) -> None:
        self._log.write(json.dumps(entry) + "\n")
        self._remember(entry)

    def _fail(self, number: int) -> int:
        execution = f"x-{number}"
        failure_id = f"{execution}-f"
        if failure_id in self._acked:
            return 0
        self._report(execution, failure_id, {})
        if draw(failure_id, "twice") < 2:
            self._report(execution, failure_id, {})
        return 1

    def _report(self, execution: str, failure_id: str, more: dict[str, Any], answers: str | None = None) -> None:
        number = int(execution.removeprefix("x-"))
        event = {
            "tenant_id": f"tenant-{number % 7}",
            "execution_id": execution,
            "failure_id": failure_id,
            "agent": {"id": f"agent-{number % 3}"},
            "error": {"class": "RunFailed", "message": f"run of {execution} failed"},
            "checkpoint": {"id": f"{execution}-c", "data": {"step": number}},
            "side_effects_since_checkpoint": "none",
            "reply_format": "json",
            **KINDS[number % len(KINDS)],
            **more,
        }

        def acked(message: Message) -> None:
            place = [message.partition(), message.offset()]
            self._write(did="failure-acked", failure_id=failure_id, execution_id=execution, place=place)
            if answers:
                self._write(did="answered", command_id=answers, how="failed-again")

        self._send(FAILURES, event, acked)

    def _send(self, topic: str, record: dict[str, Any], acked: Callable[[Message], None]) -> None:
        key = f"{record['tenant_id']}/{record['execution_id']}"

        def reported(error: KafkaError | None, message: Message) -> None:
            # A record delivered at no offset was called a duplicate by the broker, and may stand in no log.
            if error is not None or message.offset() is None:
                self._lost.append((topic, record, acked))
            else:
                acked(message)

        self._producer.produce(topic, json.dumps(record).encode(), key.encode(), on_delivery=reported)

    def _command(self, message: Message) -> None:
        if message.error():
            return
        command = json.loads(message.value() or b"{}")
        number = command.get("execution_id", "").removeprefix("x-")
        if not number.isdigit() or int(number) % self._args.shards != self._args.shard:
            return
        fence = [command["fence"]["offset"], command["fence"]["attempt"]]
        if fence <= self._taken.get(command["execution_id"], [-1, 0]):
            return
        wanted = ("command_id", "recovery_id", "attempt", "tenant_id", "execution_id", "strategy")
        kept = {name: command[name] for name in wanted}
        self._write(did="took", execution_id=command["execution_id"], fence=fence, command=kept)

    def _obey(self, command: dict[str, Any]) -> None:
        command_id = command["command_id"]
        if command_id in self._answered:
            return
        luck = draw(command_id)
        if luck < 12:
            resumed_by = {"recovery_id": command["recovery_id"], "attempt": command["attempt"]}
            again = f"{command['execution_id']}-f{command['attempt']}"
            self._report(command["execution_id"], again, {"resumed_by": resumed_by}, answers=command_id)
        elif luck < 15 and command["strategy"] not in LONG_WORK:
            self._write(did="answered", command_id=command_id, how="silent")
        else:
            status = "not_applied" if luck < 18 else "succeeded"
            self._answer(command, status)
            if luck > 95:
                self._answer(command, status)

    def _answer(self, command: dict[str, Any], status: str) -> None:
        names = ("command_id", "recovery_id", "attempt", "tenant_id", "execution_id")
        outcome = {name: command[name] for name in names} | {"status": status, "applied": "all", "duration_s": 0.1}

        def acked(_: Message) -> None:
            self._write(did="answered", command_id=command["command_id"], how=status)

        self._send(OUTCOMES, outcome, acked)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--shard", type=int, default=0)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="failures per second")
    parser.add_argument("--partitioner", default="murmur2_random")
    Agents(parser.parse_args()).run()


if __name__ == "__main__":
    main()
