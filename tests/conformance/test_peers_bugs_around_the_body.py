"""More bugs of other lock libraries: around the body, its transaction, and the process.

The name says the bug, the docstring how it showed. What other files check already is not repeated.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from waiting import aeventually

from advlock import LockLost, LockTimeout

from .helpers import entries, holding, no_locks, one, terminate

if TYPE_CHECKING:
    from .helpers import Admin
    from .worlds import World

TAKE = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"
FREE = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"


async def test_a_database_error_in_the_body_leaked_the_lock(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """The release failed in the body's aborted transaction, masked its error, and leaked the lock.

    So did sqlalchemy-dlock, django-pgware and psycopg-toolbox.
    """
    client, actor = world.client(dsn), world.actor()
    with psycopg.connect(dsn) as mine:

        def body(_: Any) -> None:
            mine.execute("SELECT 1/0")

        with pytest.raises(psycopg.errors.DivisionByZero):
            await actor.within(client.hold(name), world.defines(body))
        assert not entries(admin, name)
        mine.rollback()


async def test_a_commit_in_the_body_lost_the_lock(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """session.commit() gave the lock's connection back to the pool: two were inside.

    So did sqlalchemy-dlock; with pg-advisory-lock the end of a savepoint freed the lock early.
    """
    client, other = world.client(dsn), world.client(dsn)
    actor, guest = world.actors(2)
    with psycopg.connect(dsn) as mine:
        context = client.hold(name)
        await actor.enter(context)
        for end in (mine.commit, mine.rollback):
            mine.execute("SELECT 1")
            end()
            assert len(holding(admin, name)) == 1
            assert await guest.enter(other.attempt(name)) is None
        await actor.exit(context)


async def test_the_callers_transaction_was_broken(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """Leaving the lock sent a bare ROLLBACK: a row was lost (postgresql-lock)."""
    client, actor = world.client(dsn), world.actor()
    table = name.replace("-", "_")
    admin.execute(f"CREATE TABLE {table} (id int)")
    with psycopg.connect(dsn) as mine:
        mine.execute(f"INSERT INTO {table} VALUES (1)")
        context = client.hold(name)
        await actor.enter(context)
        await actor.exit(context, ValueError())
        mine.execute(f"INSERT INTO {table} VALUES (2)")
        mine.commit()
    assert one(admin, f"SELECT count(*) FROM {table}") == 2
    admin.execute(f"DROP TABLE {table}")


async def test_holding_was_idle_in_transaction(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """A transaction was open as long as the lock was held (sqlalchemy-dlock, tooz)."""
    client, actor = world.client(dsn), world.actor()
    context = client.hold(name)
    held = await actor.enter(context)
    (pid,) = holding(admin, name)
    # Behind a pooler one has to be: one that holds nothing back.
    idle = "idle in transaction" if client._pinned else "idle"
    sql = "SELECT state, backend_xid, backend_xmin FROM pg_stat_activity WHERE pid = %s"
    await aeventually(lambda: admin.execute(sql, [pid]).fetchone() == (idle, None, None))
    assert not held.lost
    await actor.exit(context)


async def test_a_lost_lock_was_released_without_a_word(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """The exit reconnected, unlocked nothing and returned normally, or only warned.

    So did django-pglock and distributed-pg-lock; django-pgware warned.
    """
    client, actor = world.client(dsn), world.actor()
    context = client.hold(name)
    await actor.enter(context)
    terminate(admin, *holding(admin, name))
    with pytest.raises(LockLost):
        await actor.exit(context)


async def test_a_lost_lock_stayed_acquired_for_ever(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """After the session died, release() raised, and every acquire after it said no (tooz)."""
    lock, actor = world.client(dsn).lock(name), world.actor()
    await actor.call(lock.acquire)
    terminate(admin, *holding(admin, name))
    with pytest.raises(LockLost):
        await actor.exit(lock)
    await no_locks(admin)  # a session that is told to end lets go a moment later
    assert await actor.call(lock.acquire, blocking=False)
    await actor.exit(lock)


async def test_the_body_ran_without_the_lock(
    world: World, dsn: str, name: str, rival: Admin
) -> None:
    """`with lock:` ran its body although somebody else had the lock (distributed-pg-lock)."""
    client, actor = world.client(dsn), world.actor()
    rival.execute(TAKE, [name])
    entered: list[Any] = []
    for context in (client.hold(name, wait=0.02), client.hold_all([name], wait=0.02)):
        with pytest.raises(LockTimeout):
            await actor.within(context, world.defines(entered.append))
    assert entered == []


async def test_signal_handlers_were_replaced(world: World, dsn: str, name: str) -> None:
    """Making a manager took over SIGTERM and SIGINT, and broke in threads (distributed-pg-lock)."""
    signals = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM]
    before = [signal.getsignal(number) for number in signals]
    actor = world.actor()
    client = await actor.call(lambda: world.client(dsn))
    context = client.hold(name)
    await actor.enter(context)
    await actor.exit(context)
    assert [signal.getsignal(number) for number in signals] == before


def test_importing_it_wrote_to_stdout() -> None:
    """Logging was configured on import (distributed-pg-lock); `import *` failed there, too."""
    code = "import advlock, logging; from advlock import *; print(logging.getLogger().handlers)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


async def test_first_uses_at_the_same_time_failed(world: World, dsn: str, name: str) -> None:
    """5 of 6 clients that started together failed (postgres-mutex, mithril-locks)."""
    people = [(world.actor(), world.client(dsn).hold(f"{name}-{n}")) for n in range(6)]
    await asyncio.gather(*(actor.enter(context) for actor, context in people))
    await asyncio.gather(*(actor.exit(context) for actor, context in people))


async def test_a_release_on_a_dead_connection_kept_the_lock(
    world: World, dsn: str, name: str, admin: Admin
) -> None:
    """The lock stayed for 600 s when the holder's connection had died (postgres-mutex)."""
    client, other = world.client(dsn), world.client(dsn)
    actor, guest = world.actors(2)
    context = client.hold(name)
    await actor.enter(context)
    terminate(admin, *holding(admin, name))
    with pytest.raises(LockLost):
        await actor.exit(context)
    again = other.hold(name, wait=5)
    await guest.enter(again)
    await guest.exit(again)


async def test_a_clients_settings_were_changed(
    world: World, dsn: str, name: str, rival: Admin
) -> None:
    """lock_timeout stayed on a shared connection (pals), or was reset there (django-pglock)."""
    rival.execute("SET lock_timeout = '5s'")
    client, actor = world.client(dsn), world.actor()
    context = client.hold(name, wait=5)
    await actor.enter(context)
    await actor.exit(context)
    assert one(rival, "SHOW lock_timeout") == "5s"
