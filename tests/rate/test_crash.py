"""What was granted is not granted again when the server crashes."""

from __future__ import annotations

import threading
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from postgres.helpers import one
from postgres.private_cluster import private_cluster
from postgres.test_crash_tokens import WRITER_SLEEPS
from waiting import eventually

from advlock import Locks
from advlock._rate import _sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from postgres.private_cluster import PrivateCluster

LIMIT = 40


@pytest.fixture(scope="module")
def cluster(dsn: str) -> Iterator[PrivateCluster]:
    """Run a cluster to crash, which writes its log only when somebody waits for that."""
    with (
        psycopg.connect(dsn, autocommit=True) as superuser,
        private_cluster(superuser, wal_writer_delay="10s") as made,
    ):
        yield made


def granted_before_and_after(cluster: PrivateCluster, name: str) -> tuple[int, int]:
    """Let eight threads take some permits, crash the server, and take whatever is left."""
    taken: list[Any] = []
    with Locks(cluster.dsn) as locks:
        limit = locks.rate_limit(name, LIMIT, 3600)
        limit.acquire()
        with closing(cluster.connect()) as session:
            session.execute("CHECKPOINT")
            eventually(partial(one, session, WRITER_SLEEPS), message="nothing is flushed by luck")
            session.execute("SELECT pg_switch_wal()")

        def take() -> None:
            taken.extend(limit.acquire() for _ in range(2))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cluster.crash()
    cluster.start()
    with Locks(cluster.dsn) as locks:
        limit = locks.rate_limit(name, LIMIT, 3600)
        left = 0
        while limit.try_acquire():
            left += 1
    return 1 + len(taken), left


def test_no_permit_is_forgotten_in_a_crash(cluster: PrivateCluster) -> None:
    """The server's memory is gone, and every permit that anybody was told of is still used up."""
    before, after = granted_before_and_after(cluster, "kept")
    assert before == 17
    assert before + after == LIMIT


def test_without_the_flush_permits_are_forgotten(
    cluster: PrivateCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the deciding transaction does not wait for the disk by itself."""
    monkeypatch.setattr(_sql, "FLUSH", "SELECT 1 WHERE $1::bool IS NULL")
    before, after = granted_before_and_after(cluster, "lost")
    assert before + after > LIMIT
