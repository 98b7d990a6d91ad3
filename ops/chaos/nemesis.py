"""The faults. Each does its harm, heals what does not heal by itself, and says whom it struck."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ops.chaos import data, skewed
from ops.chaos.agents import MUTE_S
from ops.chaos.checker import REFUSED
from ops.chaos.cluster import Cluster, Process

SESSION_S: Final = 6.0
"""Of every group: whoever is silent for longer is voted out."""
_REFUSES_S: Final = 20.0
_WRITER: Final = ("staged", "produced", "offsets_sent", "committed", "polled", "fenced", "restored")
FAILPOINTS: Final = {
    "recover": tuple(f"recover.{place}" for place in _WRITER),
    "govern": tuple(f"govern.{place}" for place in _WRITER),
    "streams": ("streams.before-send", "streams.delivered", "streams.counted"),
    "audit": ("audit.before-insert", "audit.inserted", "audit.committed"),
}
_ONCE: Final = ("fenced", "restored")
"""Places that a process passes once a partition."""


class MissedError(Exception):
    """The fault did not come about: it counts for nothing."""


def _any(rng: random.Random, processes: dict[str, Process], arg: str) -> Process:
    names = [name for name in sorted(processes) if name.startswith(arg)]
    return processes[rng.choice(names)]


def _until(what: Callable[[], bool], timeout_s: float, *, every_s: float = 0.05) -> bool:
    deadline = time.monotonic() + timeout_s
    while not (done := what()) and time.monotonic() < deadline:
        time.sleep(every_s)
    return done


# --- workers


def kill_worker(cluster: Cluster, rng: random.Random, arg: str) -> str:
    """kill -9 of one worker."""
    victim = _any(rng, cluster.workers, arg)
    victim.signal(signal.SIGKILL)
    return victim.name


def term_worker(cluster: Cluster, rng: random.Random, arg: str) -> str:
    """SIGTERM of one worker, as a rolling deploy does."""
    victim = _any(rng, cluster.workers, arg)
    victim.signal(signal.SIGTERM)
    return victim.name


def failpoint(cluster: Cluster, rng: random.Random, arg: str) -> str:
    """One worker starts again, and dies at a named place of its work. `arg`: the place, and `@` the hit."""
    kind = arg.partition(".")[0] or rng.choice([*FAILPOINTS, "recover"])
    name, _, at = (arg or rng.choice(FAILPOINTS[kind])).partition("@")
    hit = int(at or (1 if name.endswith(_ONCE) else rng.randint(1, 25)))
    victim = rng.choice(cluster.of(kind))
    said, before = f"failpoint {name}: exit", cluster.said()[f"failpoint {name}: exit"]
    victim.extra = {"OMIUM_FAILPOINTS": f"{name}=exit@{hit}"}
    victim.signal(signal.SIGKILL)
    # Drawn by chance it strikes when it strikes; asked for it must.
    if arg and not _until(lambda: cluster.said()[said] > before, 30, every_s=0.3):
        raise MissedError(f"{victim.name} did not come to {name}")
    return f"{victim.name} at {name}@{hit}"


def zombie(cluster: Cluster, rng: random.Random, arg: str) -> str:
    """SIGSTOP of a worker beyond its session: it wakes up where another has taken over."""
    victim = rng.choice(cluster.of(arg or rng.choice(("recover", "recover", "streams"))))
    victim.signal(signal.SIGSTOP)
    time.sleep(1.5 * SESSION_S)
    victim.signal(signal.SIGCONT)
    return victim.name


def zombie_in_transaction(cluster: Cluster, rng: random.Random, arg: str) -> str:
    """SIGSTOP of a recover worker after it has sent its offsets, before it commits; it wakes up as a zombie."""
    victim = rng.choice(cluster.of("recover"))
    name = arg or "recover.offsets_sent"
    # The pause is for us to find it there.
    victim.extra = {"OMIUM_FAILPOINTS": f"{name}=pause:1.5@{rng.randint(5, 20)}"}
    starts = victim.starts
    victim.signal(signal.SIGKILL)
    if not _until(lambda: victim.starts > starts and victim.said(f"failpoint {name}"), 40):
        raise MissedError(f"{victim.name} did not come to {name}")
    victim.signal(signal.SIGSTOP)
    time.sleep(1.5 * SESSION_S)
    victim.signal(signal.SIGCONT)
    return victim.name


def rebalance(cluster: Cluster, rng: random.Random, arg: str) -> str:
    """One worker leaves, or one more joins, for a while: partitions move, and move back."""
    leaver = _any(rng, {name: p for name, p in cluster.workers.items() if name.endswith("-2")}, arg)
    if rng.random() < 0.5:
        leaver.begin_stop()
        time.sleep(rng.uniform(1, 4))
        leaver.wanted = True
        return f"{leaver.name} left"
    joiner = _any(rng, cluster.spare, arg)
    joiner.wanted = True
    time.sleep(rng.uniform(4, 8))
    joiner.begin_stop()
    return f"{joiner.name} joined"


def recover_down(cluster: Cluster, rng: random.Random, arg: str) -> str:
    """All recover workers are away while successes queue beyond their deadlines; no rung may be skipped for it."""
    down_s = float(arg or rng.uniform(12, 20))
    # Commands go out that are answered only when nobody reads the answers.
    for process in cluster.agents.values():
        process.signal(signal.SIGUSR1)
    time.sleep(0.6 * MUTE_S)
    for process in cluster.of("recover"):
        process.begin_stop()
    time.sleep(down_s)
    for process in cluster.of("recover"):
        process.wanted = True
    return f"{down_s:.0f} s"


def clocks_off(cluster: Cluster, rng: random.Random, arg: str) -> str:
    """The clocks of one kind of worker are minutes off, until it is started again."""
    minutes = rng.choice((-30, -7, 7, 30))
    victims = cluster.of(arg or rng.choice(("streams", "recover", "audit")))
    for victim in victims:
        victim.extra = {skewed.VARIABLE: str(60 * minutes)}
        victim.signal(signal.SIGTERM)
    if not _until(lambda: all(victim.said("clock off by") for victim in victims), 40):
        raise MissedError("they did not start again")
    return f"{', '.join(v.name for v in victims)} by {minutes:+} min"


# --- agents


def kill_agents(cluster: Cluster, rng: random.Random, arg: str) -> str:
    """kill -9 of a process of agents: it reads its own notes, then all commands again."""
    victim = _any(rng, cluster.agents, arg)
    victim.signal(signal.SIGKILL)
    return victim.name


def pause_agents(cluster: Cluster, rng: random.Random, arg: str) -> str:
    """Agents that stall: their outcomes come late, some after the deadline."""
    victim = _any(rng, cluster.agents, arg)
    victim.signal(signal.SIGSTOP)
    time.sleep(rng.uniform(4, 14))
    victim.signal(signal.SIGCONT)
    return victim.name


# --- brokers


def kill_broker(cluster: Cluster, rng: random.Random, arg: str) -> str:
    """kill -9 of one node, for a moment. `arg`: for how many seconds."""
    return _kill_node(cluster, rng.randint(1, cluster.nodes), float(arg or rng.uniform(0.5, 4)))


def kill_controller(cluster: Cluster, rng: random.Random, _: str) -> str:
    """kill -9 of the node that leads the quorum."""
    leader = cluster.broker.controller
    struck = _kill_node(cluster, leader, rng.uniform(2, 4))
    if cluster.nodes > 1 and cluster.broker.controller == leader:
        raise MissedError(f"node {leader} leads the quorum still")
    return struck


def _kill_node(cluster: Cluster, node: int, down_s: float) -> str:
    cluster.broker.kill(node)
    time.sleep(down_s)
    cluster.broker.restart(node)
    return f"node {node} for {down_s:.1f} s"


def pause_broker(cluster: Cluster, rng: random.Random, arg: str) -> str:
    """SIGSTOP of one node: it keeps its connections and answers nobody; requests time out, nobody knows their fate."""
    node, still_s = rng.randint(1, cluster.nodes), float(arg or rng.uniform(3, 12))
    cluster.broker.pause(node)
    time.sleep(still_s)
    cluster.broker.resume(node)
    return f"node {node} for {still_s:.1f} s"


def oversized(cluster: Cluster, rng: random.Random, _: str) -> str:
    """The broker takes only small commands until somebody is buried for it: what exceeds it is poison inside a
    transaction. To find which input it was takes a takeover for each halving, so a fixed time would be too short."""
    bootstrap = cluster.broker.bootstrap
    with data.Letters(bootstrap) as letters, data.limited(bootstrap, data.COMMANDS, max_bytes=1800):
        time.sleep(rng.uniform(1, 2))
        buried = letters.come(REFUSED, _REFUSES_S)
    return f"{data.COMMANDS}, {'until one was buried' if buried else 'nobody was buried'}"


# --- data


def replay(cluster: Cluster, rng: random.Random, arg: str) -> str:
    """One kind of worker reads its inputs again: recover from offset zero, the others the last thousands."""
    kind = arg or rng.choice(("recover", "recover", "streams", "audit"))
    processes = cluster.of(kind)
    for process in processes:
        process.begin_stop()
    for process in processes:
        process.stop()
    try:
        moved = data.rewind(cluster.broker.bootstrap, f"omium-{kind}", None if kind == "recover" else 1000)
    finally:
        for process in processes:
            process.wanted = True
    if not moved:
        raise MissedError(f"omium-{kind} had members still, or has committed nothing")
    return f"{kind}: {moved} records again"


def repeat_options(cluster: Cluster, rng: random.Random, _: str) -> str:
    """What streams said comes again, late and in another order, as from a second worker that was slow."""
    return f"{data.repeat(cluster.broker.bootstrap, data.OPTIONS, 300, rng)} options again"


def clickhouse_gone(cluster: Cluster, rng: random.Random, arg: str) -> str:
    """Another process holds the embedded ClickHouse: audit runs, and cannot insert."""
    gone_s = float(arg or rng.uniform(8, 14))
    if not _until((cluster.folder / "clickhouse" / "omium-owner.json").exists, 40):
        raise MissedError("there was none yet")
    for process in cluster.of("audit"):
        process.stop()
    with data.holding(cluster.folder / "clickhouse"):
        for process in cluster.of("audit"):
            process.wanted = True
        if not _until(lambda: all(p.said("ClickHouse takes no rows") for p in cluster.of("audit")), 40):
            raise MissedError("audit did not find it missing")
        time.sleep(gone_s)
    return f"{gone_s:.0f} s"


def clickhouse_slow(cluster: Cluster, rng: random.Random, _: str) -> str:
    """Every insert takes three seconds more, for a while."""
    victim = rng.choice(cluster.of("audit"))
    victim.extra = {"OMIUM_FAILPOINTS": "audit.before-insert=pause:3"}
    victim.signal(signal.SIGTERM)
    if not _until(lambda: victim.said("failpoint audit.before-insert"), 40):
        raise MissedError("audit inserted nothing")
    time.sleep(rng.uniform(6, 10))
    with suppress(ProcessLookupError):
        victim.signal(signal.SIGKILL)
    return victim.name


Harm = Callable[[Cluster, random.Random, str], str]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault as it is drawn: `share` of its group, on clusters of at least `nodes`."""

    harm: Harm
    share: int = 1
    nodes: int = 1

    @property
    def name(self) -> str:
        return self.harm.__name__


