"""Kafka's jars, brought once per checkout by Maven, and what `kafka-storage format` writes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
_POM: Final = _HERE / "pom.xml"
_CACHE: Final = _HERE.parents[1] / ".cache" / "kafka"


class BrokerError(Exception):
    """The local broker cannot be had: no Java, no Maven, or it does not start. The message says which and why."""


def java() -> str:
    """Path of the `java` to run: `$JAVA_HOME`'s, else the one on the path."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else None
    found = found or shutil.which("java")
    if found is None:
        raise BrokerError("Java 17 or newer is needed to run Kafka: no `java` on the path")
    return found


def classpath() -> str:
    """The Java class path of the broker. Downloads the jars first if this checkout has none (about 45 MB)."""
    return f"{ensure(_home() / 'libs', _download)}/*"


def formatted() -> Path:
    """A formatted log directory of a fresh cluster at the jars' own feature levels.

    But for `meta.properties` it is the same for every cluster without SCRAM users, so it is made once: formatting
    costs a JVM, two seconds.
    """
    return ensure(_home() / "format", _format)


def archive() -> Path:
    """Where `ops.broker.archive` leaves the classes that a node loads, parsed and verified."""
    return _home() / "classes.jsa"


def run_java(main: str, *args: str) -> None:
    """Run a class of the jars to its end; raises `BrokerError` with what it said if it fails."""
    command = [
        java(),
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        f"-Dlog4j2.configurationFile={_HERE / 'log4j2.xml'}",
    ]
    done = subprocess.run(
        [*command, "-cp", classpath(), main, *args],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise BrokerError(f"{main} failed: {(done.stderr or done.stdout).strip()}")


def _home() -> Path:
    """One folder per version of Kafka and content of the pom."""
    pom = _POM.read_bytes()
    version = re.search(rb"<artifactId>kafka_2\.13</artifactId>\s*<version>([^<]+)</version>", pom)
    assert version is not None
    return _CACHE / f"{version[1].decode()}-{hashlib.sha256(pom).hexdigest()[:8]}"


def ensure(path: Path, make: Callable[[Path], None]) -> Path:
    """`path`, made once however many processes ask: it appears whole, by a rename, or not at all."""
    if not path.exists():
        with _locked(path):
            if not path.exists():
                with tempfile.TemporaryDirectory(dir=path.parent) as unfinished:
                    make(Path(unfinished) / "new")
                    (Path(unfinished) / "new").rename(path)
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(folder: Path) -> None:
    if shutil.which("mvn") is None:
        raise BrokerError("Maven is needed once, to bring Kafka's jars: no `mvn` on the path")
    done = subprocess.run(
        ["mvn", "-q", "-B", "-f", str(_POM), "dependency:copy-dependencies", f"-DoutputDirectory={folder}"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise BrokerError(f"Maven could not bring Kafka's jars: {done.stdout[-2000:].strip()}")


def _format(folder: Path) -> None:
    folder.mkdir()
    format_storage(
        folder,
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:1\n"
        "listeners=CLIENT://127.0.0.1:2,CONTROLLER://127.0.0.1:1\ncontroller.listener.names=CONTROLLER\n"
        "listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
        "inter.broker.listener.name=CLIENT\n",
        "AAAAAAAAAAAAAAAAAAAAAQ",
    )


def format_storage(log_dir: Path, properties: str, cluster_id: str, *options: str) -> None:
    """Format `log_dir` for a node with these server properties, `options` as `kafka-storage format` takes them."""
    with tempfile.NamedTemporaryFile("w", suffix=".properties") as file:
        file.write(f"{properties}log.dirs={log_dir}\n")
        file.flush()
        run_java("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", file.name, *options)
