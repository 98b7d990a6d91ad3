"""What README says can be done by its words alone."""

from __future__ import annotations

import re
from pathlib import Path

from schemas import codec
from schemas.topics import FAILURES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def _block(language: str, nth: int = 0) -> str:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)[nth]


def test_the_example_bytes_are_the_example_json() -> None:
    as_json = codec.decode(FAILURES.name, _block("json").encode())
    hexadecimal = next(b for b in re.findall(r"^```\n(c301.*?)^```", README, re.M | re.S))
    as_avro = codec.decode(FAILURES.name, bytes.fromhex("".join(hexadecimal.split())))
    assert isinstance(as_json, codec.Decoded)
    assert isinstance(as_avro, codec.Decoded)
    assert as_json.record == as_avro.record


def test_every_path_it_names_exists() -> None:
    named = set(re.findall(r"`((?:schemas|streams|processors|client|cli|ops|tests)/[\w./-]*)`", README))
    assert named
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_every_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`?make ([a-z][a-z-]+)", README)) <= targets
