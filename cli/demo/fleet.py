"""`python -m cli.demo.fleet PLAN`: a process of agents that work, fail, and come back by the `omium` client alone."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from omium import NONE, Agent, Modifications, Omium

from cli.demo.job import Job, Json, RunFailed, Work
from cli.demo.plan import TENANT, Plan, Planned, Report, Reports
from cli.demo.work import WORKS


class Fleet:
    """All agents of this process: each kind of agent has a client of its own, as it would in a process of its own."""

    def __init__(self, plan: Plan, reports: Reports) -> None:
        self._plan = plan
        self._reports = reports
        self._clients: dict[tuple[str, tuple[str, ...]], Omium] = {}
        self._lock = threading.Lock()

    def work(self) -> None:
        """Run everything; returns when all runs have ended."""
        threads = []
        for run in self._plan.runs:
            threads.append(threading.Thread(target=self._run, args=(run,), daemon=True))
            threads[-1].start()
            time.sleep(self._plan.every_s)
        for thread in threads:
            thread.join()

    def close(self) -> None:
        """Send what is queued."""
        for client in self._clients.values():
            client.close()

    def _run(self, run: Planned) -> None:
        work = WORKS[run.work]
        job = Job(execution_id=run.execution_id, services_port=self._plan.services_port)
        try:
            output = self._watched(work)(job)
        except Exception as error:
            self._reports.add(Report(execution_id=run.execution_id, failures=job.failures, error=str(error)))
        else:
            right = work.right(output)
            report = Report(execution_id=run.execution_id, failures=job.failures, output=output, right=right)
            self._reports.add(report)

    def _watched(self, work: Work) -> Callable[[Job], Json]:
        """The step of this work, watched: this is all that an agent needs."""

        @self._client(work).step(
            work.step, execution=lambda job: job.execution_id, checkpoint=_checkpoint, send_output=True
        )
        def attempt(job: Job, mods: Modifications = NONE) -> Json:
            job.modifications = mods
            try:
                return work.run(job)
            except RunFailed:
                job.failures += 1
                raise

        return attempt

    def _client(self, work: Work) -> Omium:
        with self._lock:
            known = (work.agent, work.capabilities)
            if known not in self._clients:
                agent = Agent(id=work.agent, framework="demo", model=work.model, capabilities=work.capabilities)
                self._clients[known] = Omium(
                    self._plan.bootstrap, TENANT, agent, environment="demo", wait_s=self._plan.wait_s
                )
            return self._clients[known]


def _checkpoint(job: Job) -> dict[str, Json]:
    """What the run has so far."""
    return {"id": f"{job.execution_id}-{job.failures}", "data": job.state}


def main(plan_file: str) -> int:
    """Work through the plan; 0 whatever became of the runs: the reports say."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
    path = Path(plan_file)
    reports = Reports(path.with_suffix(".jsonl"))
    fleet = Fleet(Plan.load(path), reports)
    try:
        fleet.work()
    finally:
        fleet.close()
        reports.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
