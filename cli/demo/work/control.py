"""A run that stops because it was told to: no failure, whatever it looks like."""

from __future__ import annotations

from typing import Final

from cli.demo.job import Job, Json, RunFailed, Work


class ApprovalRequired(RunFailed):
    """A person must say yes first."""


def _transfer(job: Job) -> Json:
    raise ApprovalRequired(
        f"the transfer of run {job.execution_id} waits for a person's approval", origin="runtime", side_effects="none"
    )


WORKS: Final = (
    Work(
        name="transfer",
        agent="transfer-agent",
        failing="waits for an approval",
        run=_transfer,
        right=lambda _: False,
        cures=frozenset(),
        capabilities=("append_prompt", "set_retry"),
        ends="not_a_failure",
        step="transfer",
    ),
)
