"""`python -m cli.demo.graph run|serve PLAN`: a LangGraph graph that fails in one process and goes on in another.

`run` invokes the graph for each planned run; where a node raises, it reports the failure with the
checkpoint that LangGraph's sqlite checkpointer holds, and leaves it at that: the process ends. `serve`
follows the commands: it opens the same checkpoints and goes on from the one that the command names.
"""

from __future__ import annotations

import logging
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from omium import Agent, Command, Evidence, Omium, Outcome, SqliteFences, current

from cli.demo.job import Job, RunFailed
from cli.demo.plan import TENANT, Plan, Report, Reports
from cli.demo.work.loans import GRAPH


class State(TypedDict, total=False):
    """What the graph knows."""

    customer: str
    quote: dict[str, float]
    booked: str


def _load(state: State) -> State:
    return {"customer": state.get("customer", "C-1009")}


def _propose(state: State, config: RunnableConfig) -> State:
    job = Job(execution_id=config["configurable"]["thread_id"], modifications=current(), state=dict(state))
    return {"quote": GRAPH.run(job)}


def _book(state: State) -> State:
    return {"booked": f"{state['customer']} at {state['quote']['apr']} %"}


@contextmanager
def compiled(folder: Path) -> Iterator[Any]:
    """The graph, on the checkpoints in `folder`."""
    graph = StateGraph(State)
    graph.add_node("load", _load)
    graph.add_node("propose", _propose)
    graph.add_node("book", _book)
    graph.add_edge(START, "load")
    graph.add_edge("load", "propose")
    graph.add_edge("propose", "book")
    graph.add_edge("book", END)
    with closing(sqlite3.connect(folder / "graph.sqlite", check_same_thread=False)) as connection:
        yield graph.compile(checkpointer=SqliteSaver(connection))


def run(plan: Plan, client: Omium, reports: Reports) -> None:
    """Invoke the graph for each run, and report what fails. Nobody waits here for a command."""
    with compiled(Path(plan.folder)) as graph:
        for planned in plan.runs:
            config = {"configurable": {"thread_id": planned.execution_id}}
            try:
                graph.invoke({}, config)
            except RunFailed as error:
                failed = graph.get_state(config)
                checkpoint = {"id": failed.config["configurable"]["checkpoint_id"], "data": failed.values}
                evidence: Evidence = {**error.evidence, "step": GRAPH.step, "checkpoint": checkpoint}
                client.run(planned.execution_id).report(error, **evidence)
            else:
                reports.add(Report(execution_id=planned.execution_id, failures=0, error="it did not fail"))
    client.flush(10.0)


def serve(plan: Plan, client: Omium, reports: Reports) -> None:
    """Follow commands until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with compiled(Path(plan.folder)) as graph:

        def resume(command: Command) -> Outcome:
            """Go on from the checkpoint; the modifications reach the node as `omium.current()`."""
            place = {"thread_id": command.execution_id, "checkpoint_id": command.checkpoint.id, "checkpoint_ns": ""}
            state = graph.invoke(None, {"configurable": place})
            right = GRAPH.right(state["quote"]) and bool(state["booked"])
            report = Report(
                execution_id=command.execution_id, failures=command.attempt, output=state["booked"], right=right
            )
            reports.add(report)
            return Outcome.succeeded(state["booked"])

        with client.serve(resume):
            ended.wait()


def main(what: str, plan_file: str) -> int:
    """`run` or `serve` the plan."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
    path = Path(plan_file)
    plan = Plan.load(path)
    agent = Agent(id=GRAPH.agent, framework="langgraph", model=GRAPH.model, capabilities=GRAPH.capabilities)
    fences = SqliteFences(Path(plan.folder) / "fences.sqlite")
    with (
        closing(Reports(path.with_suffix(".jsonl"))) as reports,
        Omium(plan.bootstrap, TENANT, agent, environment="demo", fences=fences) as client,
    ):
        (run if what == "run" else serve)(plan, client, reports)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
