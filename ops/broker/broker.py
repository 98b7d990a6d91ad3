"""A local Kafka cluster: properties, ports, data and the life of its nodes."""

from __future__ import annotations

import base64
import json
import random
import shutil
import socket
import tempfile
import uuid
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ops.broker.jars import BrokerError, format_storage, formatted
from ops.broker.node import Node
from ops.broker.security import Security

_HOST: Final = "127.0.0.1"
# Below Linux's range for outgoing connections, which could take a port between our look and Kafka's bind.
_PORTS: Final = range(18000, 32000)
_START_ATTEMPTS: Final = 3


class Broker:
    """A cluster of `nodes` (1 or 3) nodes, each broker and controller, on loopback.

    Without `data_dir` the data is in a temporary folder and goes with the cluster. With one, it is kept, and the
    next `Broker` on that folder continues the cluster. `port` is the first node's; the others take the next ones.
    `properties` are the server's, `jvm` the Java machine's options, both after ours.
    The nodes die with the process that started them.
    """

    def __init__(
        self,
        nodes: int = 1,
        data_dir: Path | str | None = None,
        *,
        port: int | None = None,
        security: Security | None = None,
        properties: dict[str, str] | None = None,
        jvm: tuple[str, ...] = (),
    ) -> None:
        if nodes not in (1, 3):
            raise ValueError("a local cluster has one node or three")
        self._kept = data_dir is not None
        self._folder = Path(data_dir).absolute() if data_dir else Path(tempfile.mkdtemp(prefix="omium-kafka-"))
        self._port = port
        self._security = security or Security()
        self._extra = properties or {}
        self._nodes = [Node(n, self._folder / f"node-{n}", jvm) for n in range(1, nodes + 1)]
        self._client_ports: list[int] = []

    @property
    def bootstrap(self) -> str:
        """Addresses of all nodes, for `bootstrap.servers`. Known once started; stays over restarts."""
        return ",".join(f"{_HOST}:{port}" for port in self._client_ports)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start all nodes and return when each serves (one: about 3 s, three: 6 s on two idle cores)."""
        fixed = bool(self._client_ports) or self._port is not None
        for attempt in range(1, _START_ATTEMPTS + 1):
            if not self._client_ports or attempt > 1:
                self._configure()
            try:
                for node in self._nodes:
                    node.launch()
                for node in self._nodes:
                    node.wait_started()
            except BrokerError as error:
                self.kill()
                # Somebody took a free port before we did.
                if fixed or attempt == _START_ATTEMPTS or "Address already in use" not in str(error):
                    raise
            else:
                return

    def stop(self) -> None:
        """Stop all nodes in order; data and ports stay for the next `start`."""
        for node in self._nodes:
            node.terminate()
        for node in self._nodes:
            node.wait_stopped()

    def close(self) -> None:
        """Stop for good; temporary data is deleted."""
        if self._kept:
            self.stop()
        else:
            self.kill()
            shutil.rmtree(self._folder, ignore_errors=True)

    def kill(self, node: int | None = None) -> None:
        """SIGKILL node number `node` (from 1), or all."""
        for chosen in self._chosen(node):
            chosen.kill()

    def restart(self, node: int | None = None) -> None:
        """Start again what was killed or runs (that is killed first); returns when it serves."""
        chosen = self._chosen(node)
        for each in chosen:
            each.kill()
            each.launch()
        for each in chosen:
            each.wait_started()

    def pause(self, node: int | None = None) -> None:
        """SIGSTOP: the node keeps its connections and answers nobody."""
        for chosen in self._chosen(node):
            chosen.pause()

    def resume(self, node: int | None = None) -> None:
        """End a pause."""
        for chosen in self._chosen(node):
            chosen.resume()

    @property
    def controller(self) -> int:
        """Number of the node that leads the quorum, as the nodes last wrote it down."""
        files = (node.folder / "data" / "__cluster_metadata-0" / "quorum-state" for node in self._nodes)
        states = [json.loads(file.read_text()) for file in files if file.exists()]
        leader: int = max(states, key=lambda state: state["leaderEpoch"])["leaderId"]
        return leader

    def pid(self, node: int = 1) -> int | None:
        """Process id of the node's JVM; None while it does not run."""
        return self._nodes[node - 1].pid

    def _chosen(self, node: int | None) -> list[Node]:
        return self._nodes if node is None else [self._nodes[node - 1]]

    def _configure(self) -> None:
        """Write each node's properties for ports that are free now, and format folders that are new."""
        count = len(self._nodes)
        inner = _free_ports(2 * count)
        if self._port is None:
            self._client_ports = _free_ports(count, without=inner)
        else:
            self._client_ports = list(range(self._port, self._port + count))
        controllers, between = inner[:count], inner[count:]
        voters = ",".join(f"{n}@{_HOST}:{port}" for n, port in enumerate(controllers, 1))
        cluster_id = self._cluster_id()
        for node, client, inter, controller in zip(self._nodes, self._client_ports, between, controllers, strict=True):
            properties = _properties(count) | {
                "node.id": str(node.number),
                "controller.quorum.voters": voters,
                "listeners": f"CLIENT://{_HOST}:{client},INTER://{_HOST}:{inter},CONTROLLER://{_HOST}:{controller}",
                "advertised.listeners": f"CLIENT://{_HOST}:{client},INTER://{_HOST}:{inter}",
                "listener.security.protocol.map": (
                    f"CLIENT:{self._security.protocol},INTER:PLAINTEXT,CONTROLLER:PLAINTEXT"
                ),
                **self._security.properties("CLIENT"),
                **self._extra,
            }
            text = "".join(f"{name}={value}\n" for name, value in properties.items())
            data = node.folder / "data"
            if not (data / "meta.properties").exists():
                data.mkdir(parents=True, exist_ok=True)
                self._format(node, data, text, cluster_id)
            (node.folder / "server.properties").write_text(f"{text}log.dirs={data}\n")

    def _cluster_id(self) -> str:
        meta = self._nodes[0].folder / "data" / "meta.properties"
        if not meta.exists():
            return _random_id()
        lines = dict(line.split("=", 1) for line in meta.read_text().splitlines() if "=" in line)
        return lines["cluster.id"]

    def _format(self, node: Node, data: Path, properties: str, cluster_id: str) -> None:
        if options := self._security.format_options():
            format_storage(data, properties, cluster_id, *options)
            return
        shutil.copytree(formatted(), data, dirs_exist_ok=True)
        (data / "meta.properties").write_text(
            f"version=1\ncluster.id={cluster_id}\nnode.id={node.number}\ndirectory.id={_random_id()}\n"
        )


def _properties(nodes: int) -> dict[str, str]:
    """What all nodes share: small, quick to start, and as safe as the number of nodes allows."""
    replicas, in_sync = str(min(nodes, 3)), "2" if nodes > 1 else "1"
    return {
        "process.roles": "broker,controller",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "INTER",
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        "group.initial.rebalance.delay.ms": "0",
        # A killed node is missed after two seconds instead of nine, and comes back as much sooner.
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "400",
        "num.network.threads": "2",
        "num.io.threads": "4",
        # The default of 128 MB is a third of the heap.
        "log.cleaner.dedupe.buffer.size": str(4 * 1024 * 1024),
    }


def _random_id() -> str:
    """A Kafka Uuid: 16 bytes in URL-safe base 64, never with a leading dash (options start so)."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _free_ports(count: int, without: list[int] | None = None) -> list[int]:
    """Ports that nobody listens on now; picked at random, so that two processes rarely pick the same."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            break
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if port not in (without or ()) and probe.connect_ex((_HOST, port)) != 0:
                found.append(port)
    return found
