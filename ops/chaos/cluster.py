"""What is tormented: brokers, workers and agents, each a process that is started again when it ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import clickhouse_connect

from ops.broker import Broker
from ops.chaos.watch import Watch
from ops.runtime import topics
from ops.runtime.child import Child
from ops.runtime.settings import Settings
from processors.audit.embedded import owner_url

WORKERS: Final = {"streams": 2, "recover": 2, "govern": 2, "audit": 1}
"""Kind of worker, as `omium-recovery worker` calls it, to how many run. One embedded ClickHouse has one owner."""
SPARE: Final = ("streams-3", "recover-3")
"""They run only where a fault adds them."""
_WATCH_S: Final = 0.2
_OURS: Final = frozenset({0, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGUSR1, 137})
"""How a process ends for our sake; 137 is a failpoint's."""


class Process:
    """One supervised process. `extra` holds environment for its next start alone, such as a failpoint."""

    def __init__(self, name: str, command: list[str], env: dict[str, str], log: Path) -> None:
        self.name, self._command, self._env, self._log = name, command, env, log
        self.extra: dict[str, str] = {}
        self.starts = 0
        self.wanted = False
        self.crashes: list[str] = []
        """Ends that were nobody's doing but its own."""
        self._child: Child | None = None
        self._begun_s = 0.0

    @property
    def log(self) -> Path:
        """Of the newest start."""
        return self._log.with_suffix(f".{self.starts}.log")

    def look(self) -> None:
        """Start it where it should run and does not."""
        running = self._child is not None and self._child.exit_code is None
        if not self.wanted or running or time.monotonic() - self._begun_s < 0.5:
            return
        if self._child is not None and self._child.exit_code not in _OURS:
            self.crashes.append(f"{self.name} ended with {self._child.exit_code}, see {self.log.name}")
        self._begun_s = time.monotonic()
        self.starts += 1
        self._child = Child(self._command, log=self.log, env={**os.environ, **self._env, **self.extra})
        self.extra = {}

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, where it runs."""
        if self._child and self._child.exit_code is None:
            self._child.signal(number)

    def begin_stop(self) -> None:
        """SIGTERM, for good; returns at once."""
        self.wanted = False
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)

    def stop(self) -> None:
        """SIGTERM, for good; returns when it has ended."""
        self.wanted = False
        if self._child:
            self._child.signal(signal.SIGCONT)
            self._child.stop(20)

    def said(self, text: str) -> bool:
        """Whether the newest start has said `text`."""
        return self.log.exists() and text.encode() in self.log.read_bytes()


class Cluster:
    """The product on `nodes` brokers, and `shards` processes of agents that fail `count` times in all."""

    def __init__(
        self, folder: Path, *, nodes: int, count: int, rate: float, prompt: bool = False, shards: int = 3
    ) -> None:
        self.folder = folder
        self.shards = shards
        self.broker = Broker(nodes=nodes)
        self.count, self._rate, self._prompt = count, rate, prompt
        self.nodes = nodes
        self.workers: dict[str, Process] = {}
        self.spare: dict[str, Process] = {}
        self.agents: dict[str, Process] = {}
        self.broken: Exception | None = None
        """Why processes are not started again any more: what such a run shows is nothing."""
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._look, daemon=True)
        self.watch: Watch

    @property
    def logs(self) -> list[Path]:
        """What the agents wrote down."""
        return sorted(self.folder.glob("agent-*.jsonl"))

    @property
    def processes(self) -> list[Process]:
        return [*self.workers.values(), *self.spare.values(), *self.agents.values()]

    def of(self, kind: str) -> list[Process]:
        """The workers of one kind that are not spare."""
        return [process for name, process in self.workers.items() if name.partition("-")[0] == kind]

    def start(self) -> None:
        """Start all; returns before the workers are ready."""
        self.broker.start()
        topics.create(Settings(bootstrap=self.broker.bootstrap, replication=min(self.nodes, 3)), 60)
        for kind, number in WORKERS.items():
            self.workers |= {name: self._worker(name) for name in (f"{kind}-{n}" for n in range(1, number + 1))}
        self.spare = {name: self._worker(name) for name in SPARE}
        for shard in range(self.shards):
            self.agents[f"agents-{shard}"] = self._agents(shard)
        self.watch = Watch(self.broker.bootstrap).start()
        for process in (*self.workers.values(), *self.agents.values()):
            process.wanted = True
        self._watcher.start()

    def _worker(self, name: str) -> Process:
        env = {
            "OMIUM_BOOTSTRAP": self.broker.bootstrap,
            "OMIUM_REPLICATION": str(min(self.nodes, 3)),
            "OMIUM_CLICKHOUSE": self.clickhouse,
            "OMIUM_POLICY_FILE": str(Path(__file__).with_name("policy.toml")),
            "OMIUM_AUDIT_BATCH_S": "0.5",
        }
        command = [
            sys.executable,
            "-m",
            "ops.chaos.skewed",
            "cli.main",
            "worker",
            "--no-create-topics",
            name.partition("-")[0],
        ]
        return Process(name, command, env, self.folder / f"{name}.log")

    def _agents(self, shard: int) -> Process:
        log = self.folder / f"agent-{shard}.jsonl"
        arguments = {
            "bootstrap": self.broker.bootstrap,
            "log": log,
            "shard": shard,
            "shards": self.shards,
            "count": self.count,
            "rate": self._rate / self.shards,
            # One runtime hashes keys as librdkafka does by default: its records come to wrong partitions.
            "partitioner": "consistent_random" if shard == self.shards - 1 else "murmur2_random",
        }
        flags = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
        flags += ["--prompt"] if self._prompt else []
        log.touch()
        name = f"agents-{shard}"
        return Process(name, [sys.executable, "-m", "ops.chaos.agents", *flags], {}, self.folder / f"{name}.log")

    @property
    def clickhouse(self) -> str:
        return f"chdb://{self.folder / 'clickhouse'}"

    def _look(self) -> None:
        try:
            while not self._stopped.wait(_WATCH_S):
                for process in self.processes:
                    process.look()
        except Exception as error:
            self.broken = error
            raise

    def query(self) -> Callable[[str], list[tuple[Any, ...]]]:
        """Ask ClickHouse, through the process that owns it."""
        url = owner_url(self.clickhouse)
        if url is None:
            raise RuntimeError("nobody owns the embedded ClickHouse")
        client = clickhouse_connect.get_client(dsn=url)
        return lambda sql: [tuple(row) for row in client.query(sql).result_rows]

    def said(self) -> Counter[str]:
        """What the workers' logs tell of: failpoints that struck, producers that were fenced."""
        told: Counter[str] = Counter()
        for log in self.folder.glob("*.log"):
            for line in log.read_text(errors="replace").splitlines():
                if line.startswith("failpoint "):
                    told[line] += 1
                elif "_FENCED" in line or "fenced by newer" in line:
                    told["producer fenced"] += 1
        return told

    def close(self) -> None:
        """Stop and forget all."""
        self._stopped.set()
        for process in self.processes:
            process.begin_stop()
        for process in self.processes:
            process.stop()
        if hasattr(self, "watch"):
            self.watch.close()
        self.broker.close()
