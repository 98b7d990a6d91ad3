"""What is tormented: a broker, workers and agents, each a process that is started again when it ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import clickhouse_connect

from ops.broker import Broker
from ops.runtime import topics
from ops.runtime.child import Child
from ops.runtime.settings import Settings
from processors.audit.embedded import owner_url

_WATCH_S: Final = 0.2


class Process:
    """One supervised process. `extra` holds environment for its next start alone, such as a failpoint."""

    def __init__(self, name: str, command: list[str], env: dict[str, str], log: Path) -> None:
        self.name, self._command, self._env, self._log = name, command, env, log
        self.extra: dict[str, str] = {}
        self.starts = 0
        self.wanted = False
        self._child: Child | None = None
        self._begun_s = 0.0

    def look(self) -> None:
        """Start it where it should run and does not."""
        running = self._child is not None and self._child.exit_code is None
        if not self.wanted or running or time.monotonic() - self._begun_s < 0.5:
            return
        self._begun_s = time.monotonic()
        self.starts += 1
        log = self._log.with_suffix(f".{self.starts}.log")
        self._child = Child(self._command, log=log, env={**os.environ, **self._env, **self.extra})
        self.extra = {}

    def signal(self, number: signal.Signals) -> None:
        if self._child and self._child.exit_code is None:
            self._child.signal(number)

    def stop(self) -> None:
        self.wanted = False
        if self._child:
            self._child.signal(signal.SIGCONT)
            self._child.stop(20)


class Cluster:
    """The product on `nodes` brokers: two streams and two recover workers, one audit, `shards` agents."""

    def __init__(self, folder: Path, *, nodes: int, count: int, rate: float, shards: int = 3) -> None:
        self.folder = folder
        self.shards = shards
        self.broker = Broker(nodes=nodes)
        self._count, self._rate = count, rate
        self.nodes = nodes
        self.workers: dict[str, Process] = {}
        self.agents: dict[str, Process] = {}
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    @property
    def logs(self) -> list[Path]:
        return sorted(self.folder.glob("agent-*.jsonl"))

    @property
    def processes(self) -> list[Process]:
        return [*self.workers.values(), *self.agents.values()]

    def start(self) -> None:
        self.broker.start()
        settings = Settings(bootstrap=self.broker.bootstrap, replication=min(self.nodes, 3))
        topics.create(settings, 60)
        env = {
            "OMIUM_BOOTSTRAP": self.broker.bootstrap,
            "OMIUM_REPLICATION": str(min(self.nodes, 3)),
            "OMIUM_CLICKHOUSE": self._clickhouse,
            "OMIUM_POLICY_FILE": str(Path(__file__).with_name("policy.toml")),
            "OMIUM_AUDIT_BATCH_S": "0.5",
        }
        for worker in ("streams-1", "streams-2", "recover-1", "recover-2", "audit-1"):
            command = [sys.executable, "-m", "cli.main", "worker", "--no-create-topics", worker.partition("-")[0]]
            self.workers[worker] = Process(worker, command, env, self.folder / f"{worker}.log")
        for shard in range(self.shards):
            log = self.folder / f"agent-{shard}.jsonl"
            # One runtime hashes keys as librdkafka does by default: its records come to wrong partitions.
            partitioner = "consistent_random" if shard == self.shards - 1 else "murmur2_random"
            arguments = {
                "bootstrap": self.broker.bootstrap,
                "log": log,
                "shard": shard,
                "shards": self.shards,
                "count": self._count,
                "rate": self._rate / self.shards,
                "partitioner": partitioner,
            }
            flags = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
            command = [sys.executable, "-m", "ops.chaos.agents", *flags]
            log.touch()
            self.agents[f"agents-{shard}"] = Process(
                f"agents-{shard}", command, {}, self.folder / f"agents-{shard}.log"
            )
        for process in self.processes:
            process.wanted = True
        self._watcher.start()

    @property
    def _clickhouse(self) -> str:
        return f"chdb://{self.folder / 'clickhouse'}"

    def _watch(self) -> None:
        while not self._stopped.wait(_WATCH_S):
            for process in self.processes:
                process.look()

    def query(self) -> Callable[[str], list[tuple[Any, ...]]]:
        """Ask ClickHouse, through the process that owns it."""
        url = owner_url(self._clickhouse)
        if url is None:
            raise RuntimeError("nobody owns the embedded ClickHouse")
        client = clickhouse_connect.get_client(dsn=url)
        return lambda sql: [tuple(row) for row in client.query(sql).result_rows]

    def close(self) -> None:
        self._stopped.set()
        for process in self.processes:
            process.stop()
        self.broker.close()
