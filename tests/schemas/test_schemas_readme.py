"""What README.md shows to people who write a client in another language is what the codec reads."""

from __future__ import annotations

import re
from pathlib import Path

from schemas.codec import Decoded, decode, to_avro
from schemas.topics import BY_NAME, FAILURES

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_example_bytes_are_the_example_record() -> None:
    (text,) = re.findall(r'```json\n(\{"tenant_id".+?\})\n```', README, re.DOTALL)
    (digits,) = re.findall(r"```\n(c301[0-9a-f\n]+)```", README)
    by_json = decode(FAILURES.name, text.encode())
    by_avro = decode(FAILURES.name, bytes.fromhex(digits))
    assert isinstance(by_json, Decoded)
    assert isinstance(by_avro, Decoded)
    assert by_json.record == by_avro.record
    assert to_avro(by_json.record).hex() == digits.replace("\n", "")


def test_the_topics_it_names_exist() -> None:
    named = set(re.findall(r"\b(?:agent|recovery)\.[a-z-]+(?:\.[a-z-]+)?\.v1\b", README))
    assert named
    assert named <= BY_NAME.keys()
