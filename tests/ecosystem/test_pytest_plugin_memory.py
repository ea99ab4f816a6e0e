"""What a test may do to the memory server, and what the server may not do to a test."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest
from waiting import eventually

import advlock
from advlock import DatabaseUnavailable, Key, LockError, LockLost, LockNotHeld, LockTimeout, _sql
from advlock.testing import MemoryServer, _backend, _server
from advlock.testing._statements import understand

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.newest


def in_a_thread(call: Callable[[], Any]) -> Callable[[], Any]:
    """Begin a call elsewhere; what is returned waits for its outcome, which may be an error."""
    told: list[Any] = []

    def run() -> None:
        try:
            told.append(call())
        except Exception as error:  # noqa: BLE001 - it is what is asked for
            told.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def outcome() -> Any:
        thread.join(20)
        return told[0]

    return outcome


def test_somebody_else_holds_it(advlock_memory: MemoryServer) -> None:
    """A timeout is one, and says by whom; the end of the rival lets a waiter in."""
    locks = advlock_memory.locks()
    rival = advlock_memory.hold("job")
    with pytest.raises(LockTimeout, match="held by somebody else") as caught:
        locks.hold("job", wait=1).__enter__()
    assert [one.pid for one in caught.value.holders] == [rival.pid]
    waiting = locks.hold("job", wait=20)
    entered = in_a_thread(waiting.__enter__)
    eventually(lambda: advlock_memory.waiters("job"))
    rival.release()
    assert not entered().lost
    with pytest.raises(LockTimeout):
        advlock_memory.hold("job")
    waiting.__exit__(None, None, None)
    assert not advlock_memory.holders("job")
    with advlock_memory.hold("job", shared=True), locks.attempt("job", shared=True) as held:
        assert held is not None
        assert len(advlock_memory.holders("job")) == 2


def test_slots_are_locks_of_their_own(advlock_memory: MemoryServer) -> None:
    """Somebody else may have one of them, and it may be lost."""
    semaphore = advlock_memory.locks().semaphore("encode", 2)
    with advlock_memory.hold("encode"), semaphore.hold() as slot:
        assert slot.slot == 1
        with semaphore.attempt() as another:
            assert another is None
    with pytest.raises(LockLost), semaphore.hold() as slot:
        advlock_memory.lose(Key.slot("encode", slot.slot))


def test_a_child_leaves_it_alone(advlock_memory: MemoryServer) -> None:
    """A fork that ends, whose copy of everything is closed and finalized."""
    folder = advlock_memory._server.folder
    if (child := os.fork()) == 0:
        try:
            advlock_memory.close()
            advlock_memory._server._tidy()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert folder.exists()
    with advlock_memory.locks().hold("job"):
        pass


def test_a_lock_is_lost(advlock_memory: MemoryServer) -> None:
    """The holder knows when the call returns; whoever waited has it."""
    locks, others = advlock_memory.locks(), advlock_memory.locks()
    with pytest.raises(LockLost, match="terminating connection"), locks.hold("job") as held:  # noqa: PT012 - its end raises
        waiter = in_a_thread(lambda: others.hold("job").__enter__())
        eventually(lambda: advlock_memory.waiters("job"))
        assert not held.lost
        assert advlock_memory.lose("job") == 1
        assert held.lost
        assert not waiter().lost
    assert advlock_memory.lose("job") == 1
    with pytest.raises(LockNotHeld, match="nobody holds 'job'"):
        advlock_memory.lose("job")
    with advlock_memory.hold("job"):
        assert advlock_memory.lose("job") == 1
        assert not advlock_memory.holders("job")


def test_a_lock_is_lost_in_a_loop(advlock_memory: MemoryServer) -> None:
    """The same for tasks, one of which is told by being cancelled."""

    async def body() -> None:
        async with advlock_memory.async_locks() as locks:
            with pytest.raises(LockLost):  # noqa: PT012 - its end raises
                async with locks.hold("job") as held:
                    advlock_memory.lose("job")
                    assert held.lost
            with pytest.raises(LockLost):  # noqa: PT012 - its end raises
                async with locks.hold("job", cancel_on_lost=True):
                    advlock_memory.lose("job")
                    await asyncio.sleep(20)

    asyncio.run(body())


def test_silence_ends_belief(advlock_memory: MemoryServer) -> None:
    """Frozen, it answers nobody and forgets nothing; thawed, it goes on."""
    locks = advlock_memory.locks(liveness=3)
    with pytest.raises(LockLost, match="no word from the server"), locks.hold("job") as held:  # noqa: PT012 - its end raises
        advlock_memory.freeze()
        assert not held.lost
        eventually(lambda: held.lost)
        assert advlock_memory.holders("job")
        with pytest.raises(LockTimeout):
            advlock_memory.hold("job")
        advlock_memory.thaw()
    eventually(lambda: not advlock_memory.holders("job"))
    with locks.hold("job"):
        pass


def test_new_connections_are_refused(advlock_memory: MemoryServer) -> None:
    """Those that are there go on."""
    locks = advlock_memory.locks()
    with locks.hold("job"):
        advlock_memory.refuse()
        with pytest.raises(DatabaseUnavailable, match="too many clients"):
            advlock_memory.locks().hold("other").__enter__()
        with locks.hold("other"):
            pass
        advlock_memory.accept()
        with advlock_memory.locks().hold("other"):
            pass


# What is asked through poolers only, or of tables.
ELSEWHERE = {"AT_HOME", "TRY_ONE_AT_HOME", "UNLOCK_ONE_AT_HOME", "BATCH_AT_HOME"}
ELSEWHERE |= {"DECLARING_BATCH_AT_HOME", "IS_LOCKED", "IS_MARKED", "UNLOCK_IF_OURS", "MAKE_FENCE"}
TEXTS = {
    f"{name}-{place}": text
    for name, value in vars(_sql).items()
    if name.isupper() and not name.startswith("_") and name not in {*ELSEWHERE, "SETTINGS"}
    for place, text in (
        [(0, value)]
        if isinstance(value, str)
        else value.items()
        if isinstance(value, dict)
        else enumerate(value if isinstance(value, tuple) else ())
    )
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_it_knows_what_clients_say(text: str) -> None:
    """Every statement of the clients' own, so that a new one is not forgotten."""
    assert len(understand(text.replace("%s", "1"))) == 1


