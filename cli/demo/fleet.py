"""`python -m cli.demo.fleet PLAN`: a process of agents that work, fail, and come back by the `omium` client alone.

The plan is a JSON file: {bootstrap, services_port, reports, every_s, runs: [{execution_id, work}]}. How each run
ended is appended to the file `reports`, a JSON line each: {execution_id, output, right, error}.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from omium import NONE, Agent, Modifications, Omium

from cli.demo.job import Job, Json, Work
from cli.demo.work import WORKS

TENANT: Final = "demo"
WAIT_S: Final = 75.0
"""Patience of an agent: a worker that was killed is back long before."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process of the fleet has to do."""

    bootstrap: str
    services_port: int
    reports: str
    every_s: float
    """Time between the starts of two runs."""
    runs: list[dict[str, str]]


class Fleet:
    """All agents of this process: each kind of agent has a client of its own, as it would in a process of its own."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._clients: dict[tuple[str, tuple[str, ...]], Omium] = {}
        self._reports = Path(plan.reports).open("a", buffering=1)  # noqa: SIM115  closed by close
        self._lock = threading.Lock()

    def work(self) -> None:
        """Run everything; returns when all runs have ended."""
        threads = []
        for run in self._plan.runs:
            thread = threading.Thread(target=self._run, args=(WORKS[run["work"]], run["execution_id"]), daemon=True)
            thread.start()
            threads.append(thread)
            time.sleep(self._plan.every_s)
        for thread in threads:
            thread.join()

    def close(self) -> None:
        """Send what is queued."""
        for client in self._clients.values():
            client.close()
        self._reports.close()

    def _run(self, work: Work, execution_id: str) -> None:
        job = Job(execution_id=execution_id, services_port=self._plan.services_port)
        report: dict[str, Any] = {"execution_id": execution_id, "output": None, "right": False, "error": ""}
        try:
            report["output"] = self._watched(work)(job)
            report["right"] = work.right(report["output"])
        except Exception as error:
            report["error"] = f"{type(error).__name__}: {error}"
        with self._lock:
            self._reports.write(json.dumps(report) + "\n")

    def _watched(self, work: Work) -> Callable[[Job], Json]:
        """The step of this work, watched by Omium: this is all that an agent needs."""
        client = self._client(work)

        @client.step(work.step, execution=lambda job: job.execution_id, checkpoint=_checkpoint, send_output=True)
        def attempt(job: Job, mods: Modifications = NONE) -> Json:
            job.modifications = mods
            return work.run(job)

        return attempt

    def _client(self, work: Work) -> Omium:
        with self._lock:
            known = (work.agent, work.capabilities)
            if known not in self._clients:
                agent = Agent(id=work.agent, framework="demo", model=work.model, capabilities=work.capabilities)
                self._clients[known] = Omium(self._plan.bootstrap, TENANT, agent, environment="demo", wait_s=WAIT_S)
            return self._clients[known]


def _checkpoint(job: Job) -> dict[str, Json]:
    """What the run has so far."""
    return {"id": f"{job.execution_id}-{len(job.state)}", "data": job.state}


def main(plan_file: str) -> int:
    """Work through the plan; 0 whatever became of the runs: the reports say."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
    fleet = Fleet(Plan(**json.loads(Path(plan_file).read_text())))
    try:
        fleet.work()
    finally:
        fleet.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
