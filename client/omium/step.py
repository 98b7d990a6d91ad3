"""The decorator: a step that fails is reported, waits in place for its command, and runs again as commanded."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypedDict, TypeVar, Unpack

from omium.constraints import violations
from omium.modifications import Modifications, current
from omium.records import Checkpoint, Command, Evidence
from omium.run import IN_PLACE, Run, attempt, current_command, current_run

if TYPE_CHECKING:
    from omium.client import Omium

P = ParamSpec("P")
R = TypeVar("R")
_log = logging.getLogger("omium")
# The orchestrator ends a recovery far earlier; this only keeps a faulty one from looping an agent.
_MOST_ATTEMPTS: Final = 20
_REPORTED: Final = "__omium_reported__"


class Violation(Exception):  # noqa: N818  names what happened, as KeyboardInterrupt does
    """A step's answer breaks its constraints, or what `check` demands. Raise it yourself with more evidence."""

    def __init__(self, message: str, **evidence: Unpack[Evidence]) -> None:
        super().__init__(message)
        self.evidence = evidence


class NotAppliedError(Exception):
    """Raise it in a resumed step or a handler: the command cannot be followed, another may come."""


class StepOptions(TypedDict, total=False):
    """How a step is watched."""

    execution: str | Callable[..., str]
    """The execution it belongs to, or from the step's arguments. Absent: the current run (`with
    client.run(...)`), else an execution of its own."""
    checkpoint: Checkpoint | str | Callable[..., Checkpoint | Mapping[str, Any] | str]
    """Where it begins, or from the step's arguments. Absent: the last checkpoint of the run, else its own
    beginning, from which this process can go on while it waits."""
    constraints: Mapping[str, Any]
    """What its answer must keep. An answer that does not is a failure, and is sent as evidence."""
    check: Callable[[Any], str | Violation | None]
    """From its answer: what is wrong with it, or None. For what constraints cannot say."""
    evidence: Evidence
    """Goes with every failure of the step: its prompt, facts, required steps ..."""
    wait_s: float
    """Instead of the client's."""
    on_violation: Literal["raise", "return"]
    """Where no command cures a violation: raise Violation (the default), or return the answer all the same."""
    send_output: bool
    """Whether the answer of a resumed step is sent as its final output. By default where there are constraints."""


@dataclass(frozen=True, slots=True)
class _Call:
    """Asks the driver to run the step."""

    run: Run
    command: Command | None
    modifications: Modifications


@dataclass(frozen=True, slots=True)
class _Wait:
    """Asks the driver to wait for the command."""

    run: Run
    failure_id: str
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class _Done:
    """What came of a call: an answer, or an exception."""

    answer: Any
    error: BaseException | None
    notes: Evidence

    def end(self) -> Any:
        """The answer. Raises the exception, where it is one."""
        if self.error is not None:
            raise self.error
        return self.answer


_Life = Generator[_Call | _Wait, Any, _Done]


def step(client: Omium, name: str, options: StepOptions) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The decorator behind `Omium.step`.

    A parameter called `mods` of the step receives its `Modifications`; elsewhere `omium.current()` gives
    them. What is no failure passes through unseen: KeyboardInterrupt, SystemExit, GeneratorExit,
    asyncio.CancelledError, and LangGraph's interrupts.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        watched = _Step(client, name, options)
        takes_mods = "mods" in inspect.signature(function).parameters

        def call(ask: _Call, args: Any, kwargs: dict[str, Any]) -> Any:
            if takes_mods and "mods" not in kwargs:
                kwargs = kwargs | {"mods": ask.modifications}
            return function(*args, **kwargs)

        async def run_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await _drive_async(watched.life(args, kwargs), lambda ask: call(ask, args, kwargs))

        def run(*args: P.args, **kwargs: P.kwargs) -> Any:
            return _drive(watched.life(args, kwargs), lambda ask: call(ask, args, kwargs))

        return functools.wraps(function)(run_async if inspect.iscoroutinefunction(function) else run)

    return decorate


def _drive(life: _Life, call: Callable[[_Call], Any]) -> Any:
    told: Any = None
    try:
        while True:
            ask = life.send(told)
            if isinstance(ask, _Wait):
                told = ask.run.wait(ask.failure_id, ask.timeout_s)
                continue
            with attempt(ask.run, ask.command, ask.modifications) as notes:
                try:
                    told = _Done(call(ask), None, notes)
                except BaseException as error:
                    told = _Done(None, error, notes)
    except StopIteration as end:
        done: _Done = end.value
    # Not in the handler: it would become the context of the agent's exception.
    return done.end()


