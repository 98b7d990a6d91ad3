"""`make bench`: what the streams worker costs, against its peers, in one run on one broker.

    python -m ops.bench [--events N] [--seconds S] [--rounds R] [--long N] [--only PART]...

A table for people, then one line of JSON. How it is measured, and which figure is noise: README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

from confluent_kafka import Producer

from ops.bench import open_executions, storm
from ops.bench.classify_cost import print_costs
from ops.bench.latency import SERVER_JVM, Latency, measure, relay, workers
from ops.bench.load import message
from ops.broker import Broker
from ops.runtime import topics
from ops.runtime.settings import Settings

ROOT: Final = Path(__file__).parents[2]
QUIX: Final = ROOT / ".cache" / "bench-quix"
LOCK: Final = ROOT / "requirements" / "bench-quix.txt"
_PEERS: Final = ("ours", "quix", "bare")
_RATES: Final = (100, 1000)
_WARM_UP_S: Final = 40.0
_PARTS: Final = ("throughput", "framework", "latency", "storm", "classify", "recover")

Run = dict[str, Any]
Figures = dict[str, float]


def say(line: str) -> None:
    """A line for people."""
    print(line, flush=True)


def quix_python() -> Path:
    """The interpreter of Quix Streams' own environment, made from the lock where it is missing or older."""
    python, made = QUIX / "bin" / "python", QUIX / "made-from"
    if not made.exists() or made.read_text() != LOCK.read_text():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "-q", "--clear", "--python", sys.executable, str(QUIX)], check=True)
        install = [*uv, "pip", "install", "-q", "--python", str(python), "--require-hashes", "-r", str(LOCK)]
        subprocess.run(install, check=True)
        made.write_text(LOCK.read_text())
    return python


def fill(settings: Settings, events: int) -> None:
    """`events` failures, waiting."""
    topics.create(settings)
    producer = Producer(settings.producer(**{"linger.ms": 5}))
    for number in range(events):
        record = message(number)
        while True:
            try:
                producer.produce(record.topic, record.value, record.key, headers=[*record.headers])
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush()


def peer(kind: str, bootstrap: str, events: int, warm_up: int = 0) -> Run:
    """One run of one peer, in a process and group of its own."""
    app = f"{kind}-{uuid.uuid4().hex[:6]}"
    if kind == "quix":
        command = [str(quix_python()), "-W", "ignore", "-m", "ops.bench.quix", bootstrap, app, str(events)]
    else:
        command = [sys.executable, "-m", "ops.bench.peers", kind, bootstrap, app, str(events), str(warm_up)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # Faust and Quix leave their state in the working directory.
    with TemporaryDirectory(prefix="omium-bench-") as folder:
        done = subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"{kind} gave no result, exit code {done.returncode}")
    result: Run = json.loads(lines[-1])
    return result


def throughput(events: int, rounds: int) -> Figures:
    """Events per second with the whole work, peers taking turns; the best round of each counts."""
    best: dict[str, Run] = {}
    with Broker() as broker:
        fill(Settings(bootstrap=broker.bootstrap), events)
        for _ in range(rounds):
            for kind in _PEERS:
                run = peer(kind, broker.bootstrap, events)
                if kind not in best or run["seconds"] < best[kind]["seconds"]:
                    best[kind] = run
    rate = {kind: run["events"] / run["seconds"] for kind, run in best.items()}
    cpu_us = {kind: run["cpu_s"] / run["events"] * 1e6 for kind, run in best.items()}
    for kind in _PEERS:
        say(f"  {kind:24}{rate[kind]:10,.0f} events/s {cpu_us[kind]:10.1f} us CPU/event")
    return {
        "streams_events_per_s": rate["ours"],
        "streams_cpu_us": cpu_us["ours"],
        "bare_cpu_us": cpu_us["bare"],
        "streams_vs_quix": rate["ours"] / rate["quix"],
        "streams_vs_bare": rate["ours"] / rate["bare"],
    }


