"""Standing by is cheap: one session each, no old snapshot, hardly a processor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from clusters import Log, private_cluster

from . import standbys

if TYPE_CHECKING:
    from servers import Server

CANDIDATES, SECONDS = 40, 3.0
ROOM = {"max_connections": "60", "log_min_messages": "info", "log_min_error_statement": "info"}


def test_candidates_stand_by(server: Server) -> None:
    """Each has one session, VACUUM is held back for a moment only, the log stays silent."""
    with private_cluster(server) as cluster:
        cluster._settings |= ROOM
        cluster.stop("fast")
        cluster.start()
        with (
            psycopg.connect(cluster.dsn(), autocommit=True) as admin,
            standbys.candidates(cluster.dsn(), admin, CANDIDATES),
        ):
            log = Log(cluster.log_path)
            cost = standbys.watch(admin, CANDIDATES, SECONDS)
            assert cost.sessions == CANDIDATES
            assert cost.snapshot < 2.0  # seconds; one slice is half of one
            assert cost.xmin < cost.made
            assert log.since() == []
