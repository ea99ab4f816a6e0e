"""A worker that shows its locks at /metrics, and those of everybody else in the database."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from prometheus_client import REGISTRY, start_http_server

import advlock
import advlock.prometheus

advlock.prometheus.instrument(names=["nightly"], fold="user:*")

with advlock.Locks() as locks:
    # One of these is enough for all workers: it looks at the whole database.
    REGISTRY.register(advlock.prometheus.ServerCollector(names=["nightly"]))
    server, _ = start_http_server(int(os.environ.get("PORT", "0")), addr="127.0.0.1")

    with locks.hold("nightly"):
        for user in range(100):
            with locks.hold(f"user:{user}"):
                pass  # the work
        Path("port").write_text(str(server.server_port))
        threading.Event().wait()  # more work, until somebody ends us
