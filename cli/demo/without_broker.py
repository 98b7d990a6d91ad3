"""`python -m cli.demo.without_broker WORKER`: a worker on librdkafka's in-process broker, which has no transactions."""

from __future__ import annotations

import sys

from ops.runtime.settings import Settings


def main(worker: str) -> int:
    """Run one worker; 64 where there is none of that name."""
    settings = Settings()
    if worker == "streams":
        from streams.main import run as run_streams

        return run_streams(settings)
    if worker == "recover":
        from processors.recover.main import run as run_recover

        return run_recover(settings, transactional=False)
    if worker == "audit":
        from processors.audit.main import run as run_audit

        return run_audit(settings)
    return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