def test_what_it_does_not_know_it_refuses(advlock_memory: MemoryServer) -> None:
    """Never a guess: whoever needs tables is told which fixture has them."""
    locks = advlock_memory.locks()
    with psycopg.connect(advlock_memory.dsn, autocommit=True) as connection:
        for sql in ("SELECT 2", "SELECT pg_advisory_lock(1) WHERE false", "SELECT now(); SELECT 1"):
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="advlock_postgres"):
                connection.execute(sql)
    with pytest.raises(LockError, match="advlock_postgres"), locks.once("job"):
        pass
    with pytest.raises(LockError, match="advlock_postgres"):
        locks.rate_limit("job", 1, 1).try_acquire()


def test_a_string_may_be_sent_as_binary(advlock_memory: MemoryServer) -> None:
    """As asyncpg does with every parameter; it is the same lock."""
    call = "SELECT pg_advisory_lock(hashtextextended({}, 0))"
    with psycopg.connect(advlock_memory.dsn, autocommit=True) as connection:
        connection.execute(call.format("%b"), ["job"])
        assert advlock_memory.holders("job")

    async def body() -> None:
        folder = str(advlock_memory._server.folder)
        session = await asyncpg.connect(host=folder, user="advlock", database="memory")
        await session.execute(call.format("$1"), "other")
        assert advlock_memory.holders("other")
        await session.close()

    asyncio.run(body())


def test_transactions_are_what_they_are(advlock_memory: MemoryServer) -> None:
    """Locks of a transaction end with it, those of a savepoint with that, and settings, too."""
    held = advlock_memory.holders
    with psycopg.connect(advlock_memory.dsn) as connection:
        with connection.transaction():
            advlock.xact_lock(connection, "job")
            connection.execute("SET LOCAL lock_timeout = '50ms'")
            with pytest.raises(ZeroDivisionError), connection.transaction():  # noqa: PT012 - its end raises
                advlock.xact_lock(connection, "inner")
                assert held("inner")
                raise ZeroDivisionError
            assert held("job")
            assert not held("inner")
            with advlock_memory.hold("busy"):
                with (
                    pytest.raises(psycopg.errors.LockNotAvailable),
                    connection.transaction(),
                ):
                    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('busy', 0))")
                with pytest.raises(LockTimeout):
                    advlock.xact_lock(connection, "busy", wait=0.05)
        assert not held("job")
        assert connection.execute("SHOW lock_timeout").fetchone() == ("0",)
        advlock.xact_lock(connection, "job")
        with pytest.raises(psycopg.Error):
            connection.execute("nonsense")
        assert not held("job")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("SELECT 1")


