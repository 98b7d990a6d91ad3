"""A LangGraph graph whose failures are reported, and that is resumed from its own checkpoints.

    graph = watch(client, builder.compile(checkpointer=SqliteSaver(connection)))
    graph.invoke(inputs, {"configurable": {"thread_id": "loan-17"}})    # reports, waits in place, resumes
    graph.serve().join()                                                # or: resumes threads of others

The thread is the execution. Nodes find what to change in `omium.current()`, also in the threads and tasks
in which LangGraph runs them. So the graph goes on by a plain resume, which runs only what failed and keeps
what its siblings finished; a fork is made only where the state has to change (`patch`), where a router
failed (a plain resume would skip it: langgraph#8834), or where the command names an older checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omium.acceptor import FenceStore, MemoryFences, SqliteFences
from omium.client import Omium
from omium.modifications import Modifications, current
from omium.records import Command, Evidence, Outcome
from omium.run import current_command, note
from omium.serve import Service
from omium.step import NotAppliedError, StepOptions, passes

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph
    from langgraph.types import StateSnapshot

Patch = Callable[[Mapping[str, Any], Modifications], Mapping[str, Any] | None]
"""From the state's values and the modifications: what to change in the state, or None."""
_log = logging.getLogger("omium")


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to go on: from `config`, after an `update` of the state where one is asked for."""

    config: dict[str, Any]
    fork: bool = False
    update: Mapping[str, Any] | None = None


def fences(graph: CompiledStateGraph[Any, Any, Any, Any]) -> FenceStore:
    """Fences in the SQLite file of the graph's own checkpointer: what accepts a command lives where its effect does.

    Of a checkpointer that has no file: fences in memory.
    """
    connection = getattr(graph.checkpointer, "conn", None)
    if connection is None:
        return MemoryFences()
    with closing(connection.execute("PRAGMA database_list")) as rows:
        path = next((row[2] for row in rows if row[1] == "main"), "")
    return SqliteFences(path) if path else MemoryFences()


def watch(
    client: Omium,
    graph: CompiledStateGraph[Any, Any, Any, Any],
    *,
    name: str = "graph",
    patch: Patch | None = None,
    evidence: Callable[[BaseException, Mapping[str, Any]], Evidence] | None = None,
    **options: Any,
) -> WatchedGraph:
    """`graph`, with `invoke` and `ainvoke` watched; everything else is the graph's own.

    Where several processes work on one checkpointer, each needs a client with `fences=fences(graph)`.

    `evidence`: from the exception and the state's values, what to send of them: by default no value is
    sent. `options`: constraints, check, wait_s ... of the final values, as for `Omium.step`.
    """
    return WatchedGraph(client, graph, name, patch, evidence, StepOptions(**options))  # type: ignore[typeddict-item]


class WatchedGraph:
    """What `watch` returns."""

    def __init__(
        self,
        client: Omium,
        graph: CompiledStateGraph[Any, Any, Any, Any],
        name: str,
        patch: Patch | None,
        evidence: Callable[[BaseException, Mapping[str, Any]], Evidence] | None,
        options: StepOptions,
    ) -> None:
        self.graph: Any = graph
        self._client = client
        self._name = name
        self._patch = patch
        self._evidence = evidence
        self._options = options

    def __getattr__(self, name: str) -> Any:
        return getattr(self.graph, name)

    def invoke(self, inputs: Any, config: Mapping[str, Any], **kwargs: Any) -> Any:
        """As the graph's: on a failure reports, waits in place up to `wait_s`, resumes, or raises the graph's own."""
        first = iter((True,))

        def attempt() -> Any:
            if next(first, False):
                return self._noting(lambda: self.graph.invoke(inputs, config, **kwargs), config)
            command = current_command()
            assert command is not None
            return self._noting(lambda: self.resume(command, config, **kwargs), config)

        return self._client.step(self._name, **self._options | {"execution": _thread(config)})(attempt)()

    async def ainvoke(self, inputs: Any, config: Mapping[str, Any], **kwargs: Any) -> Any:
        """As `invoke`, for a graph with an asynchronous checkpointer."""
        first = iter((True,))

        async def attempt() -> Any:
            if next(first, False):
                return await self._anoting(lambda: self.graph.ainvoke(inputs, config, **kwargs), config)
            command = current_command()
            assert command is not None
            return await self._anoting(lambda: self.aresume(command, config, **kwargs), config)

        return await self._client.step(self._name, **self._options | {"execution": _thread(config)})(attempt)()

    def serve(self, *, share_output: bool = False, **options: Any) -> Service:
        """Resume the threads that commands name, in this process: see `Omium.serve`.

        Give the client `fences=fences(graph)`: a repeated command would fork and run again.
        `share_output`: whether the final values are sent with the outcome.
        """

        def handle(command: Command) -> Outcome:
            config = {"configurable": {"thread_id": command.execution_id}}
            values = self._noting(lambda: self.resume(command, config), config)
            return Outcome.succeeded(values if share_output else None)

        return self._client.serve(handle, **options)

    def resume(self, command: Command, config: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        """Go on from the checkpoint that `command` names, with `omium.current()` as the changes.

        Raises NotAppliedError where that checkpoint is not there, or its thread has ended since; and
        whatever the graph raises.
        """
        thread = _config(config, command.execution_id)
        latest = self.graph.get_state(thread)
        named = latest if _id(latest) == command.checkpoint.id else self.graph.get_state(_at(thread, command))
        plan = self._plan(command, thread, latest, named)
        if plan.fork:
            plan = _Plan(_merged(thread, self.graph.update_state(plan.config, plan.update)))
        return self.graph.invoke(None, plan.config, **kwargs)

    async def aresume(self, command: Command, config: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        """As `resume`, for a graph with an asynchronous checkpointer."""
        thread = _config(config, command.execution_id)
        latest = await self.graph.aget_state(thread)
        named = latest if _id(latest) == command.checkpoint.id else await self.graph.aget_state(_at(thread, command))
        plan = self._plan(command, thread, latest, named)
        if plan.fork:
            plan = _Plan(_merged(thread, await self.graph.aupdate_state(plan.config, plan.update)))
        return await self.graph.ainvoke(None, plan.config, **kwargs)

    def _plan(self, command: Command, thread: dict[str, Any], latest: StateSnapshot, named: StateSnapshot) -> _Plan:
        if _id(named) != command.checkpoint.id or named.created_at is None:
            raise NotAppliedError(f"no checkpoint {command.checkpoint.id} on this thread")
        failed = [task for task in latest.tasks if task.error]
        if not latest.next and not failed:
            raise NotAppliedError("the thread has ended since")
        update = self._patch(named.values, current()) if self._patch is not None else None
        if update is not None or (not named.next and any(task.error for task in named.tasks)):
            return _Plan(_merged(thread, named.config), fork=True, update=update)
        # Without a checkpoint's name LangGraph keeps what finished siblings wrote, and finds inner graphs' places.
        return _Plan(thread if named is latest else _merged(thread, named.config))

    # -- telling of a failure -----------------------------------------------------------------------

    def _noting(self, call: Callable[[], Any], config: Mapping[str, Any]) -> Any:
        try:
            return call()
        except BaseException as error:
            if not passes(error):
                try:
                    self._note(error, self.graph.get_state(_config(config, None)), config)
                except Exception:
                    _log.exception("omium: the thread's state cannot be read")
            raise

    async def _anoting(self, call: Callable[[], Awaitable[Any]], config: Mapping[str, Any]) -> Any:
        try:
            return await call()
        except BaseException as error:
            if not passes(error):
                try:
                    self._note(error, await self.graph.aget_state(_config(config, None)), config)
                except Exception:
                    _log.exception("omium: the thread's state cannot be read")
            raise

    def _note(self, error: BaseException, snapshot: StateSnapshot, config: Mapping[str, Any]) -> None:
        told = Evidence()
        if (checkpoint_id := _id(snapshot)) is not None:
            told["checkpoint"] = {"id": checkpoint_id, "created_at": snapshot.created_at}
        if (failed := next((task.name for task in snapshot.tasks if task.error), None)) is not None:
            told["step"] = failed
        if type(error).__name__ == "GraphRecursionError" and "recursion_limit" in config:
            told["metrics"] = {"steps": config["recursion_limit"], "step_limit": config["recursion_limit"]}
        if self._evidence is not None:
            told.update(self._evidence(error, snapshot.values))
        note(**told)


def _thread(config: Mapping[str, Any]) -> str:
    """The execution: the thread's id. Raises KeyError where the config names none, as LangGraph itself does later."""
    return str(config["configurable"]["thread_id"])


def _config(config: Mapping[str, Any] | None, thread_id: str | None) -> dict[str, Any]:
    """`config` for the newest state of its thread, with the step limit that a command may set."""
    merged = dict(config or {})
    configurable = dict(merged.get("configurable", {}))
    configurable.pop("checkpoint_id", None)
    merged["configurable"] = configurable | ({"thread_id": thread_id} if thread_id is not None else {})
    if (limit := current().step_limit(0)) > 0:
        merged["recursion_limit"] = limit
    return merged


def _at(thread: dict[str, Any], command: Command) -> dict[str, Any]:
    return _merged(thread, {"configurable": {"checkpoint_id": command.checkpoint.id}})


def _merged(config: dict[str, Any], place: Mapping[str, Any]) -> dict[str, Any]:
    """`config`, at the checkpoint that `place` names."""
    return config | {"configurable": config["configurable"] | place["configurable"]}


def _id(snapshot: StateSnapshot) -> str | None:
    return snapshot.config["configurable"].get("checkpoint_id")