def framework(events: int, rounds: int, long: int, backlog: int) -> Figures:
    """CPU of the framework alone, the backlog, and whether the cost of an event grows."""
    with Broker() as broker:
        fill(Settings(bootstrap=broker.bootstrap), max(long, backlog, events))
        cpu: dict[str, float] = {}
        for kind in ("ours-framework", "stock-framework"):
            runs = [peer(kind, broker.bootstrap, events, events // 10) for _ in range(rounds)]
            cpu[kind] = median(run["cpu_s"] / run["events"] * 1e6 for run in runs)
            say(f"  {kind:24}{cpu[kind]:10.1f} us CPU/event, the worker alone")
        waiting = peer("ours", broker.bootstrap, backlog)
        backlog_rate = waiting["events"] / waiting["seconds"]
        say(f"  {'ours, backlog':24}{backlog_rate:10,.0f} events/s with {backlog:,} waiting")
        marks = peer("ours-framework", broker.bootstrap, long)["marks"]
        growth = _cost(marks[-3:]) / _cost(marks[:3])
        say(f"  {'cost growth':24}{growth:10.2f} x from the first {marks[2][0]:,} events to the last of {long:,}")
    return {
        "streams_framework_cpu_us": cpu["ours-framework"],
        "stock_framework_cpu_us": cpu["stock-framework"],
        "backlog_100k_events_per_s": backlog_rate,
        "cost_growth_1k_to_1m": growth,
    }


def _cost(marks: list[list[float]]) -> float:
    """CPU seconds per event between the first and the last mark."""
    return (marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0])


def latency(seconds: float) -> Figures:
    """Failure to resume command, ours and the relay taking turns at each rate."""
    figures: Figures = {}
    for rate in _RATES:
        found: dict[str, Latency] = {}
        for kind, running in (("relay", relay), ("ours", workers)):
            with Broker(jvm=SERVER_JVM) as broker:
                settings = Settings(bootstrap=broker.bootstrap, app=kind)
                topics.create(settings)
                with running(settings) as pids:
                    pids["broker"] = broker.pid() or 0
                    # A Java machine that has just begun takes three times as long for a transaction.
                    measure(settings, rate, _WARM_UP_S, f"{kind}-warm-{rate}")
                    result = found[kind] = measure(settings, rate, seconds, f"{kind}-{rate}", pids)
            say(
                f"  {kind:8}{rate:6}/s  p50 {result.p50:8.1f} ms  p99 {result.p99:8.1f} ms"
                f"  first hop p50 {result.first_hop_p50:.1f} ms"
                f"  missing {result.missing}  last tenth / first {result.late:.2f}"
            )
            say("    us CPU a failure: " + ", ".join(f"{name} {cpu:.0f}" for name, cpu in result.cpu_us.items()))
        figures[f"latency_{rate}_p50_ms"] = found["ours"].p50
        figures[f"latency_{rate}_p99_ms"] = found["ours"].p99
        figures[f"latency_{rate}_p50_ratio"] = found["ours"].p50 / found["relay"].p50
        figures[f"latency_{rate}_p99_ratio"] = found["ours"].p99 / found["relay"].p99
        figures[f"latency_{rate}_missing"] = found["ours"].missing
        figures |= {f"latency_{rate}_{name}_cpu_us": cpu for name, cpu in found["ours"].cpu_us.items()}
    return figures


def storms(seconds: float) -> Figures:
    """What a storm of one tool does to the latency of all else."""
    found = storm.run(seconds)
    for name, result in (("quiet", found.quiet), ("storm", found.stormy)):
        say(f"  {name:8} p50 {result.p50:8.1f} ms  p99 {result.p99:8.1f} ms  missing {result.missing}")
    say(f"  {found.commands} commands to the runs of the storm")
    return {
        "storm_quiet_p99_ms": found.quiet.p99,
        "storm_p99_ms": found.stormy.p99,
        "storm_p99_ratio": found.stormy.p99 / found.quiet.p99,
        "storm_missing": found.stormy.missing,
        "storm_commands": found.commands,
    }


def classify() -> Figures:
    """CPU of one verdict, of one whole decision, and the tail over random and mutated events."""
    # "decide, status code, us" and "random events, p99.9, ms" as keys.
    return {name.replace(", ", "_").replace(" ", "_").replace(".", ""): cost for name, cost in print_costs().items()}


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m ops.bench", description=__doc__)
    parser.add_argument("--events", type=int, default=20_000, help="of each throughput run")
    parser.add_argument("--rounds", type=int, default=3, help="of each peer, taking turns")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each latency run")
    parser.add_argument("--long", type=int, default=1_000_000, help="events of the run that looks for growth")
    parser.add_argument("--backlog", type=int, default=100_000)
    parser.add_argument("--executions", type=int, default=1_000_000, help="open ones, of the recover part")
    parser.add_argument("--only", action="append", choices=_PARTS, help="may be given more than once")
    args = parser.parse_args()
    parts: dict[str, tuple[str, Callable[[], Figures]]] = {
        "throughput": (
            "whole work: decode, classify, rank, encode, produce with delivery awaited",
            lambda: throughput(args.events, args.rounds),
        ),
        "framework": ("framework", lambda: framework(args.events * 5, args.rounds, args.long, args.backlog)),
        "latency": ("failure to resume command", lambda: latency(args.seconds)),
        "storm": ("others while one tool's failures storm", lambda: storms(args.seconds)),
        "classify": ("one verdict, one decision", classify),
        "recover": ("open executions of recover", lambda: open_executions.measure(args.executions)),
    }
    figures: Figures = {}
    for name in args.only or _PARTS:
        title, run = parts[name]
        began = time.monotonic()
        say(title)
        figures |= run()
        figures[f"{name}_part_s"] = time.monotonic() - began
    # A latency of commands that never came is no number of JSON's.
    print(json.dumps({name: round(value, 3) if math.isfinite(value) else None for name, value in figures.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
