"""On a real server: sessions end, others get their locks, the server goes away and comes back."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from clusters import steady_cluster
from psycopg.conninfo import make_conninfo
from waiting import eventually, stop

from advlock.cli._top import _headline
from advlock.errors import DatabaseUnavailable

from .helpers import ByHand, Screen, is_idle, run, running
from .scene import Scene, make_role

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from servers import Server


@pytest.fixture
def scene(dsn: str) -> Iterator[Scene]:
    """Sessions that end with the test."""
    with contextlib.ExitStack() as stack:
        yield Scene(dsn, stack)


def _alive(admin: psycopg.Connection[Any], pid: int) -> bool:
    query = "SELECT FROM pg_stat_activity WHERE pid = %s"
    return admin.execute(query, [pid]).fetchone() is not None


async def _filter(screen: Screen, words: str) -> None:
    await screen.press("slash", *words, "enter")


def test_kill_ends_the_session_and_says_who_is_next(
    dsn: str, scene: Scene, admin: psycopg.Connection[Any]
) -> None:
    """`k` and `t` end exactly the session that was shown, and tell who got the lock."""
    held = scene.holds("nightly", "web-2:42", 60)
    other = scene.holds("deploy", "ci-7:99", 60)
    scene.waits("nightly", "web-1:33", 50)

    async def test() -> None:
        async with running(dsn) as screen:
            await screen.until(lambda: screen.names[:2] == ["nightly", "web-1:33"])
            await screen.press("k")
            pid = held.info.backend_pid
            assert f"End server session {pid}?" in screen.text
            assert _alive(admin, pid)
            await screen.press("t")
            await screen.told("nightly is now held by web-1:33")
            await screen.until(lambda: not _alive(admin, pid))
            assert _alive(admin, other.info.backend_pid)

    run(test())


def test_cancel_frees_a_waiter(dsn: str, scene: Scene, admin: psycopg.Connection[Any]) -> None:
    """`c` on a waiter's line cancels its statement; its session stays."""
    scene.holds("nightly", "web-2:42", 60)
    pid = scene.waits("nightly", "web-1:33", 50)

    async def test() -> None:
        async with running(dsn) as screen:
            await screen.until(lambda: screen.names[:2] == ["nightly", "web-1:33"])
            await screen.press("down", "k", "c")
            await screen.told("web-1:33: what it ran was cancelled")
            await screen.until(lambda: screen.names == ["nightly"])
            assert _alive(admin, pid)

    run(test())


def test_the_question_is_about_what_it_showed(
    dsn: str, scene: Scene, admin: psycopg.Connection[Any]
) -> None:
    """A session that let go meanwhile is left alone, though the answer was yes."""
    held = scene.holds("nightly", "web-2:42", 60)
    heir = scene.waits("nightly", "web-1:33", 50)

    async def test() -> None:
        async with running(dsn) as screen:
            await screen.until(lambda: len(screen.names) == 2)
            await screen.press("k")
            held.execute("SELECT pg_advisory_unlock_all()")
            await screen.press("t")
            await screen.told("nothing was done: web-2:42 has nothing to do with nightly any")
            assert _alive(admin, held.info.backend_pid)
            assert _alive(admin, heir)

    run(test())


