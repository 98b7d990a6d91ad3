"""What users with Docker run: as far as it can be judged without Docker."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.broker.jars import _home
from ops.runtime.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}


def test_yaml_is_clean() -> None:
    command = [sys.executable, "-m", "yamllint", "-s", "docker-compose.yml", "ops", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == ""


def test_every_reference_has_its_target() -> None:
    """Volumes, dependencies with the condition they wait for, and mounted files."""
    for service in SERVICES.values():
        for other, wait in service.get("depends_on", {}).items():
            assert other in SERVICES
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]
            else:
                assert wait["condition"] == "service_completed_successfully"
                assert "restart" not in SERVICES[other]
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_no_port_is_open_to_the_world() -> None:
    """Neither broker nor database asks for a password worth the name here."""
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_images_have_a_version() -> None:
    for service in SERVICES.values():
        assert re.search(r":[v\d][\w.-]+$", service["image"])
    from_lines = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert from_lines
    assert all(re.search(r":\d", image) for image in from_lines)


def test_the_broker_is_the_one_of_the_tests() -> None:
    assert SERVICES["kafka"]["image"].rpartition(":")[2] == _home().name.rpartition("-")[0]


@pytest.mark.parametrize("name", OURS)
def test_settings_are_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt variable would be ignored, and its default used."""
    environment = OURS[name]["environment"]
    assert {f"OMIUM_{field.upper()}" for field in Settings.model_fields} >= environment.keys()
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert Settings().bootstrap == "kafka:9092"


def test_workers_may_do_little() -> None:
    """Not root, nothing to write but memory; and each stops before it is killed."""
    (user,) = re.findall(r"^USER (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for service in (each for each in OURS.values() if "restart" in each):
        assert service["init"]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert any(f"uid={user}" in mount for mount in service["tmpfs"])
        assert int(service["stop_grace_period"].rstrip("s")) > 30 > Settings().audit_stop_s


@pytest.mark.parametrize("name", OURS)
def test_commands_exist(name: str) -> None:
    command = [sys.executable, "-m", "cli.main", *OURS[name]["command"], "--help"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


def test_prometheus_scrapes_each_worker_where_it_listens() -> None:
    jobs = yaml.safe_load((ROOT / "ops/prometheus/prometheus.yml").read_text())["scrape_configs"]
    scraped = {job["job_name"]: job["dns_sd_configs"][0] for job in jobs}
    workers = {name for name, service in OURS.items() if "restart" in service}
    assert scraped.keys() == workers == {"streams", "recover", "govern", "audit"}
    for name, found in scraped.items():
        assert found["names"] == [name]
        assert str(found["port"]) == SERVICES[name]["environment"]["OMIUM_METRICS_PORT"]


def test_the_image_copies_what_it_installs() -> None:
    """.dockerignore lets nothing else in: no environment file, no data of a demo."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == {"schemas", "streams", "processors", "cli", "ops", "requirements", "pyproject.toml", "README.md"}
