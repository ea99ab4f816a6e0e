"""What the row of `once` decides beyond the lock: another key, another hand, and when it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from routes import direct_only
from waiting import aeventually

from advlock import ConfigError, Done, LockLost, Locks
from advlock._once import _sql

from .helpers import one

if TYPE_CHECKING:
    from .helpers import Admin
    from .worlds import World

DONE = "SELECT done_at IS NOT NULL FROM advlock.once WHERE name = %s"
WAITS = "SELECT waitstart FROM pg_locks WHERE NOT granted AND relation = 'advlock.once'::regclass"


@direct_only("it is about the row")
@pytest.mark.parametrize("here", [False, True])
@pytest.mark.parametrize("settings", [{"keys": "hashtext"}, {"namespace": "billing"}])
def test_another_key_for_the_same_row_is_refused(
    dsn: str, name: str, settings: dict[str, Any], here: bool, admin: Admin
) -> None:
    """Two locks would not keep each other out: while it is done under one, the other may not."""
    recorded = f"billing:{name}" if "namespace" in settings else name
    with Locks(dsn) as one_, Locks(dsn, **settings) as other, psycopg.connect(dsn) as conn:
        connection = conn if here else None
        with one_.once(recorded) as todo:
            assert todo
            with pytest.raises(ConfigError, match="two would do it at once"):
                other.once(name, connection=connection).__enter__()
        assert one(admin, DONE, recorded)
        assert not other.once(name, connection=connection).__enter__()
        conn.commit()
        # Nobody is at it any more: whoever has that key may begin.
        with one_.once(f"{recorded}-2"), pytest.raises(ZeroDivisionError):
            raise ZeroDivisionError
        admin.execute("UPDATE advlock.once SET done_at = NULL WHERE name = %s", [f"{recorded}-2"])
        with other.once(f"{name}-2", connection=connection) as todo:
            assert todo


@direct_only("it is about the row")
def test_who_sets_it_by_hand_is_understood(dsn: str, name: str, admin: Admin) -> None:
    """Done without a beginning, and until the end of time."""
    with Locks(dsn) as locks:
        for number, (sql, per) in enumerate(
            (
                ("done_at = now(), started_at = NULL", None),
                ("done_at = 'infinity', started_at = 'infinity'", None),
                ("done_at = 'infinity', started_at = 'infinity'", "1h"),
            )
        ):
            with pytest.raises(ZeroDivisionError), locks.once(f"{name}-{number}"):
                raise ZeroDivisionError
            admin.execute(
                f"UPDATE advlock.once SET {sql} WHERE name = %s".encode(), [f"{name}-{number}"]
            )
            with locks.once(f"{name}-{number}", per=per) as done:
                assert isinstance(done, Done), sql
                assert str(done)
        admin.execute(
            "UPDATE advlock.once SET done_at = now() - interval '2 h', started_at = NULL"
            " WHERE name = %s",
            [f"{name}-0"],
        )
        with locks.once(f"{name}-0", per="1h") as todo:
            assert todo


@direct_only("it is about the row")
def test_what_came_to_no_end_goes_too(dsn: str, name: str, admin: Admin) -> None:
    """A month after its window; unless somebody is at it still. What has no window is not read."""
    with Locks(dsn) as locks:
        with pytest.raises(ZeroDivisionError), locks.once(f"{name}-failed", per=1):
            raise ZeroDivisionError
        with locks.once(f"{name}-running", per=1):
            admin.execute(
                "UPDATE advlock.once SET claimed_at = claimed_at - interval '31 d'"
                " WHERE name LIKE %s",
                [f"{name}%"],
            )
            with locks.once(f"{name}-next", per=1):
                pass
    left = admin.execute("SELECT name FROM advlock.once WHERE name LIKE %s", [f"{name}%"])
    assert {row[0] for row in left} == {f"{name}-running", f"{name}-next"}
    with admin.transaction():
        admin.execute("SET LOCAL enable_seqscan = off")
        plan = admin.execute(f"EXPLAIN {_sql.PRUNE}".encode()).fetchall()
    assert "once_window" in str(plan)


async def test_a_table_that_is_locked_when_it_is_done_is_waited_for(
    world: World, dsn: str, name: str, rival: Admin, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done is worth several tries."""
    monkeypatch.setattr(_sql, "HASTE", _sql.HASTE.replace("1s", "100ms"))
    actor, context = world.actor(), world.client(dsn).once(name)
    await actor.enter(context)
    waits: set[object] = set()
    with rival.transaction():
        rival.execute("LOCK TABLE advlock.once IN ACCESS EXCLUSIVE MODE")
        ending = actor.start(context.__exit__ if world.is_sync else context.__aexit__, *[None] * 3)

        def twice() -> bool:
            waits.update(row[0] for row in admin.execute(WAITS) if row[0])
            return len(waits) > 1

        await aeventually(twice)
    await ending
    assert one(admin, DONE, name)


@direct_only("a pooler changes nothing of it")
def test_a_transaction_that_may_not_write_is_told_so(dsn: str, name: str) -> None:
    """It learns what was done; to do it, it is not the right one."""
    with Locks(dsn) as locks, psycopg.connect(dsn) as conn:
        with locks.once(f"{name}-0"):
            pass
        conn.read_only = True
        assert not locks.once(f"{name}-0", connection=conn).__enter__()
        with pytest.raises(ConfigError, match=r"conn\.read_only = False"):
            locks.once(name, connection=conn).__enter__()
        assert conn.execute("SELECT 1").fetchone() == (1,)


@direct_only("a pooler changes nothing of it")
@pytest.mark.parametrize("how", ["rollback", "commit"])
def test_a_transaction_that_ends_inside_the_block(
    dsn: str, name: str, admin: Admin, how: str
) -> None:
    """Rolled back, nothing is recorded, and it says why; committed, it is as long as it is ours."""
    with Locks(dsn) as locks, psycopg.connect(dsn) as conn:
        context = locks.once(name, connection=conn)
        context.__enter__()
        getattr(conn, how)()
        if how == "rollback":
            with pytest.raises(LockLost, match="has ended inside the block"):
                context.__exit__(None, None, None)
        else:
            context.__exit__(None, None, None)
            conn.commit()
            assert one(admin, DONE, name)
        conn.rollback()
        conn.autocommit = True
        late = locks.once(f"{name}-2", connection=conn)
        with conn.transaction():
            late.__enter__()
        with pytest.raises(ConfigError, match=r"with conn\.transaction\(\)"):
            late.__exit__(None, None, None)


@direct_only("a pooler changes nothing of it")
def test_a_savepoint_takes_work_record_and_lock_back(dsn: str, name: str) -> None:
    """What began in it is undone with it, and free for others though the transaction goes on."""
    with Locks(dsn) as locks, psycopg.connect(dsn) as conn:
        with conn.transaction(force_rollback=True), locks.once(name, connection=conn) as todo:
            assert todo
        conn.execute("SELECT 1")
        with locks.once(name, wait=5) as todo:
            assert todo
