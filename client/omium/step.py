"""The decorator: a step that fails is reported, waits in place for its command, and runs again as commanded."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypedDict, TypeVar, Unpack

from omium.constraints import violations
from omium.modifications import Modifications, current, using
from omium.records import Checkpoint, Command, Evidence
from omium.run import Run, current_command, current_run

if TYPE_CHECKING:
    from omium.client import Omium

P = ParamSpec("P")
R = TypeVar("R")
_log = logging.getLogger("omium")
# The orchestrator ends a recovery far earlier; this only keeps a faulty one from looping an agent.
_MOST_ATTEMPTS: Final = 20


class Violation(Exception):  # noqa: N818  names what happened, as Python's own KeyboardInterrupt does
    """A step's answer breaks its constraints, or what `check` demands. Raise it yourself with more evidence."""

    def __init__(self, message: str, **evidence: Unpack[Evidence]) -> None:
        super().__init__(message)
        self.evidence = evidence


class StepOptions(TypedDict, total=False):
    """How a step is watched. Callables get the arguments of the step, or its answer where it says so."""

    execution: str | Callable[..., str]
    """The execution it belongs to. Absent: the current run (`with client.run(...)`), else one of its own."""
    checkpoint: Checkpoint | str | Callable[..., Checkpoint | Mapping[str, Any] | str]
    """Where it begins. Absent: the last checkpoint of the run, else its own beginning, while it waits."""
    constraints: Mapping[str, Any]
    """What its answer must keep. An answer that does not is a failure, and is sent as evidence."""
    check: Callable[[Any], str | Violation | None]
    """From its answer: what is wrong with it, or None. For what constraints cannot say."""
    evidence: Evidence
    """Goes with every failure of the step: prompt, facts, required steps ..."""
    wait_s: float
    """Instead of the client's."""
    on_violation: Literal["raise", "return"]
    """Where no command cures a violation: raise Violation (the default), or return the answer all the same."""
    send_output: bool
    """Whether the answer of a resumed step is sent as its final output. By default where there are constraints."""


@dataclass(frozen=True, slots=True)
class _Call:
    """Asks the driver to run the step."""

    modifications: Modifications
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    notes: Evidence


@dataclass(frozen=True, slots=True)
class _Wait:
    """Asks the driver to wait for the command."""

    run: Run
    failure_id: str
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException


_Life = Generator[_Call | _Wait, Any, Any]
_notes: ContextVar[Evidence | None] = ContextVar("omium_notes", default=None)


def note(**evidence: Unpack[Evidence]) -> None:
    """Inside a step: evidence that is sent only if the step fails, such as its tool's answer or its reasoning."""
    notes = _notes.get()
    if notes is not None:
        notes.update(evidence)


def step(client: Omium, name: str, options: StepOptions) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The decorator behind `Omium.step`.

    A parameter called `mods` of the step receives its `Modifications`; elsewhere `omium.current()` gives
    them. What is no failure passes through unseen: KeyboardInterrupt, SystemExit, GeneratorExit,
    asyncio.CancelledError, and LangGraph's interrupts.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        watched = _Step(client, name, options, "mods" in inspect.signature(function).parameters)

        async def run_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await _drive_async(watched.life(args, kwargs), function)

        def run(*args: P.args, **kwargs: P.kwargs) -> Any:
            return _drive(watched.life(args, kwargs), function)

        return functools.wraps(function)(run_async if inspect.iscoroutinefunction(function) else run)

    return decorate


def _drive(life: _Life, function: Callable[..., Any]) -> Any:
    ask = next(life)
    while True:
        if isinstance(ask, _Wait):
            told: Any = ask.run.wait(ask.failure_id, ask.timeout_s)
        else:
            with _attempt(ask):
                try:
                    told = function(*ask.args, **ask.kwargs)
                except BaseException as error:
                    told = _Raised(error)
        try:
            ask = life.send(told)
        except StopIteration as end:
            return end.value