def test_those_who_wait_for_each_other(
    advlock_memory: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them is refused, after a while, and the other goes on."""
    monkeypatch.setattr(_backend, "_DEADLOCK_TIMEOUT", 0.05)
    one, two = (psycopg.connect(advlock_memory.dsn) for _ in range(2))
    with one, two:
        one.execute("SELECT pg_advisory_xact_lock(1)")
        two.execute("SELECT pg_advisory_xact_lock(2)")
        waits = in_a_thread(lambda: one.execute("SELECT pg_advisory_xact_lock(2)"))
        eventually(lambda: advlock_memory.waiters(2))
        with pytest.raises(psycopg.errors.DeadlockDetected):  # noqa: PT012 - its end raises
            two.execute("SELECT pg_advisory_xact_lock(1)")
            raise waits()
        one.rollback()
        two.rollback()
        waits()


def test_times_and_cancels_are_honoured(advlock_memory: MemoryServer) -> None:
    """The session's own timeouts, and a cancel from another connection."""
    with (
        advlock_memory.hold(1),
        psycopg.connect(advlock_memory.dsn, autocommit=True) as connection,
    ):
        for name, error in (
            ("lock_timeout", psycopg.errors.LockNotAvailable),
            ("statement_timeout", psycopg.errors.QueryCanceled),
        ):
            connection.execute(f"SET {name} = '20ms'")
            with pytest.raises(error):
                connection.execute("SELECT pg_advisory_lock(1)")
            connection.execute(f"SET {name} = 0")
        waits = in_a_thread(lambda: connection.execute("SELECT pg_advisory_lock(%s)", [1]))
        eventually(lambda: advlock_memory.waiters(1))
        connection.cancel_safe()
        assert isinstance(waits(), psycopg.errors.QueryCanceled)
        assert not advlock_memory.waiters(1)
        connection.execute("SET idle_session_timeout = '20ms'")
        eventually(lambda: connection.pgconn.socket and _is_cut(connection))


def _is_cut(connection: psycopg.Connection[Any]) -> bool:
    try:
        connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return False


def test_other_processes_are_served(advlock_memory: MemoryServer) -> None:
    """`advlock run` has its lock there, hands the session on to its child, and draws a token."""
    env = {**os.environ, "ADVLOCK_DSN": advlock_memory.dsn}
    run = [sys.executable, "-m", "advlock", "run", "-n", "job", "--", "sh", "-c"]
    with advlock_memory.locks().hold("job") as held:
        before = held.token()
    told = subprocess.run([*run, "echo $ADVLOCK_TOKEN"], env=env, check=True, stdout=-1).stdout
    assert int(told) > before
    with advlock_memory.hold("job"):
        busy = subprocess.run([*run, "true"], env=env, check=False, stderr=-1, text=True)
    assert busy.returncode == 75
    assert "held by somebody else" in busy.stderr


def test_databases_are_apart(advlock_memory: MemoryServer) -> None:
    """As on a real server."""
    other = advlock_memory.dsn.replace("/memory?", "/other?")
    with advlock_memory.locks().hold("job"), advlock.Locks(other) as locks:
        with locks.attempt("job") as held:
            assert held is not None
        assert len(locks.inspect(all_databases=True).trees) == 1
        assert not locks.inspect().trees


def test_a_start_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a server that is not there; and no folder is left."""
    folder = _server._folder()

    def longer() -> Path:
        (made := folder / ("x" * 120)).mkdir()  # more than a socket's path may have
        return made

    monkeypatch.setattr(_server, "_folder", longer)
    with pytest.raises(OSError, match="path too long"):
        MemoryServer()
    folder.rmdir()


def test_its_end_is_the_end() -> None:
    """Locks are lost, files are gone, and what is asked of it afterwards says why."""
    with MemoryServer() as server:
        folder = server._server.folder
        client = advlock.Locks(server.dsn)
        held = client.hold("job").__enter__()
        assert folder.stat().st_mode & 0o777 == 0o700
        server.freeze()
    assert held.lost
    assert not folder.exists()
    server.close()
    with pytest.raises(RuntimeError, match="closed; make a new one"):
        server.hold("job")
    with pytest.raises(DatabaseUnavailable):
        advlock.Locks(server.dsn).hold("job").__enter__()
    client.close()
