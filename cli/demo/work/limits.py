"""Agents that run past a limit of time, memory or tokens. The time passes and the bytes are held for real."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from cli.demo.job import Job, Json, RunFailed, Work
from cli.demo.model import ScriptedModel

_TIMEOUT_S: Final = 0.6
_DOCUMENT_BYTES: Final = 256 * 1024
_DOCUMENTS: Final = 40
_MEMORY_LIMIT_BYTES: Final = 4 * 1024 * 1024
_NOTE: Final = "Nothing new was said about the merger in this meeting. " * 18
_NOTES: Final = 100
_DECISION: Final = "DECISION: the board approved the merger."
_BRIEF: Final = ScriptedModel(prompt="Brief me on the merger.", model="gpt-4", steps=8)
_DIGEST: Final = ScriptedModel(prompt="What was decided?")


def _brief(job: Job) -> Json:
    """Reason for as long as the model takes, inside the run's own time."""
    started = time.monotonic()
    for step in _BRIEF.think(job.modifications):
        spent = time.monotonic() - started
        if spent > _TIMEOUT_S:
            message = f"agent timed out: {spent:.2f} s, {_TIMEOUT_S:g} s allowed"
            raise _over(message, _BRIEF, {"duration_s": spent, "timeout_s": _TIMEOUT_S, "steps": step + 1})
    return "done"


def _ledger(job: Job) -> Json:
    """Read the documents; each of a batch is held in memory until the batch is done."""
    documents = range(job.state.get("read", 0), _DOCUMENTS)
    for batch in job.modifications.batches(documents):
        held: list[bytearray] = []
        for _ in batch:
            held.append(bytearray(_DOCUMENT_BYTES))
            used = sum(map(len, held))
            if used > _MEMORY_LIMIT_BYTES:
                message = f"out of memory: {used} bytes held, {_MEMORY_LIMIT_BYTES} allowed"
                raise _over(message, None, {"memory_bytes": used, "memory_limit_bytes": _MEMORY_LIMIT_BYTES})
        job.state["read"] = job.state.get("read", 0) + len(held)
    return job.state["read"]


def _digest(job: Job) -> Json:
    """Sum up a long file of notes; what matters is in the newest."""
    notes = [f"{n}: {_NOTE}" for n in range(_NOTES)] + [_DECISION]
    notes = _newest(notes, job.modifications.context_tokens(_tokens(notes)))
    tokens, window = _tokens(notes), _DIGEST.window_tokens(job.modifications)
    if tokens > window:
        message = f"context of {tokens} tokens; the model's limit is {window}"
        raise _over(message, _DIGEST, {"tokens": tokens, "token_limit": window})
    return next(note for note in notes if note.startswith("DECISION"))


def _tokens(notes: Sequence[str]) -> int:
    return sum(len(note.split()) for note in notes)


def _newest(notes: Sequence[str], target_tokens: int) -> list[str]:
    kept: list[str] = []
    for note in reversed(notes):
        if _tokens([*kept, note]) > target_tokens:
            break
        kept.insert(0, note)
    return kept


def _over(message: str, model: ScriptedModel | None, metrics: dict[str, Any]) -> RunFailed:
    execution = {"model": model.model, "prompt": model.prompt} if model else {}
    return RunFailed(
        message,
        origin="runtime",
        metrics=metrics,
        execution=execution,
        side_effects="none",
    )


WORKS: Final = (
    Work(
        name="briefing",
        agent="briefing-agent",
        failing="runs past its time",
        run=_brief,
        right=lambda output: output == "done",
        cures=frozenset({"reduce_complexity", "set_model"}),
        capabilities=("reduce_complexity",),
        model=_BRIEF.model,
    ),
    Work(
        name="briefing-slow",
        agent="briefing-agent",
        failing="runs past its time on a slow model",
        run=_brief,
        right=lambda output: output == "done",
        cures=frozenset({"reduce_complexity", "set_model"}),
        capabilities=("set_model",),
        model=_BRIEF.model,
    ),
    Work(
        name="ledger",
        agent="ledger-agent",
        failing="runs out of memory",
        run=_ledger,
        right=lambda output: output == _DOCUMENTS,
        cures=frozenset({"set_batch_size"}),
        capabilities=("set_batch_size",),
    ),
    Work(
        name="digest",
        agent="digest-agent",
        failing="too many tokens",
        run=_digest,
        right=lambda output: output == _DECISION,
        cures=frozenset({"compress_context", "set_model"}),
        capabilities=("compress_context",),
        model=_DIGEST.model,
    ),
    Work(
        name="digest-whole",
        agent="digest-agent",
        failing="too many tokens, and none to spare",
        run=_digest,
        right=lambda output: output == _DECISION,
        cures=frozenset({"compress_context", "set_model"}),
        capabilities=("set_model",),
        model=_DIGEST.model,
    ),
)
