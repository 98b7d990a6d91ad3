"""The client knows the contract only by its copies: here they are held against the original."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import omium
import pytest
from confluent_kafka import Producer  # noqa: F401  the partitioner's tests need librdkafka
from omium import codec as ours
from omium.config import producer_config
from omium.modifications import Modification, Modifications
from orchestrator import command

from schemas import codec, topics
from schemas.modifications import Parameters
from schemas.records import Checkpoint, ModificationKind, ResumeCommand

AVSC = Path(codec.__file__).parent / "avsc"
RECORDS = ("failure_event", "checkpoint_saved", "resume_outcome", "resume_command")


@pytest.mark.parametrize("name", RECORDS)
def test_schemas_are_the_committed_ones(name: str) -> None:
    newest = max((AVSC / name).glob("v*.avsc"), key=lambda path: int(path.stem[1:]))
    copy = files("omium") / "avsc" / f"{name}.avsc"
    assert json.loads(copy.read_text()) == json.loads(newest.read_text())


def test_topics_are_the_committed_ones() -> None:
    assert topics.FAILURES.name == ours.FAILURES
    assert topics.CHECKPOINTS.name == ours.CHECKPOINTS
    assert topics.OUTCOMES.name == ours.OUTCOMES
    assert topics.COMMANDS.name == ours.COMMANDS
    for name, record in ours.RECORDS.items():
        spec = topics.BY_NAME[name].record
        assert spec is not None
        assert spec.type_name == record


@pytest.mark.parametrize("wire_format", ["avro", "json"])
def test_commands_are_read_in_full(wire_format: str) -> None:
    given = command(
        ("set_model", '{"model": "large"}'),
        ("append_prompt", '{"text": "\u00e9\U0001f600"}'),
        checkpoint=Checkpoint(id="c", created_at=datetime.now(UTC), data='{"page": [1, null]}', uri="s3://x"),
    )
    encoded = codec.encode(topics.COMMANDS, given, source="t", wire_format=wire_format)  # type: ignore[arg-type]
    read = ours.decode_command(encoded.value, [("traceparent", b"00-1-2-03")])
    for field in set(ResumeCommand.model_fields) - {"decision", "modifications", "checkpoint", "fence"}:
        assert getattr(read, field) == getattr(given, field), field
    assert read.checkpoint.data == {"page": [1, None]}
    assert (read.checkpoint.created_at, read.checkpoint.uri) == (given.checkpoint.created_at, "s3://x")
    assert (read.fence.offset, read.fence.attempt) == (given.fence.offset, given.fence.attempt)
    assert [(m.kind, m.parameters) for m in read.modifications] == [
        ("set_model", {"model": "large"}),
        ("append_prompt", {"text": "\u00e9\U0001f600"}),
    ]
    assert (read.key, read.traceparent) == (given.key, "00-1-2-03")


def test_a_newer_orchestrators_command_is_read() -> None:
    """As JSON, which is what this client asks for, fields and kinds of later versions do no harm."""
    encoded = codec.encode(topics.COMMANDS, command(("set_model", '{"model": "l"}')), source="t", wire_format="json")
    document = json.loads(encoded.value)
    document["of_v9"] = {"x": 1}
    document["strategy"] = "of_v9"
    document["modifications"].append({"kind": "of_v9", "parameters": {"x": 1}})
    read = ours.decode_command(json.dumps(document).encode())
    assert read.modifications.model("small") == "l"
    assert read.modifications.applied == "some"
    assert read.modifications.unused == ("of_v9",)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{}",
        b"null",
        b"[" * 100_000,
        b"\xc3\x01" + b"\0" * 8,
        b"\xc3\x01" + ours.schema("resume_command")[0] + b"\xff" * 50,
        b"\xff\xfe",
        b'{"command_id": 1}',
    ],
)
def test_what_is_no_command(value: bytes | None) -> None:
    with pytest.raises(ours.UndecodableError):
        ours.decode_command(value)


# How a step would ask for each kind. A kind without a line here would never be followed.
ASK = {
    "append_prompt": lambda m: m.prompt(),
    "set_output_schema": lambda m: m.output_schema(),
    "add_tool": lambda m: m.tools(),
    "set_model": lambda m: m.model("small"),
    "set_retry": lambda m: m.retrying(lambda: 1, sleep=lambda _: None),
    "set_timeout": lambda m: m.timeout_s(1.0),
    "run_async": lambda m: m.polling(),
    "refresh_credentials": lambda m: m.stale_credentials(),
    "use_fallback": lambda m: m.service("primary"),
    "provide_context": lambda m: m.facts(),
    "add_rubric": lambda m: m.rubric(),
    "reduce_complexity": lambda m: m.max_reasoning_steps(),
    "set_batch_size": lambda m: m.batch_size(100),
    "compress_context": lambda m: m.context_tokens(1000),
    "repair_arguments": lambda m: m.argument_problem(),
    "set_identifier": lambda m: m.identifier("wrong"),
    "break_loop": lambda m: m.forbids("tool", "print"),
    "repair_history": lambda m: m.history_problem(),
    "set_step_limit": lambda m: m.step_limit(10),
    "summarize_trajectory": lambda m: m.trajectory(),
}
EXAMPLES = {
    "append_prompt": {"text": "x"},
    "set_output_schema": {"name": "x", "schema": {"type": "object"}},
    "add_tool": {"name": "x", "description": "x", "input_schema": {}},
    "set_model": {"model": "x"},
    "set_retry": {"max_attempts": 2},
    "set_timeout": {"timeout_s": 60.0},
    "run_async": {},
    "refresh_credentials": {"service": "x"},
    "use_fallback": {"service": "x"},
    "provide_context": {"text": "x", "facts": {"income": 5}},
    "add_rubric": {"name": "x", "text": "x"},
    "reduce_complexity": {"text": "x"},
    "set_batch_size": {"batch_size": 10},
    "compress_context": {"target_tokens": 10},
    "repair_arguments": {"text": "x"},
    "set_identifier": {"wrong": "wrong", "right": "right"},
    "break_loop": {"tool": "tool", "text": "x"},
    "repair_history": {"problem": "x"},
    "set_step_limit": {"step_limit": 50},
    "summarize_trajectory": {"text": "x"},
}


@pytest.mark.parametrize("parameters", Parameters.__subclasses__(), ids=lambda cls: str(cls.kind))
def test_every_kind_can_be_followed(parameters: type[Parameters]) -> None:
    """With the contract's own parameters, each kind has an accessor that gives another value and notes its use."""
    kind = str(parameters.kind)
    change = parameters.model_validate(EXAMPLES[kind]).modification()
    asked = Modifications([Modification(kind=kind, parameters=change.parameters)])
    assert asked.applied == "none"
    with_it, without = ASK[kind](asked), ASK[kind](Modifications())
    assert with_it != without or kind == "set_retry"
    assert asked.applied == "all"
    assert Modifications().applied == "all"


def test_every_kind_of_the_contract_is_covered() -> None:
    assert {str(kind) for kind in ModificationKind} - {"unknown"} == set(ASK) == set(EXAMPLES)


def test_partitions_are_those_of_every_other_language() -> None:
    assert producer_config("b", {"partitioner": "random"})["partitioner"] == "murmur2_random"


def test_imports_nothing_of_the_application() -> None:
    """Agents have packages of their own called `schemas`; and LangGraph is loaded only by who uses it."""
    script = (
        "import sys, omium, omium.langgraph\n"
        "flat = {'schemas', 'streams', 'processors', 'ops', 'cli', 'langgraph', 'faust', 'orjson'}\n"
        "loaded = flat & {name.split('.')[0] for name in sys.modules}\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd="/", timeout=60).returncode == 0


def test_public_names() -> None:
    assert len(set(omium.__all__)) == len(omium.__all__)
    for name in omium.__all__:
        assert getattr(omium, name) is not None
