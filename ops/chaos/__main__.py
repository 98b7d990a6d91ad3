"""Torment the product, then judge it: `python -m ops.chaos [--seed N]`; the last line is JSON."""

from __future__ import annotations

import argparse
import random
import resource
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException

from ops.chaos import planted
from ops.chaos.bugs import BUGS
from ops.chaos.checker import judge
from ops.chaos.cluster import Cluster
from ops.chaos.nemesis import FAULTS, MIXES, Deck, Fault, MissedError
from ops.chaos.report import Run, Struck, report, say

ROUND: Final = 4
"""Faults of one mix: one after the other, each waited for, or all at once; then it is quiet."""
_UP_S: Final = 120.0
"""So long all workers may take to start."""
_NOTICED_S: Final = 3.5
"""A failure is late only after two seconds: so long it takes to see that a fault did harm."""
_LOADED: Final = (0.03, 0.95)
"""Parts of the load before the first fault and before the last: faults must find a system at work."""


def main() -> int:
    args = _arguments()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="omium-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    say(f"seed {args.seed}, logs in {folder}")
    cluster = Cluster(folder, nodes=args.nodes, count=args.failures, rate=args.rate, prompt=args.prompt)
    run = Run(seed=args.seed, nodes=args.nodes)
    begun_s = time.monotonic()
    try:
        cluster.start()
        torment(cluster, args, run)
        run.unsettled = settle(cluster, args.settle_s)
        run.said = cluster.said()
        crashes = [crash for process in cluster.processes for crash in process.crashes]
        run.verdict = judge(cluster.broker.bootstrap, cluster.logs, cluster.query(), crashes)
    finally:
        cluster.close()
    run.wall_s = time.monotonic() - begun_s
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    run.cpu_s = used.ru_utime + used.ru_stime
    if args.planted != "none":
        run.planted = planted.plant(planted.quick() if args.planted == "fast" else BUGS)
    kinds = {fault.name for fault in FAULTS.values() if fault.nodes <= args.nodes}
    return report(run, kinds if args.faults >= 5 * len(kinds) else set())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ops.chaos")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=3)
    parser.add_argument("--failures", type=int, default=6_000)
    parser.add_argument("--rate", type=float, default=60, help="failures per second")
    parser.add_argument("--faults", type=int, default=24)
    parser.add_argument("--only", default="", help="these faults in this order, as name[:argument],... instead")
    parser.add_argument("--heal-s", type=float, default=60, help="longest wait for a backlog to go after a fault")
    parser.add_argument("--settle-s", type=float, default=120, help="all must end before nothing changes for so long")
    parser.add_argument("--prompt", action="store_true", help="agents answer at once: a run ends sooner")
    parser.add_argument("--planted", choices=("none", "fast", "all"), default="none", help="then plant bugs")
    parser.add_argument("--folder", type=Path, help="where logs are kept; absent: a temporary folder")
    args = parser.parse_args()
    if args.only:
        args.faults = len(args.only.split(","))
    return args


def plan(rng: random.Random, args: argparse.Namespace) -> Iterator[list[tuple[Fault, str]]]:
    """What strikes together, for ever: rounds of one mix, single faults and storms in turn."""
    if args.only:
        for name, _, arg in (entry.partition(":") for entry in args.only.split(",")):
            yield [(FAULTS[name], arg)]
        return
    mixes = [*MIXES.values(), tuple(FAULTS.values())]
    decks = [Deck(tuple(fault for fault in mix if fault.nodes <= args.nodes), rng) for mix in mixes]
    for number in range(10**9):
        drawn = [(decks[number % len(decks)].draw(), "") for _ in range(ROUND)]
        # Seven rounds of ten show how long one fault takes; in the others they meet.
        yield from ([fault] for fault in drawn) if number % 10 < 7 else (drawn,)