async def _drive_async(life: _Life, call: Callable[[_Call], Any]) -> Any:
    told: Any = None
    try:
        while True:
            ask = life.send(told)
            if isinstance(ask, _Wait):
                told = await ask.run.wait_async(ask.failure_id, ask.timeout_s)
                continue
            with attempt(ask.run, ask.command, ask.modifications) as notes:
                try:
                    told = _Done(await call(ask), None, notes)
                except BaseException as error:
                    told = _Done(None, error, notes)
    except StopIteration as end:
        done: _Done = end.value
    # Not in the handler: it would become the context of the agent's exception.
    return done.end()


def passes(error: BaseException) -> bool:
    """Whether `error` is no failure: the end of the process or task, or a framework's interrupt."""
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | asyncio.CancelledError):
        return True
    return any(kind.__name__ == "GraphBubbleUp" for kind in type(error).__mro__)


def reported(error: BaseException, run: Run) -> bool:
    """Whether a step inside has reported `error` already, as a failure of the same execution."""
    return getattr(error, _REPORTED, None) == run.key


@dataclass(frozen=True, slots=True)
class _Step:
    client: Omium
    name: str
    options: StepOptions

    def life(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Life:
        """The policy, without IO: yields what is to be done, is sent what came of it.

        Returns the step's answer, or its own exception, that of the last attempt. It is the driver that
        raises it: a StopIteration would not leave a generator as what it is (PEP 479).
        """
        run = self._run(args, kwargs)
        # Inside an attempt of somebody else (a handler, a step around this one) the first run is part of it.
        outer = current_command()
        command: Command | None = None
        last: _Done | None = None
        failure_id, only_here = "", False
        for attempts_left in reversed(range(_MOST_ATTEMPTS)):
            modifications = command.modifications if command else current()
            done: _Done = yield _Call(run, command or outer, modifications)
            error = done.error if done.error is not None else self._violation(done.answer)
            if error is None:
                if command is not None:
                    run.succeeded(command, done.answer if self._sends_output else None)
                return done
            if passes(error) or (reported(error, run) and last is None):
                return _Done(done.answer, error, done.notes)
            if isinstance(error, NotAppliedError) and command is not None:
                run.not_applied(command, str(error))
            else:
                last = _Done(done.answer, error, done.notes)
                evidence = self._evidence(run, last, args, kwargs)
                only_here = str(evidence.get("checkpoint")).startswith(IN_PLACE)
                if command is not None:
                    answered, failure_id = failure_id, run.failed_again(command, error, **evidence)
                    if answered != failure_id:
                        # Else it would still count as one that waits, and keep what comes too late to itself.
                        run.give_up(answered)
                else:
                    failure_id = run.report(error, resumed_by=outer, **evidence)
            command = (yield _Wait(run, failure_id, self.options.get("wait_s"))) if attempts_left else None
            if command is None:
                break
        run.give_up(failure_id, only_here=only_here)
        return self._give_up(run, last)

    def _give_up(self, run: Run, last: _Done | None) -> _Done:
        assert last is not None
        assert last.error is not None
        if type(last.error) is Violation and self.options.get("on_violation") == "return" and last.answer is not None:
            return _Done(last.answer, None, last.notes)
        try:
            setattr(last.error, _REPORTED, run.key)
        except Exception:
            _log.debug("omium: %s takes no mark", type(last.error).__name__)
        return last

    @property
    def _sends_output(self) -> bool:
        return self.options.get("send_output", "constraints" in self.options)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run:
        named = self.options.get("execution")
        try:
            if named is not None:
                return self.client.run(named if isinstance(named, str) else named(*args, **kwargs))
        except Exception:
            _log.exception("omium: step %s: its execution cannot be named", self.name)
        return current_run() or self.client.run(f"{self.name[:200]}-{uuid.uuid4().hex}")

    def _violation(self, answer: Any) -> Violation | None:
        try:
            if found := violations(answer, self.options.get("constraints", {})):
                return Violation("; ".join(found))
            wrong = self.options["check"](answer) if "check" in self.options else None
            return Violation(wrong) if isinstance(wrong, str) else wrong
        except Exception:
            _log.exception("omium: step %s: its answer cannot be checked", self.name)
            return None

    def _evidence(self, run: Run, last: _Done, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Evidence:
        """What is known of the failure: the step's standing evidence first, the error's own word last."""
        evidence = Evidence(step=self.name)
        try:
            place = self.options.get("checkpoint")
            if place is not None:
                evidence["checkpoint"] = place(*args, **kwargs) if callable(place) else place
            elif run.last_checkpoint is None:
                evidence["checkpoint"] = f"{IN_PLACE}{self.name[:200]}"
            evidence.update(self.options.get("evidence", {}))
            if "constraints" in self.options:
                evidence["constraints"] = self.options["constraints"]
                if last.answer is not None:
                    evidence["output"] = last.answer
            evidence.update(last.notes)
            if isinstance(last.error, Violation):
                evidence.update(last.error.evidence)
        except Exception:
            _log.exception("omium: step %s: its evidence is incomplete", self.name)
        return evidence