async def _drive_async(life: _Life, function: Callable[..., Any]) -> Any:
    ask = next(life)
    while True:
        if isinstance(ask, _Wait):
            told: Any = await ask.run.wait_async(ask.failure_id, ask.timeout_s)
        else:
            with _attempt(ask):
                try:
                    told = await function(*ask.args, **ask.kwargs)
                except BaseException as error:
                    told = _Raised(error)
        try:
            ask = life.send(told)
        except StopIteration as end:
            return end.value


@contextmanager
def _attempt(call: _Call) -> Iterator[None]:
    token = _notes.set(call.notes)
    try:
        with using(call.modifications):
            yield
    finally:
        _notes.reset(token)


def passes(error: BaseException) -> bool:
    """Whether `error` is no failure: the end of the process or task, or a framework's interrupt."""
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | asyncio.CancelledError):
        return True
    return any(kind.__name__ == "GraphBubbleUp" for kind in type(error).__mro__)


@dataclass(frozen=True, slots=True)
class _Step:
    client: Omium
    name: str
    options: StepOptions
    takes_mods: bool

    def life(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Life:
        """The policy, without IO: yields what is to be done, is sent what came of it, returns the step's answer.

        Raises the step's own exception, that of the last attempt.
        """
        run = self._run(args, kwargs)
        # Inside a handler of `serve` the step's first run is already part of an attempt.
        resumed = current_command()
        command: Command | None = None
        failure_id = ""
        for attempts_left in reversed(range(_MOST_ATTEMPTS)):
            modifications = command.modifications if command else current()
            call = _Call(modifications, args, self._with(kwargs, modifications), Evidence())
            answer = yield call
            error: BaseException | None = answer.error if isinstance(answer, _Raised) else self._violation(answer)
            if error is None:
                if command is not None:
                    run.succeeded(command, answer if self._sends_output else None)
                return answer
            if passes(error):
                raise error
            evidence = self._evidence(run, error, call, answer)
            if command is not None:
                failure_id = run.failed_again(command, error, **evidence)
            else:
                failure_id = run.report(error, resumed_by=resumed, **evidence)
            command = (yield _Wait(run, failure_id, self.options.get("wait_s"))) if attempts_left else None
            if command is None:
                break
        self.client.forget(failure_id)
        assert error is not None
        if isinstance(answer, _Raised) or self.options.get("on_violation", "raise") == "raise":
            raise error
        return answer

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

    def _with(self, kwargs: dict[str, Any], modifications: Modifications) -> dict[str, Any]:
        return kwargs | {"mods": modifications} if self.takes_mods and "mods" not in kwargs else kwargs

    def _violation(self, answer: Any) -> Violation | None:
        try:
            if found := violations(answer, self.options.get("constraints", {})):
                return Violation("; ".join(found))
            wrong = self.options["check"](answer) if "check" in self.options else None
        except Exception:
            _log.exception("omium: step %s: its answer cannot be checked", self.name)
            return None
        return Violation(wrong) if isinstance(wrong, str) else wrong

    def _evidence(self, run: Run, error: BaseException, call: _Call, answer: Any) -> Evidence:
        """What is known of the failure: the step's standing evidence first, the error's own word last."""
        evidence = Evidence(step=self.name)
        try:
            place = self.options.get("checkpoint")
            if place is not None:
                evidence["checkpoint"] = place(*call.args, **call.kwargs) if callable(place) else place
            elif run.last_checkpoint is None:
                # The process that waits here can go on from the step's own beginning.
                evidence["checkpoint"] = f"{self.name[:200]}-start"
            evidence.update(self.options.get("evidence", {}))
            if "constraints" in self.options:
                evidence["constraints"] = self.options["constraints"]
                if not isinstance(answer, _Raised):
                    evidence["output"] = answer
            evidence.update(call.notes)
            evidence.update(error.evidence if isinstance(error, Violation) else {})
        except Exception:
            _log.exception("omium: step %s: its evidence is incomplete", self.name)
        return evidence