MIXES: Final[dict[str, tuple[Fault, ...]]] = {
    "workers": (
        Fault(kill_worker, 6), Fault(term_worker, 4), Fault(failpoint, 9), Fault(zombie), Fault(zombie_in_transaction),
        Fault(rebalance, 3), Fault(recover_down), Fault(clocks_off, 2),
    ),
    "brokers": (Fault(kill_broker, 2), Fault(kill_controller, 2, nodes=3), Fault(pause_broker), Fault(oversized)),
    "edges": (
        Fault(kill_agents, 3), Fault(pause_agents), Fault(replay, 3), Fault(repeat_options, 2),
        Fault(clickhouse_gone), Fault(clickhouse_slow),
    ),
}  # fmt: skip
"""Rotated: each round draws from one of them, the last from all."""
FAULTS: Final = {fault.name: fault for mix in MIXES.values() for fault in mix}


class Deck:
    """Faults drawn without putting back, so that every kind comes before one comes too often."""

    def __init__(self, faults: tuple[Fault, ...], rng: random.Random) -> None:
        self._faults, self._rng = faults, rng
        self._left: list[Fault] = []

    def draw(self) -> Fault:
        if not self._left:
            once = list(self._faults)
            again = [fault for fault in self._faults for _ in range(fault.share - 1)]
            self._rng.shuffle(once)
            self._rng.shuffle(again)
            self._left = again + once
        return self._left.pop()
