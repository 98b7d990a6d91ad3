"""`python -m ops.broker up [--nodes 3] [--port 9092] [--data DIR]`: run a cluster until Ctrl-C or SIGTERM.

`python -m ops.broker jars` only brings what it needs.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from ops.broker import Broker, BrokerError
from ops.broker.archive import make_archive


def main() -> int:
    """Exit code 0 after an orderly end, 1 where the cluster cannot start."""
    parser = argparse.ArgumentParser(prog="python -m ops.broker", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start a cluster and keep it running")
    up.add_argument("--nodes", type=int, choices=(1, 3), default=1)
    up.add_argument("--port", type=int, default=None, help="of the first node; default: any free one")
    up.add_argument("--data", type=Path, default=None, help="folder to keep the data in; default: a temporary one")
    commands.add_parser("jars", help="bring Kafka's jars, once per checkout")
    args = parser.parse_args()

    try:
        if args.command == "jars":
            make_archive()
        else:
            _up(args.nodes, args.data, args.port)
    except BrokerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _up(nodes: int, data: Path | None, port: int | None) -> None:
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with Broker(nodes, data, port=port) as broker:
        print(broker.bootstrap, flush=True)
        ended.wait()


if __name__ == "__main__":
    sys.exit(main())