def test_a_role_that_may_not_is_told_what_to_do(dsn: str, scene: Scene) -> None:
    """Without the privilege nothing happens, and the message names it."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        make_role(admin, "lowly")
    held = scene.holds("nightly", "web-2:42", 60)

    async def test() -> None:
        async with running(make_conninfo(dsn, user="lowly")) as screen:
            await screen.shows("GRANT pg_monitor TO lowly")
            await screen.press("k", "t")
            await screen.told("superuser")
            assert not held.closed
            held.execute("SELECT 1")

    run(test())


def test_it_names_only_what_was_asked_for(dsn: str, scene: Scene) -> None:
    """A lock that waits for a key that changes stays under the cursor, live."""
    scene.holds("b-lock", "web-2:42", 60)
    scene.holds("c-lock", "web-2:43", 60)

    async def test() -> None:
        async with running(dsn) as screen:
            await screen.until(lambda: screen.names == ["b-lock", "c-lock"])
            await screen.press("down")
            scene.holds("a-lock", "web-2:44", 60)
            await screen.until(lambda: screen.names == ["a-lock", "b-lock", "c-lock"])
            assert screen.here == "c-lock"
            await _filter(screen, "a-lock")
            assert screen.names == ["a-lock"]

    run(test())


def test_hostile_application_names(dsn: str, scene: Scene) -> None:
    """What a session calls itself stands there as it is, markup and all."""
    session = scene.session("[red]x[/red] \x1b[31m")
    session.execute("SELECT pg_advisory_lock(77)")

    async def test() -> None:
        async with running(dsn, (120, 30)) as screen:
            await screen.shows("[red]x[/red]")
            assert "\x1b" not in screen.text

    run(test())


def test_all_databases_of_the_server(dsn: str, scene: Scene, server: Server) -> None:
    """`a` shows the locks of another database beside ours, and whose they are."""
    scene.holds("ours", "web-2:42", 60)
    with psycopg.connect(server.superuser_dsn, autocommit=True) as there:
        there.execute("SELECT pg_advisory_lock(4711)")

        async def test() -> None:
            async with running(dsn) as screen:
                await screen.until(lambda: screen.names == ["ours"])
                await screen.press("a")
                await _filter(screen, "4711")
                await screen.until(lambda: "4711" in screen.names)
                assert there.info.dbname in screen.text

        run(test())


# -- the server goes away --------------------------------------------------------------------------


def _own_pid(screen: Screen) -> int:
    door: Any = screen.app.feed._opened.__self__  # type: ignore[attr-defined]
    return int(door._window.pid)


async def _stop_its_session(screen: Screen, admin: psycopg.Connection[Any]) -> int:
    """Stop the server's process between two looks, and have it asked; return the process.

    In the midst of a look it has locks on the server's own tables, and everybody waits for it.
    """
    await screen.press("space")
    pid = _own_pid(screen)
    await screen.until(lambda: is_idle(admin, pid))
    stop(pid)
    try:
        at = time.monotonic()
        await screen.press("space")
        await screen.until(lambda: (screen.app.feed.asking_since or 0) > at)
    except BaseException:
        os.kill(pid, signal.SIGCONT)
        raise
    return pid


def test_a_server_that_does_not_answer(
    dsn: str,
    scene: Scene,
    admin: psycopg.Connection[Any],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The screen goes on, says since when it is old, and is there again with the first answer."""
    if server.cluster is None:
        pytest.skip("the processes of the server of ADVLOCK_TEST_DSN are out of reach")
    monkeypatch.setattr(_headline, "_SILENT", 0.2)
    scene.holds("nightly", "web-2:42", 60)

    async def test() -> None:
        async with running(dsn) as screen:
            await screen.until(lambda: screen.names == ["nightly"])
            pid = await _stop_its_session(screen, admin)
            try:
                await screen.shows("no answer for")
                assert screen.names == ["nightly"]
                await screen.press("d", "slash", *"xyz")
                assert screen.names == []
                await screen.press("escape")
            finally:
                os.kill(pid, signal.SIGCONT)
            await screen.until(lambda: "no answer for" not in screen.text)

    run(test())


def test_quitting_does_not_wait_for_the_server(
    dsn: str, admin: psycopg.Connection[Any], server: Server
) -> None:
    """`q` ends the application while its question is open; the thread ends with the answer."""
    if server.cluster is None:
        pytest.skip("the processes of the server of ADVLOCK_TEST_DSN are out of reach")
    stopped: list[int] = []
    threads: list[threading.Thread] = []

    async def test() -> None:
        async with running(dsn) as screen:
            stopped.append(await _stop_its_session(screen, admin))
            await screen.pilot.press("q")
            await screen.until(lambda: not screen.app.is_running)
            screen.app.feed.stop(within=0)
            threads.append(screen.app.feed._thread)
            assert threads[0].is_alive()
            os.kill(stopped[0], signal.SIGCONT)

    try:
        run(test())
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    (thread,) = threads
    eventually(lambda: not thread.is_alive())


def test_a_session_that_is_ended(dsn: str, admin: psycopg.Connection[Any]) -> None:
    """Its own session may be terminated, too: it opens another one."""

    async def test() -> None:
        async with running(dsn) as screen:
            first = _own_pid(screen)
            admin.execute("SELECT pg_terminate_backend(%s)", [first])
            await screen.until(lambda: _own_pid(screen) not in {0, first})
            await screen.until(lambda: "lost the database" not in screen.text)

    run(test())


def test_a_restart(server: Server) -> None:
    """While the server is away the last picture stays, marked; then there is a new one."""
    with steady_cluster(server) as cluster:

        async def test() -> None:
            with psycopg.connect(cluster.dsn(), autocommit=True) as session:
                session.execute("SELECT pg_advisory_lock(4711)")
                async with running(cluster.dsn()) as screen:
                    await screen.until(lambda: screen.names == ["4711"])
                    cluster.stop()
                    await screen.shows("lost the database, trying again")
                    assert screen.names == ["4711"]
                    assert screen.app.table.has_class("-stale")
                    cluster.start()
                    await screen.until(lambda: screen.names == [], within=20)
                    assert "lost the database" not in screen.text
                    assert not screen.app.table.has_class("-stale")

        run(test())


def test_no_server_at_the_start() -> None:
    """Then there is nothing to show: the error ends it, and says why."""
    source = ByHand()
    source.error = DatabaseUnavailable("nobody is there")

    async def test() -> None:
        from advlock.cli._top._app import Top  # noqa: PLC0415 - what `running` makes has a picture

        app = Top(source.opened)
        async with app.run_test() as pilot:
            await Screen(app, pilot).until(lambda: not app.is_running)
        assert app.failure is source.error

    run(test())


def test_a_bug_ends_it() -> None:
    """What is no trouble of the database's is not tried again for ever."""

    async def test() -> None:
        source = ByHand()
        async with running(source) as screen:
            source.error = ZeroDivisionError()
            screen.app.look_now()
            await screen.until(lambda: not screen.app.is_running)

    with pytest.raises(ZeroDivisionError):
        run(test())
