"""Torment the product, then judge it: `python -m ops.chaos [--long] [--seed N]`; the last line is JSON."""

from __future__ import annotations

import argparse
import json
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ops.chaos.checker import Verdict, judge
from ops.chaos.cluster import Cluster
from ops.chaos.nemesis import FAULTS
from ops.chaos.wire import dump


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ops.chaos")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=3)
    parser.add_argument("--failures", type=int, default=6_000)
    parser.add_argument("--rate", type=float, default=80, help="failures per second")
    parser.add_argument("--faults", type=int, default=24)
    parser.add_argument("--settle-s", type=float, default=180)
    parser.add_argument("--folder", type=Path, help="where logs are kept; absent: a temporary folder")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="omium-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    say(f"seed {args.seed}, logs in {folder}")
    cluster = Cluster(folder, nodes=args.nodes, count=args.failures, rate=args.rate)
    try:
        cluster.start()
        faults = torment(cluster, random.Random(args.seed), args.faults)
        unsettled = settle(cluster, args.failures, args.settle_s)
        verdict = judge(cluster.broker.bootstrap, cluster.logs, cluster.query())
        if unsettled:
            verdict.accuse("0 settles after healing", unsettled)
    finally:
        cluster.close()
    return report(args.seed, faults, verdict)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def torment(cluster: Cluster, rng: random.Random, count: int) -> Counter[str]:
    """`count` faults, with time between them for the system to be hit at work."""
    done: Counter[str] = Counter()
    begun = time.monotonic()
    time.sleep(8)
    while sum(done.values()) < count:
        fault = rng.choices(list(FAULTS), list(FAULTS.values()))[0]
        where = fault(cluster, rng)
        if fault.__name__ != "quiet":
            done[fault.__name__] += 1
            say(f"{time.monotonic() - begun:6.1f} s  {fault.__name__}: {where}")
        time.sleep(rng.uniform(0.3, 2.5))
    return done


def settle(cluster: Cluster, failures: int, timeout_s: float) -> str | None:
    """Wait until every execution's recovery has ended and ClickHouse has it all; else say what is missing."""
    deadline = time.monotonic() + timeout_s
    missing = "nothing was read"
    while time.monotonic() < deadline:
        time.sleep(3)
        try:
            bootstrap = cluster.broker.bootstrap
            opened, ended = set(), set()
            for row in dump(bootstrap, "recovery.dispositions.v1"):
                if row.value and row.value["kind"] == "opened":
                    opened.add(row.value["recovery_id"])
            for row in dump(bootstrap, "recovery.results.v1"):
                if row.value:
                    ended.add(row.value["recovery_id"])
            missing = f"{failures} failures, {len(opened)} opened, {len(opened - ended)} open"
            if len(opened) >= failures and not opened - ended:
                in_kafka = sum(1 for _ in dump(bootstrap, "recovery.dispositions.v1"))
                stored = cluster.query()("SELECT count() FROM v_events WHERE topic = 'recovery.dispositions.v1'")[0][0]
                missing = f"{in_kafka - stored} dispositions are not in ClickHouse"
                if stored >= in_kafka:
                    time.sleep(3)
                    return None
        except Exception as error:
            missing = f"{type(error).__name__}: {error}"
        say(missing)
    return missing


def report(seed: int, faults: Counter[str], verdict: Verdict) -> int:
    for invariant, cases in sorted(verdict.broken.items()):
        say(f"BROKEN {invariant}: {len(cases)} cases, such as {'; '.join(cases[:3])}")
    for name, count in sorted(faults.items()):
        say(f"{count:5} {name}")
    for name, count in sorted(verdict.happened.items()):
        say(f"{count:7} {name}")
    times = verdict.recovery_s
    line: dict[str, Any] = {
        "seed": seed,
        "faults": sum(faults.values()),
        "failures": verdict.failures,
        "commands": verdict.commands,
        "duplicates_dropped": verdict.duplicates_dropped,
        "lost": verdict.lost,
        "commands_twice": verdict.commands_twice,
        "audit_missing": verdict.audit_missing,
        "audit_twice": verdict.audit_twice,
        "recovery_p50_s": round(statistics.median(times), 3) if times else None,
        "recovery_max_s": round(times[-1], 3) if times else None,
        "broken": sorted(verdict.broken),
    }
    print(json.dumps(line))
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    sys.exit(main())
