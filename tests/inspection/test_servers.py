"""What takes a server of one's own: prepared transactions, a restart, a replica."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from clusters import SETTINGS, hot_standby, steady_cluster

import advlock
from advlock import Key, inspect
from advlock._inspect import _stuck
from advlock.errors import DatabaseUnavailable, UnsafeServer

from .seeing import tree_of, window_to

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Server

    from advlock.embedded._cluster import Cluster


@pytest.fixture(scope="module")
def cluster(server: Server) -> Iterator[Cluster]:
    """A server of this module alone, which takes prepared transactions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETTINGS, "max_prepared_transactions", "4")
        with steady_cluster(server) as made:
            yield made


def test_a_prepared_transaction_holds_without_a_process(cluster: Cluster) -> None:
    """It has no process id; its name says what to roll back. Two that share a lock are two."""
    for number in (1, 2):
        with psycopg.connect(cluster.dsn(), autocommit=True) as session:
            session.execute("BEGIN")
            session.execute("SELECT pg_advisory_xact_lock_shared(12), pg_current_xact_id()")
            session.execute(f"PREPARE TRANSACTION 'it''s {number}'")  # type: ignore[call-overload]
    with window_to(cluster.dsn()) as window, advlock.Locks(cluster.dsn()) as locks:
        holders = tree_of(window.look(), Key.of(12)).holders
        told = locks.holders(12)
        assert [str(one) for one in told] == ["a prepared transaction"] * 2
        assert {one.flags for one in told} == {(_stuck.PREPARED,)}
    assert {holder.application for holder in holders} == {"it's 1", "it's 2"}
    said = {holder.query for holder in holders}
    assert said == {"PREPARE TRANSACTION 'it''s 1'", "PREPARE TRANSACTION 'it''s 2'"}
    for holder in holders:
        assert (holder.pid, holder.state) == (0, "prepared transaction")
        assert holder.flags == (_stuck.PREPARED,)
        assert holder.user == "postgres"
    with psycopg.connect(cluster.dsn(), autocommit=True) as session:
        for statement in said:
            session.execute((statement or "").replace("PREPARE TRANSACTION", "ROLLBACK PREPARED"))


def test_a_window_comes_back_with_the_server(cluster: Cluster) -> None:
    """While there is none that is said; afterwards the same window looks on."""
    with window_to(cluster.dsn()) as window:
        assert window.look().trees == ()
        before = window.pid
        cluster.stop("immediate")
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                window.look()
        cluster.start()
        with psycopg.connect(cluster.dsn(), autocommit=True) as session:
            session.execute("SELECT pg_advisory_lock(1)")
            assert len(window.look().trees) == 1
        assert window.pid not in (0, before)


def test_a_window_looks_on_a_read_replica(cluster: Cluster) -> None:
    """Locks there are its own; a client refuses it, and who only looks is not refused."""
    with hot_standby(cluster) as standby:
        with pytest.raises(UnsafeServer), advlock.Locks(standby.dsn()) as locks:
            locks.inspect()
        with psycopg.connect(standby.dsn(), autocommit=True) as session:
            session.execute("SELECT pg_advisory_lock(1)")
            assert [tree.objid for tree in inspect.look(standby.dsn()).trees] == [1]
