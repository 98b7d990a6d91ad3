"""The faults, each a generator that does harm, yields while it lasts, and heals."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Final

from ops.chaos.cluster import Cluster, Process

FAILPOINTS: Final = {
    "recover": (
        "recover.staged",
        "recover.produced",
        "recover.offsets_sent",
        "recover.committed",
        "recover.fenced",
        "recover.restored",
    ),
    "streams": ("streams.before-send", "streams.delivered", "streams.counted"),
    "audit": ("audit.before-insert", "audit.inserted", "audit.committed"),
}


def _any(rng: random.Random, processes: dict[str, Process]) -> Process:
    return processes[rng.choice(sorted(processes))]


def kill_worker(cluster: Cluster, rng: random.Random) -> str:
    """kill -9 of one worker."""
    victim = _any(rng, cluster.workers)
    victim.signal(signal.SIGKILL)
    return victim.name


def term_worker(cluster: Cluster, rng: random.Random) -> str:
    """SIGTERM of one worker, as a rolling deploy does."""
    victim = _any(rng, cluster.workers)
    victim.signal(signal.SIGTERM)
    return victim.name


def failpoint(cluster: Cluster, rng: random.Random) -> str:
    """One worker starts again and dies at a named place of its work."""
    kind = rng.choice(("recover", "recover", "streams", "audit"))
    victim = cluster.workers[f"{kind}-{rng.choice((1, 2)) if kind != 'audit' else 1}"]
    name = rng.choice(FAILPOINTS[kind])
    hit = 1 if name in ("recover.fenced", "recover.restored") else rng.randint(1, 30)
    victim.extra = {"OMIUM_FAILPOINTS": f"{name}=exit@{hit}"}
    victim.signal(signal.SIGKILL)
    return f"{victim.name} at {name}"


def zombie(cluster: Cluster, rng: random.Random) -> str:
    """SIGSTOP of a recover worker beyond its session: it wakes up where another has taken over."""
    victim = cluster.workers[f"recover-{rng.choice((1, 2))}"]
    victim.signal(signal.SIGSTOP)
    time.sleep(9)
    victim.signal(signal.SIGCONT)
    return victim.name


def kill_agents(cluster: Cluster, rng: random.Random) -> str:
    """kill -9 of a process of agents."""
    victim = _any(rng, cluster.agents)
    victim.signal(signal.SIGKILL)
    return victim.name


def kill_broker(cluster: Cluster, rng: random.Random) -> str:
    """kill -9 of one node; with three, often the leader of something."""
    node = rng.randint(1, cluster.nodes)
    cluster.broker.kill(node)
    time.sleep(rng.uniform(0.5, 4))
    cluster.broker.restart(node)
    return f"node {node}"


def rebalance(cluster: Cluster, rng: random.Random) -> str:
    """One worker leaves for a while: its partitions move, and move back."""
    victim = cluster.workers[rng.choice(("recover-2", "streams-2"))]
    victim.stop()
    time.sleep(rng.uniform(1, 4))
    victim.wanted = True
    return victim.name


def recover_down(cluster: Cluster, rng: random.Random) -> str:
    """All recover workers are away while outcomes queue; no rung may be skipped for it."""
    for name in ("recover-1", "recover-2"):
        cluster.workers[name].stop()
    time.sleep(rng.uniform(8, 15))
    for name in ("recover-1", "recover-2"):
        cluster.workers[name].wanted = True
    return "recover"


def quiet(_: Cluster, __: random.Random) -> str:
    """Nothing: faults that need a running system to strike must find one."""
    time.sleep(4)
    return ""


Fault = Callable[[Cluster, random.Random], str]
FAULTS: Final[dict[Fault, int]] = {
    kill_worker: 6,
    term_worker: 4,
    failpoint: 8,
    zombie: 1,
    kill_agents: 3,
    kill_broker: 2,
    rebalance: 2,
    recover_down: 1,
    quiet: 2,
}
"""Each with its weight in the draw."""
