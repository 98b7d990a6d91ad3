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
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

FAILURES: Final = "agent.failures.v1"
OUTCOMES: Final = "agent.outcomes.v1"
COMMANDS: Final = "recovery.commands.v1"
LONG_WORK: Final = ("async_execution", "exponential_backoff", "increase_timeout")
"""Commands whose outcome is waited for longer than a run lasts: these agents are never silent on them."""
LATE_S: Final = 15.0
"""Beyond the deadlines of `policy.toml`; duplicates of failures come so late too."""
MUTE_S: Final = 5.0
"""After SIGUSR1 these agents fail and take commands as before, and say for so long how none of them ended."""
FORGER: Final = "forger"
"""A tenant that speaks of other tenants' recoveries; nothing may come of it."""
GARBAGE: Final = (
    b"\x00\xff not a record",
    b'{"tenant_id": "tenant-0"',
    b'{"tenant_id": "tenant-0", "execution_id": {}, "error": []}',
    b"[" * 5000,
    b"\xc3\x01" + bytes(8) + b"a fingerprint that nobody knows",
    b"\xc3\x01",
)

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
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._refused = 0
        self._mute_until_s = 0.0
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
        signal.signal(signal.SIGUSR1, self._mute)
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
            for message in self._consumer.consume(500, 0.02):
                self._command(message)
            self._belated()
            lost, self._lost = self._lost, []
            for each in lost:
                self._send(*each)
            if time.monotonic() >= self._mute_until_s:
                again, self._unanswered = self._unanswered, []
                for command in again:
                    self._obey(command)
        self._producer.flush(30)
        self._consumer.close()

    def _mute(self, *_: Any) -> None:
        self._mute_until_s = time.monotonic() + MUTE_S

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

    def _wait(self, do: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + LATE_S, do))

    def _belated(self) -> None:
        while self._later and self._later[0][0] < time.monotonic():
            self._later.pop(0)[1]()

    def _fail(self, number: int) -> int:
        execution = f"x-{number}"
        failure_id = f"{execution}-f"
        if failure_id in self._acked:
            return 0
        self._report(execution, failure_id, {})
        luck = draw(failure_id, "more")
        if luck < 2:
            self._report(execution, failure_id, {})
        elif luck < 4 and not self._args.prompt:
            self._wait(lambda: self._report(execution, failure_id, {}))
        elif 4 <= luck < 7:
            # A parallel branch of the run, whose options come on another topic: they may overtake the first's.
            self._report(execution, f"{execution}-b", {}, kind=number + 4)
        elif luck == 7:
            self._throw_garbage(number)
        return 1

    def _throw_garbage(self, number: int) -> None:
        topic = (FAILURES, OUTCOMES)[number % 2]
        garbage = GARBAGE[number // 2 % len(GARBAGE)]

        def reported(error: KafkaError | None, message: Message) -> None:
            if error is None and message.offset() is not None:
                self._write(did="garbage-acked", topic=topic, place=[message.partition(), message.offset()])

        self._producer.produce(topic, garbage, f"tenant-0/x-{number}".encode(), on_delivery=reported)

    def _report(
        self, execution: str, failure_id: str, more: dict[str, Any], answers: str | None = None, kind: int | None = None
    ) -> None:
        number = int(execution.removeprefix("x-"))
        event = {
            "tenant_id": f"tenant-{number % 7}",
            "execution_id": execution,
            "failure_id": failure_id,
            "agent": {"id": f"agent-{number % 3}"},
            "error": {"class": "RunFailed", "message": f"run of {execution} failed"},
            "checkpoint": {"id": f"{execution}-c", "data": {"step": number}},
            # This runtime's clock is up to an hour off: what decides is the broker's.
            "occurred_at": (datetime.now(UTC) + timedelta(minutes=number % 121 - 60)).isoformat(),
            "side_effects_since_checkpoint": "none",
            "reply_format": "json",
            **KINDS[(number if kind is None else kind) % len(KINDS)],
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
        number = (message.key() or b"").decode().rpartition("x-")[2]
        if not number.isdigit() or int(number) % self._args.shards != self._args.shard:
            return
        command = json.loads(message.value() or b"{}")
        fence = [command["fence"]["offset"], command["fence"]["attempt"]]
        if fence <= self._taken.get(command["execution_id"], [-1, 0]):
            self._refused += 1
            if self._refused == 1:
                self._write(did="refused", execution_id=command["execution_id"], fence=fence)
            return
        wanted = ("command_id", "recovery_id", "attempt", "tenant_id", "execution_id", "strategy")
        kept = {name: command[name] for name in wanted}
        self._write(did="took", execution_id=command["execution_id"], fence=fence, command=kept)

    def _obey(self, command: dict[str, Any]) -> None:
        command_id = command["command_id"]
        if command_id in self._answered:
            return
        luck = draw(command_id)
        if self._args.prompt and (12 <= luck < 17 or 91 < luck <= 93 or 95 < luck <= 97):
            luck = 50
        if luck < 12:
            self._fail_again(command)
        elif luck < 15 and command["strategy"] not in LONG_WORK:
            self._write(did="answered", command_id=command_id, how="silent")
        elif luck < 17:
            # Marked as answered, lest it be obeyed again; what is lost with a killed process is silence.
            self._write(did="answered", command_id=command_id, how="late")
            self._wait(lambda: self._answer(command, "succeeded"))
        else:
            status = "not_applied" if luck < 20 else "succeeded"
            if 93 < luck <= 95:
                self._forge(command)
            self._answer(command, status)
            if luck > 97:
                self._answer(command, status)
            elif luck > 95:
                self._wait(lambda: self._answer(command, status))
            elif 91 < luck <= 93:
                # A heartbeat that came late, behind the end that it says is still to come.
                self._wait(lambda: self._answer(command, "running"))

    def _fail_again(self, command: dict[str, Any]) -> None:
        execution, attempt = command["execution_id"], command["attempt"]
        more = {"resumed_by": {"recovery_id": command["recovery_id"], "attempt": attempt}}
        again = f"{execution}-f{attempt}"
        self._report(execution, again, more, answers=command["command_id"])
        if draw(again, "late") < 20 and not self._args.prompt:
            self._wait(lambda: self._report(execution, again, more))

    def _answer(self, command: dict[str, Any], status: str) -> None:
        names = ("command_id", "recovery_id", "attempt", "tenant_id", "execution_id")
        outcome = {name: command[name] for name in names} | {"status": status, "applied": "all", "duration_s": 0.1}

        def acked(_: Message) -> None:
            if command["command_id"] not in self._answered:
                self._write(did="answered", command_id=command["command_id"], how=status)

        self._send(OUTCOMES, outcome, acked)

    def _forge(self, command: dict[str, Any]) -> None:
        """Another tenant says that this recovery is given up, under the key of the one whose recovery it is."""
        names = ("command_id", "recovery_id", "attempt", "execution_id")
        outcome = {name: command[name] for name in names} | {"tenant_id": FORGER, "status": "abandoned"}
        key = f"{command['tenant_id']}/{command['execution_id']}"
        self._producer.produce(OUTCOMES, json.dumps(outcome).encode(), key.encode())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--shard", type=int, default=0)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="failures per second")
    parser.add_argument("--partitioner", default="murmur2_random")
    parser.add_argument("--prompt", action="store_true", help="never silent, never late")
    Agents(parser.parse_args()).run()


if __name__ == "__main__":
    main()
