"""Real LangGraph graphs with a real SqliteSaver, resumed from their own checkpoints."""

from __future__ import annotations

import operator
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from omium import Agent, MemoryFences, Omium, SqliteFences, current
from omium.langgraph import WatchedGraph, fences, watch
from orchestrator import Heard, Orchestrator, eventually

pytestmark = pytest.mark.integration
TEXT = ("append_prompt", '{"text": "APR is never 0"}')


class State(TypedDict, total=False):
    apr: float
    log: Annotated[list[str], operator.add]


class Nodes:
    """Nodes that fail until the prompt says better, and remember how often they ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def steady(self, _state: State) -> State:
        self.ran.append("steady")
        return {"log": ["steady"]}

    def rate(self, _state: State) -> State:
        self.ran.append("rate")
        if "never 0" not in current().prompt():
            raise ValueError("APR = 0")
        return {"apr": 4.5, "log": ["rate"]}

    def router(self, _state: State) -> str:
        self.ran.append("router")
        if "never 0" not in current().prompt():
            raise ValueError("nowhere to go")
        return "steady"


@pytest.fixture
def client(bootstrap: str, tenant: str) -> Iterator[Omium]:
    with Omium(bootstrap, tenant, Agent(id="graph"), wait_s=10) as client:
        yield client


@pytest.fixture
def saver(tmp_path: Path) -> Iterator[SqliteSaver]:
    connection = sqlite3.connect(tmp_path / "graph.sqlite", check_same_thread=False)
    yield SqliteSaver(connection)
    connection.close()


def chain(nodes: Nodes, saver: SqliteSaver) -> Any:
    graph = StateGraph(State).add_node("steady", nodes.steady).add_node("rate", nodes.rate)
    return graph.add_edge(START, "steady").add_edge("steady", "rate").compile(checkpointer=saver)


def parallel(nodes: Nodes, saver: SqliteSaver) -> Any:
    graph = StateGraph(State).add_node("steady", nodes.steady).add_node("rate", nodes.rate)
    return graph.add_edge(START, "steady").add_edge(START, "rate").compile(checkpointer=saver)


def routed(nodes: Nodes, saver: SqliteSaver) -> Any:
    graph = StateGraph(State).add_node("rate", lambda _: {"log": ["rate"]}).add_node("steady", nodes.steady)
    graph.add_edge(START, "rate").add_conditional_edges("rate", nodes.router, ["steady"])
    return graph.compile(checkpointer=saver)


def nested(nodes: Nodes, saver: SqliteSaver) -> Any:
    inner = StateGraph(State).add_node("steady", nodes.steady).add_node("rate", nodes.rate)
    inner.add_edge(START, "steady").add_edge("steady", "rate")
    return StateGraph(State).add_node("inner", inner.compile()).add_edge(START, "inner").compile(checkpointer=saver)


@pytest.mark.parametrize(
    ("build", "failed", "ran"),
    [
        (chain, "rate", ["steady", "rate", "rate"]),
        (parallel, "rate", ["rate", "rate", "steady"]),
        (routed, "rate", ["router", "router", "steady"]),
        (nested, "inner", ["steady", "rate", "rate"]),
    ],
)
def test_in_place(
    bootstrap: str, tenant: str, client: Omium, saver: SqliteSaver, build: Any, failed: str, ran: list[str]
) -> None:
    """Only what failed runs again: finished siblings, predecessors and inner nodes keep their work."""
    nodes = Nodes()
    graph = watch(client, build(nodes, saver))
    thread = {"configurable": {"thread_id": f"in-place-{build.__name__}"}}
    with Orchestrator(bootstrap, tenant, lambda heard: heard.command(TEXT)) as orchestrator:
        values = graph.invoke({"apr": 0}, thread)
        [failure], [outcome] = orchestrator.failures(), orchestrator.outcomes()
    assert "rate" in values["log"]
    assert values["log"].count("steady") == 1
    assert sorted(nodes.ran) == sorted(ran)
    assert failure.step == failed
    assert failure.checkpoint is not None
    assert failure.output is None, "values are not sent unasked"
    assert outcome.status == "succeeded"
    assert outcome.applied == "all"


def test_without_a_command_the_graph_raises_its_own(client: Omium, saver: SqliteSaver) -> None:
    graph = watch(client, chain(Nodes(), saver), wait_s=0.01)
    with pytest.raises(ValueError, match="APR = 0"):
        graph.invoke({"apr": 0}, {"configurable": {"thread_id": "alone"}})


async def _async_invoke(graph: WatchedGraph, thread: Any) -> Any:
    return await graph.ainvoke({"apr": 0}, thread)


def test_async(bootstrap: str, tenant: str, client: Omium) -> None:
    import asyncio

    from langgraph.checkpoint.memory import InMemorySaver

    nodes = Nodes()
    graph = watch(client, chain(nodes, InMemorySaver()))  # type: ignore[arg-type]
    with Orchestrator(bootstrap, tenant, lambda heard: heard.command(TEXT)) as orchestrator:
        values = asyncio.run(_async_invoke(graph, {"configurable": {"thread_id": "async"}}))
        orchestrator.outcomes()
    assert values["apr"] == 4.5
    assert nodes.ran == ["steady", "rate", "rate"]


def test_served_elsewhere_once(bootstrap: str, tenant: str, saver: SqliteSaver) -> None:
    """Another client resumes the thread; the same command again, or an older one, has no effect."""
    nodes = Nodes()
    compiled = chain(nodes, saver)
    thread = {"configurable": {"thread_id": "elsewhere"}}
    store = fences(compiled)
    assert isinstance(store, SqliteFences)
    with (
        Orchestrator(bootstrap, tenant) as orchestrator,
        Omium(bootstrap, tenant, Agent(id="elsewhere"), wait_s=0) as first,
        Omium(bootstrap, tenant, Agent(id="elsewhere"), fences=store) as second,
        watch(second, compiled).serve(share_output=True),
    ):
        heard: list[Heard] = []
        orchestrator.answer = lambda each: heard.append(each)
        with pytest.raises(ValueError, match="APR = 0"):
            watch(first, compiled).invoke({"apr": 0}, thread)
        eventually(lambda: bool(heard))
        command = heard[0].command(TEXT, attempt=2)
        for each in (command, command, heard[0].command(TEXT, attempt=1)):
            orchestrator.command(each)
        [outcome] = orchestrator.outcomes()
        eventually(lambda: second.stats.refused == 2)
    assert outcome.status == "succeeded", outcome.applied_why
    assert outcome.final_output is not None
    assert nodes.ran == ["steady", "rate", "rate"]
    assert compiled.get_state(thread).values["apr"] == 4.5


def test_served_but_failing_again_names_the_attempt(bootstrap: str, tenant: str, saver: SqliteSaver) -> None:
    nodes = Nodes()
    compiled = chain(nodes, saver)
    thread = {"configurable": {"thread_id": "again"}}
    with (
        Orchestrator(bootstrap, tenant) as orchestrator,
        Omium(bootstrap, tenant, Agent(id="again"), wait_s=0, fences=fences(compiled)) as client,
        watch(client, compiled).serve(),
    ):
        first, second = ("append_prompt", '{"text": "be nice"}'), TEXT
        orchestrator.answer = lambda heard: heard.command(
            first if heard.failure.resumed_by is None else second,
            attempt=1 if heard.failure.resumed_by is None else 2,
        )
        with pytest.raises(ValueError, match="APR = 0"):
            watch(client, compiled).invoke({"apr": 0}, thread)
        [outcome] = orchestrator.outcomes()
        failures = orchestrator.failures(2)
    assert failures[1].resumed_by is not None
    assert failures[1].resumed_by.attempt == 1
    assert outcome.attempt == 2
    assert compiled.get_state(thread).values["apr"] == 4.5


def test_patched_state(bootstrap: str, tenant: str, client: Omium, saver: SqliteSaver) -> None:
    """Where the state has to change, the thread is forked at the named checkpoint."""

    def decide(state: State) -> State:
        if state["apr"] == 0:
            raise ValueError("APR = 0")
        return {"log": [str(state["apr"])]}

    graph = StateGraph(State).add_node("decide", decide).add_edge(START, "decide").compile(checkpointer=saver)
    watched = watch(client, graph, patch=lambda _values, mods: {"apr": mods.facts()["apr"]})
    context = ("provide_context", '{"text": "the APR is 3", "facts": {"apr": 3}}')
    with Orchestrator(bootstrap, tenant, lambda heard: heard.command(context)):
        values = watched.invoke({"apr": 0}, {"configurable": {"thread_id": "patched"}})
    assert values == {"apr": 3, "log": ["3"]}


def test_a_checkpoint_that_is_not_there(bootstrap: str, tenant: str, client: Omium, saver: SqliteSaver) -> None:
    """Told as not applied; the agent gets the graph's own exception."""
    from schemas.records import Checkpoint

    graph = watch(client, chain(Nodes(), saver), wait_s=3)
    with Orchestrator(
        bootstrap, tenant, lambda heard: heard.command(TEXT, checkpoint=Checkpoint(id="lost"))
    ) as orchestrator:
        with pytest.raises(ValueError, match="APR = 0"):
            graph.invoke({"apr": 0}, {"configurable": {"thread_id": "lost"}})
        [outcome] = orchestrator.outcomes()
    assert outcome.status == "not_applied"
    assert "lost" in outcome.applied_why


def test_fences_of_a_saver_without_a_file() -> None:
    compiled = chain(Nodes(), SqliteSaver(sqlite3.connect(":memory:", check_same_thread=False)))
    assert isinstance(fences(compiled), MemoryFences)
