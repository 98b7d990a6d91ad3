"""`python -m cli.demo [--folder F] [--rounds N] [--in-memory]`: the demo, longer or elsewhere."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cli.demo.main import DEMO_FOLDER, ROUNDS, demo


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m cli.demo")
    parser.add_argument("--folder", type=Path, default=DEMO_FOLDER)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="runs of each kind of work")
    parser.add_argument("--in-memory", action="store_true", help="librdkafka's in-process broker instead of a real one")
    arguments = parser.parse_args()
    return demo(arguments.folder, rounds=arguments.rounds, in_memory=arguments.in_memory)


if __name__ == "__main__":
    sys.exit(main())
