"""`omium-recovery doctor`: is everything here that the product needs, and does it agree?"""

from __future__ import annotations

import logging
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Literal

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from rich.console import Console
from rich.text import Text

from cli.context import ExitCode, put_json
from ops.runtime import topics
from ops.runtime.settings import Settings
from processors.audit.embedded import CHDB, owner_url
from processors.audit.store import UNAVAILABLE, connect
from schemas.topics import BY_NAME, TICKS

_TIMEOUT_S: Final = 5.0
_DETAIL_CHARS: Final = 300
_SKEW_S: Final = 1.0
"""Deadlines go by the broker's clock; an agent that sends times of its own is misread by what its clock is off."""
_PACKAGES: Final = (
    "faust-streaming",
    "aiokafka",
    "confluent-kafka",
    "fastavro",
    "pydantic",
    "clickhouse-connect",
    "chdb-core",
)

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    detail: str
    unreachable: bool = False
    """It failed because a server did not answer."""


def run(settings: Settings, *, as_json: bool) -> ExitCode:
    """Print every check. FAILED where one failed, UNREACHABLE where a server did not answer."""
    checks = list(_checks(settings))
    if as_json:
        put_json([asdict(check) for check in checks])
    else:
        _print(checks)
    if any(check.unreachable for check in checks):
        return ExitCode.UNREACHABLE
    return ExitCode.FAILED if any(check.status == "failed" for check in checks) else ExitCode.OK


def _print(checks: list[Check]) -> None:
    style = {"ok": "green", "warning": "yellow", "failed": "bold red"}
    console = Console(highlight=False, soft_wrap=True)
    for check in checks:
        console.print(Text.assemble((f"{check.status:8}", style[check.status]), f"{check.name:15}", check.detail))


def _checks(settings: Settings) -> Iterator[Check]:
    yield _versions()
    broker = _guarded("broker", settings, _broker)
    yield broker
    if not broker.unreachable:
        yield (there := _guarded("topics", settings, _partitions))
        if there.status == "ok":
            yield _guarded("topic settings", settings, _configuration)
            yield _guarded("clock", settings, _clock)
    yield _clickhouse(settings)


def _guarded(name: str, settings: Settings, look: Callable[[Settings], tuple[Status, str]]) -> Check:
    try:
        status, detail = look(settings)
    except KafkaException as error:
        detail = f"{settings.bootstrap}: {error.args[0].str()} (OMIUM_BOOTSTRAP or --bootstrap says where it is)"
        return Check(name=name, status="failed", detail=detail, unreachable=True)
    return Check(name=name, status=status, detail=detail)


def _versions() -> Check:
    found = [f"omium-recovery {version('omium-recovery')}", f"python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} absent")
    found.append(f"librdkafka {confluent_kafka.libversion()[0]}")
    return Check(name="versions", status="ok", detail=", ".join(found))


def _broker(settings: Settings) -> tuple[Status, str]:
    metadata = AdminClient(settings.kafka()).list_topics(timeout=_TIMEOUT_S)
    count = len(metadata.brokers)
    status: Status = "ok" if count >= settings.replication else "failed"
    return status, f"cluster {metadata.cluster_id} at {settings.bootstrap}: {count} brokers"


def _partitions(settings: Settings) -> tuple[Status, str]:
    states = topics.list_topics(settings, _TIMEOUT_S)
    if missing := [state.name for state in states if not state.partitions]:
        return "failed", f"missing: {', '.join(missing)} (omium-recovery topics create)"
    counts = Counter(state.partitions for state in states)
    if set(counts) == {settings.partitions}:
        return "ok", f"{len(states)} topics with {settings.partitions} partitions each"
    odd = [f"{state.name} has {state.partitions}" for state in states if state.partitions != settings.partitions]
    return "failed", f"every topic needs {settings.partitions} partitions: {'; '.join(odd)}"


def _configuration(settings: Settings) -> tuple[Status, str]:
    admin = AdminClient(settings.kafka())
    asked = [ConfigResource(ResourceType.TOPIC, name) for name in BY_NAME]
    wrong = []
    for resource, answer in admin.describe_configs(asked, request_timeout=_TIMEOUT_S).items():
        actual = answer.result(_TIMEOUT_S)
        for setting, wanted in BY_NAME[resource.name].config.items():
            if (value := actual[setting].value) != wanted:
                wrong.append(f"{resource.name}: {setting} is {value}, not {wanted}")
    # A longer retention is an operator's choice, and none of these can lose data at once.
    return ("warning", "; ".join(wrong)) if wrong else ("ok", "as in the contract")


def _clock(settings: Settings) -> tuple[Status, str]:
    """One record more on the topic whose records have only their append time to say."""
    appended: list[Message] = []
    producer = Producer(settings.producer(**{"message.timeout.ms": int(_TIMEOUT_S * 1000)}))
    before = time.time()
    producer.produce(TICKS.name, b"", on_delivery=lambda _error, message: appended.append(message))
    producer.flush(_TIMEOUT_S)
    after = time.time()
    if not appended or (error := appended[0].error()) is not None:
        raise KafkaException(error if appended else KafkaError(KafkaError._TIMED_OUT, "no answer to a record produced"))
    broker = appended[0].timestamp()[1] / 1000
    # The append happened between the two; what is outside is skew.
    skew = max(before - broker, broker - after, 0.0)
    status: Status = "warning" if skew > _SKEW_S else "ok"
    return status, f"{skew:.3f} s off the broker's"


def _clickhouse(settings: Settings) -> Check:
    # It prints what it also raises.
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
    url: str | None = settings.clickhouse
    try:
        if settings.clickhouse.startswith(CHDB) and (url := owner_url(settings.clickhouse)) is None:
            detail = f"{settings.clickhouse}: no audit worker has it open, so nothing is added"
            return Check(name="clickhouse", status="warning", detail=detail)
        assert url is not None
        with closing(connect(url)) as client:
            server, clock = client.query("SELECT version(), toFloat64(now64(3))").first_row
    except UNAVAILABLE as error:
        detail = f"{_without_password(settings.clickhouse)}: {_root_cause(error)}"
        return Check(name="clickhouse", status="failed", detail=detail, unreachable=True)
    off = abs(time.time() - clock)
    status: Status = "warning" if off > _SKEW_S else "ok"
    return Check(name="clickhouse", status=status, detail=f"{server}, clock {off:.3f} s off ours")


def _without_password(url: str) -> str:
    return re.sub(r"(?<=:)[^:/@]+(?=@)", "***", url)


def _root_cause(error: BaseException) -> str:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return next(iter(str(error).splitlines()), type(error).__name__)[:_DETAIL_CHARS]
