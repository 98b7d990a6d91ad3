"""`python -m cli.demo.without_broker WORKER`: a worker on librdkafka's in-process broker.

That broker has no controller, so it neither creates topics nor tells their ids, and its transactions
isolate nothing. Recover therefore works without them, and topics are identified by their names.
"""

from __future__ import annotations

import sys
import uuid
from unittest import mock

from ops.runtime import logs
from ops.runtime.settings import Settings
from schemas.topics import AUDITED


def _streams(settings: Settings) -> int:
    from streams.main import run

    return run(settings)


def _recover(settings: Settings) -> int:
    from processors.recover.main import run

    return run(settings, transactional=False)


def _govern(settings: Settings) -> int:
    from processors.govern.main import run

    return run(settings, transactional=False)


def _audit(settings: Settings) -> int:
    from processors.audit import main

    names = {topic.name: uuid.uuid5(uuid.NAMESPACE_URL, topic.name) for topic in AUDITED}
    with mock.patch.object(main.Worker, "_describe", return_value=names):
        return main.run(settings)


def main(worker: str) -> int:
    """Run one worker."""
    settings = Settings()
    logs.configure(settings)
    return {"streams": _streams, "recover": _recover, "govern": _govern, "audit": _audit}[worker](settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
