"""The README's examples, run as they stand against the real broker."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import omium
import pytest
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from omium import Modifications, Omium
from orchestrator import Heard, Orchestrator, command

from schemas.records import ResumeCommand

README = Path(__file__).parent.parent / "README.md"
CHANGES = (("append_prompt", '{"text": "APR is never 0"}'), ("set_retry", '{"max_attempts": 3, "base_delay_s": 0}'))


class State(TypedDict, total=False):
    apr: float


def ask(model: str, prompt: str) -> dict[str, float]:
    assert model == "small"
    return {"apr": 4.5 if "never 0" in prompt else 0}


def node(_: State) -> State:
    answer = ask("small", omium.current().prompt())
    if not answer["apr"]:
        raise ValueError("APR = 0")
    return {"apr": answer["apr"]}


@contextmanager
def closing_clients(names: dict[str, Any]) -> Iterator[None]:
    yield
    for value in names.values():
        if isinstance(value, Omium):
            value.close()


@pytest.mark.integration
def test_examples(bootstrap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    quotes = iter([TimeoutError("Connection timeout after 30s"), TimeoutError(), 4.5])

    def quote() -> Any:
        answer = next(quotes)
        if isinstance(answer, TimeoutError):
            raise answer
        return answer

    def propose_from(state: str, mods: Modifications) -> dict[str, float]:
        assert state == "application-19 at quoted"
        return ask("small", mods.prompt())

    saver = SqliteSaver(sqlite3.connect(tmp_path / "graph.sqlite", check_same_thread=False))
    names: dict[str, Any] = {
        "BOOTSTRAP": bootstrap,
        "FENCES": tmp_path / "fences.sqlite",
        "ask": ask,
        "quote": quote,
        "load": lambda execution_id, checkpoint_id: f"{execution_id} at {checkpoint_id}",
        "propose_from": propose_from,
        "compiled": StateGraph(State).add_node("apr", node).add_edge(START, "apr").compile(checkpointer=saver),
    }

    def answer(heard: Heard) -> ResumeCommand:
        return heard.command(*CHANGES)

    with Orchestrator(bootstrap, "acme", answer) as orchestrator, closing_clients(names):
        for number, block in enumerate(blocks):
            if number == 2:
                from schemas.records import Checkpoint

                orchestrator.command(
                    command(
                        *CHANGES, execution_id="application-19", agent_id="nightly", checkpoint=Checkpoint(id="quoted")
                    )
                )
            exec(compile(block, f"{README.name}, example {number + 1}", "exec"), names)
        outcomes = {outcome.execution_id: outcome for outcome in orchestrator.outcomes(4)}
    assert capsys.readouterr().out == "{'apr': 4.5}\n{'apr': 4.5}\n"
    assert set(outcomes) == {"application-17", "application-18", "application-19", "thread-1"}
    assert all(outcome.status == "succeeded" for outcome in outcomes.values())
    assert outcomes["application-18"].retry_count == 2
    assert outcomes["application-18"].final_output == '{"rate":4.5}'