def torment(cluster: Cluster, args: argparse.Namespace, run: Run) -> None:
    """`args.faults` faults, in step with the load: those that come after it would find an idle system."""
    rng = random.Random(args.seed)
    begun_s = time.monotonic()
    while not cluster.watch.dispositions and time.monotonic() < begun_s + _UP_S:
        time.sleep(0.1)
    first, last = _LOADED
    for together in plan(rng, args):
        if (left := args.faults - len(run.struck)) <= 0 or sum(run.missed.values()) > args.faults:
            return
        due = args.failures * (first + (last - first) * len(run.struck) / args.faults)
        while cluster.watch.executions < due and time.monotonic() - begun_s < 3 * args.failures / args.rate + 60:
            time.sleep(0.1)
        if cluster.broken:
            raise cluster.broken
        ended_s = time.monotonic()
        done: list[tuple[str, str]] = []
        for fault, arg in together[:left]:
            try:
                done.append((fault.name, _strike(cluster, rng, fault, arg, tries=3 if args.only else 1)))
            except (MissedError, KafkaException, TimeoutError) as error:
                run.missed[f"{fault.name} ({error or 'no answer'})"] += 1
                continue
            say(f"{time.monotonic() - begun_s:7.1f} s  {fault.name}: {done[-1][1]}")
            ended_s = time.monotonic()
            time.sleep(rng.uniform(0.2, 1.5) if len(together) > 1 else 0)
        behind = cluster.watch.executions > due + ROUND * args.failures / args.faults
        recovered_s = _recovered_s(cluster, ended_s, 0 if behind else args.heal_s)
        alone = len(together) == 1
        run.struck += [Struck(kind, where, recovered_s if alone else None) for kind, where in done]
        if not alone and recovered_s is not None:
            run.storms_s.append(recovered_s)


def _strike(cluster: Cluster, rng: random.Random, fault: Fault, arg: str, tries: int) -> str:
    """Whom it struck. Raises MissedError where it came about at none of the `tries`."""
    for _ in range(tries - 1):
        try:
            return fault.harm(cluster, rng, arg)
        except MissedError as error:
            say(f"{fault.name} once more: {error}")
            time.sleep(3)
    return fault.harm(cluster, rng, arg)


def _recovered_s(cluster: Cluster, since_s: float, timeout_s: float) -> float | None:
    """Seconds from `since_s` until the backlog was gone, `timeout_s` where that took longer; None: not waited for."""
    last_ill_s = since_s
    while (now_s := time.monotonic()) < since_s + timeout_s:
        if not cluster.watch.healthy():
            last_ill_s = now_s
        elif now_s > max(since_s + _NOTICED_S, last_ill_s + 1):
            return last_ill_s - since_s
        time.sleep(0.1)
    return timeout_s or None


def settle(cluster: Cluster, timeout_s: float) -> str | None:
    """Wait until every recovery has ended and ClickHouse has it all, the agents gone. What is missing, where nothing
    has changed for `timeout_s`, or it takes ten times as long."""
    latest_s = time.monotonic() + 10 * timeout_s
    if missing := _until_nothing_is_missing(cluster, timeout_s, latest_s):
        return missing
    for process in cluster.agents.values():
        process.begin_stop()
    # What they said last is still to be answered.
    time.sleep(5)
    return _until_nothing_is_missing(cluster, timeout_s, latest_s)


def _until_nothing_is_missing(cluster: Cluster, timeout_s: float, latest_s: float) -> str | None:
    before, changed_s, told_s = "", time.monotonic(), 0.0
    while missing := _missing(cluster):
        now_s = time.monotonic()
        if missing != before:
            before, changed_s = missing, now_s
        if now_s - changed_s > timeout_s or now_s > latest_s:
            return missing
        if now_s - told_s > 5:
            told_s = now_s
            say(missing)
        time.sleep(0.5)
    return None


def _missing(cluster: Cluster) -> str | None:
    watch = cluster.watch
    words, recoveries = watch.owed
    if watch.executions < cluster.count or words or recoveries:
        return f"{watch.executions} of {cluster.count} failed, {words} words unanswered, {recoveries} recoveries open"
    try:
        query = "SELECT count() FROM v_events WHERE topic = 'recovery.dispositions.v1'"
        stored = int(cluster.query()(query)[0][0])
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"{watch.dispositions - stored} dispositions are not in ClickHouse" if stored < watch.dispositions else None


if __name__ == "__main__":
    sys.exit(main())
