"""A window outlives its server, and looks where no client would connect."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from cli.helpers import Cli
from psycopg.conninfo import make_conninfo
from waiting import eventually

import advlock
from advlock import Key, inspect
from advlock._plan import Script, Step
from advlock.errors import ConfigError

from .seeing import make_tables, timed_out, tree_of, window_to

if TYPE_CHECKING:
    from psycopg import Connection

    from advlock._inspect._window import Window
    from advlock._plan import SessionPlan

    from .seeing import Scene


def test_it_comes_back_after_its_own_session_was_ended(
    scene: Scene, window: Window, admin: Connection[Any]
) -> None:
    """At once, where it had word of that before it asked."""
    scene.connect().execute("SELECT pg_advisory_lock(1)")
    window.look()
    pid = window.pid
    admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    gone = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
    eventually(lambda: admin.execute(gone, (pid,)).fetchone() == (0,))
    assert len(window.look().trees) == 1
    assert window.pid != pid


def test_a_role_s_odd_defaults_do_not_reach_it(scene: Scene) -> None:
    """Neither a timeout nor a search path of the role's changes what is seen."""
    scene.connect().execute("SELECT pg_advisory_lock(1)")
    options = (
        "-c statement_timeout=300 -c search_path=public -c datestyle=German"
        " -c extra_float_digits=-5"
    )
    with window_to(make_conninfo(scene.dsn, options=options)) as window:
        for _ in range(3):
            assert len(window.look().trees) == 1
        window.ask(_takes_its_time())


def _takes_its_time() -> SessionPlan[None]:
    """Ask for longer than the role's timeout."""
    yield Script((Step("SELECT pg_catalog.pg_sleep(0.6)"),))


def test_the_one_who_looks_is_not_in_the_way(scene: Scene, window: Window) -> None:
    """It holds nothing, not even between two looks."""
    scene.connect().execute("SELECT pg_advisory_lock(1)")
    window.look()
    asked = """
        SELECT count(*) FILTER (WHERE state <> 'idle'), count(backend_xmin), count(backend_xid),
               (SELECT count(*) FROM pg_locks WHERE pid = %(pid)s)
        FROM pg_stat_activity WHERE pid = %(pid)s"""
    assert scene.connect().execute(asked, {"pid": window.pid}).fetchone() == (0, 0, 0, 0)


# -- the library -----------------------------------------------------------------------------------


def test_both_clients_see_the_same(scene: Scene) -> None:
    """`inspect` of each, beside its own locks, and `look` without any client."""

    async def ask() -> tuple[inspect.Snapshot, inspect.Snapshot]:
        async with advlock.AsyncLocks(scene.dsn) as locks, locks.hold("async"):
            return await locks.inspect(), await locks.inspect(["async"])

    with advlock.Locks(scene.dsn, namespace="billing") as locks, locks.hold("nightly"):
        every, one = asyncio.run(ask())
        assert {tree.name for tree in locks.inspect().trees} == {"billing:nightly"}
        (named,) = locks.inspect(["nightly"]).trees
        assert (named.name, named.key) == ("billing:nightly", Key.of("billing:nightly"))
        assert inspect.look(scene.dsn, ["billing:nightly"]).trees[0].holders[0].host
    assert tree_of(every, Key.of("async")).name == "async"
    assert len(every.trees) == 2
    assert [tree.name for tree in one.trees] == ["async"]


def test_a_client_that_is_closed_looks_no_more(scene: Scene) -> None:
    """As with every other verb; and what cannot be a name is refused."""
    locks = advlock.Locks(scene.dsn)
    with pytest.raises(ConfigError):
        locks.inspect("nightly")
    locks.close()
    with pytest.raises(advlock.LockError, match="closed"):
        locks.inspect()


def test_a_client_that_looks_lets_nobody_wait_for_a_table(
    scene: Scene, no_tables: Connection[Any]
) -> None:
    """Its locks live on that session: a look must end before anybody doubts it."""
    make_tables(no_tables)
    no_tables.execute("BEGIN")
    no_tables.execute("LOCK advlock.lock_name, advlock.cron_run")
    with advlock.Locks(scene.dsn) as locks, locks.hold("nightly") as held:
        seen = locks.inspect()
        assert any("ask again" in sentence for sentence in seen.hidden)
        assert [tree.name for tree in seen.trees] == ["nightly"]
        held.check()
    no_tables.execute("ROLLBACK")


def test_who_is_in_the_way_is_told_alike(scene: Scene, window: Window) -> None:
    """`LockTimeout.holders` and `holders` have what a look has of the same sessions."""
    with advlock.Locks(scene.dsn) as other:
        scene.connect(application_name="psql").execute("SELECT pg_advisory_lock(%s)", (42,))
        queued = scene.waiting("SELECT pg_advisory_lock(42)", application_name="queued")
        told = timed_out(other, 42).holders
        (tree,) = window.look([42]).trees
        assert tuple(told[:1]) == tree.holders
        assert isinstance(told[1], inspect.Waiter)
        assert (told[1].application, told[1].since) == ("queued", tree.waiters[0].since)
        assert other.holders(42)[0] == tree.holders[0]
        queued.close()


def test_the_command_says_what_the_holder_does(scene: Scene) -> None:
    """`advlock run` names a stranger who sits in a transaction, and says that he does."""
    cli = Cli(scene.dsn)
    holder = scene.connect(application_name="psql")
    holder.execute("BEGIN")
    holder.execute("SELECT pg_advisory_xact_lock(%s)", (Key.of("nightly").value,))
    try:
        _, _, err = cli("run", "-n", "nightly", "--", "true")
    finally:
        cli.close()
    holder.execute("ROLLBACK")
    pid = holder.info.backend_pid
    assert f"held by psql (server pid {pid}), idle in a transaction" in err
