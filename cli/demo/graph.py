"""`python -m cli.demo.graph run|serve PLAN`: a LangGraph graph that fails in one process and goes on in another.

`run` invokes the graph for each planned run, watched by Omium; a node raises, that is reported, and the
process ends without waiting for anybody. `serve` follows the commands: it opens the same checkpoints, in
LangGraph's own sqlite file, and goes on from where the other process stopped.
"""

from __future__ import annotations

import logging
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from omium import Agent, Evidence, Omium, current
from omium.langgraph import fences, watch

from cli.demo.job import Job, RunFailed
from cli.demo.plan import TENANT, Plan, Report, Reports
from cli.demo.work.loans import GRAPH


class State(TypedDict, total=False):
    """What the graph knows."""

    customer: str
    quote: dict[str, float]
    booked: str


@contextmanager
def compiled(folder: Path, booked: Callable[[Report], None]) -> Iterator[Any]:
    """The graph, on the checkpoints in `folder`. `booked` is told what the last node did."""

    def load(state: State) -> State:
        return {"customer": state.get("customer", "C-1009")}

    def propose(state: State, config: RunnableConfig) -> State:
        job = Job(execution_id=_thread(config), modifications=current(), state=dict(state))
        return {"quote": GRAPH.run(job)}

    def book(state: State, config: RunnableConfig) -> State:
        text = f"{state['customer']} at {state['quote']['apr']} %"
        booked(Report(execution_id=_thread(config), failures=1, output=text, right=GRAPH.right(state["quote"])))
        return {"booked": text}

    graph = StateGraph(State)
    graph.add_node("load", load)
    graph.add_node("propose", propose)
    graph.add_node("book", book)
    graph.add_edge(START, "load")
    graph.add_edge("load", "propose")
    graph.add_edge("propose", "book")
    graph.add_edge("book", END)
    with closing(sqlite3.connect(folder / "graph.sqlite", check_same_thread=False)) as connection:
        yield graph.compile(checkpointer=SqliteSaver(connection))


def _thread(config: RunnableConfig) -> str:
    thread: str = config["configurable"]["thread_id"]
    return thread


def _evidence(error: BaseException, _: object) -> Evidence:
    return error.evidence if isinstance(error, RunFailed) else {}


def main(what: str, plan_file: str) -> int:
    """`run` or `serve` the plan."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
    path = Path(plan_file)
    plan = Plan.load(path)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    agent = Agent(id=GRAPH.agent, framework="langgraph", model=GRAPH.model, capabilities=GRAPH.capabilities)
    with (
        closing(Reports(path.with_suffix(".jsonl"))) as reports,
        compiled(path.parent, reports.add) as graph,
        Omium(plan.bootstrap, TENANT, agent, environment="demo", wait_s=0.0, fences=fences(graph)) as client,
    ):
        watched = watch(client, graph, name=GRAPH.step, evidence=_evidence)
        if what == "serve":
            with watched.serve(share_output=True):
                ended.wait()
            return 0
        for planned in plan.runs:
            try:
                watched.invoke({}, {"configurable": {"thread_id": planned.execution_id}})
            except RunFailed as error:
                logging.info("%s: %s", planned.execution_id, error)
        return 0 if client.flush(10.0) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
