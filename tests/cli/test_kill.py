"""`advlock kill`: ends the right session, says what comes of it, and does nothing in doubt."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import make_conninfo
from waiting import eventually

from .helpers import WORKER
from .lock_scene import pid_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .helpers import Cli
    from .lock_scene import OnTerminal, Scene, Told

    Advlock = Callable[..., Told]

pytest_plugins = ["cli.lock_fixtures"]

CTRL_C, CTRL_D = "\x03", "\x04"


def test_it_ends_the_holder_and_says_who_is_next(
    scene: Scene, advlock: Advlock, number: int
) -> None:
    """What it was is shown first: process, role, query, what else it holds, who waits."""
    holder = scene.hold(str(number), "the-holder")
    holder.execute("SELECT pg_advisory_lock(4711)")
    waiter = scene.wait(str(number), "the-waiter")
    told = advlock("kill", "--yes", str(number))
    pid = pid_of(holder)
    assert (told.code, told.out) == (0, "")
    assert f"advlock: server session {pid} holds the lock {number}" in told.err
    assert "the-holder" in told.err
    assert "also holds    4711" in told.err
    assert f"waiters       the-waiter (server session {pid_of(waiter)})" in told.err
    assert told.err.splitlines()[-1].startswith(f"advlock: session {pid} has ended; the lock ")
    assert told.err.endswith(f"is held by the-waiter (server session {pid_of(waiter)}) now\n")
    eventually(lambda: not scene.alive(holder))
    assert scene.alive(waiter)


def test_a_program_that_takes_it_again_is_pointed_out(
    scene: Scene, advlock: Advlock, name: str
) -> None:
    """The lock went from one session of a process to another one of the same: stop that first."""
    signature = f"advlock:{name} web-2:4242"
    scene.hold(f"hashtextextended('{name}', 0)", signature)
    scene.wait(f"hashtextextended('{name}', 0)", signature)
    told = advlock("kill", "--yes", name)
    assert told.code == 0
    assert told.err.endswith("now: the same program has taken it again; stop that first\n")


def test_a_run_whose_session_is_ended_stops_its_command(
    cli: Cli, advlock: Advlock, name: str
) -> None:
    """It exits 74, as it does whenever it loses its lock; that was said before."""
    started = cli.start("run", name, "--", *WORKER)
    started.worker()
    told = advlock("kill", "-y", name)
    assert told.code == 0
    assert "advlock run stops its command and exits 74" in told.err
    assert f"{name} is free" in told.err
    assert started.code() == 74


def test_without_a_terminal_it_does_not_guess(scene: Scene, advlock: Advlock, number: int) -> None:
    """Nobody to ask and no --yes: wrong usage, with what to type."""
    holder = scene.hold(str(number))
    told = advlock("kill", str(number))
    assert told.code == 64
    assert f"add --yes: advlock kill --yes {number}" in told.err
    assert scene.alive(holder)


@pytest.mark.parametrize(
    ("keys", "code", "ended"),
    [("YES\n", 0, True), ("\n", 1, False), (CTRL_D, 1, False)],
)
def test_it_asks_on_a_terminal(
    scene: Scene,
    number: int,
    on_terminal: Callable[..., OnTerminal],
    keys: str,
    code: int,
    ended: bool,
) -> None:
    """Only a yes is one."""
    holder = scene.hold(str(number))
    terminal = on_terminal("kill", str(number))
    terminal.until(f"End session {pid_of(holder)}? [y/N] ")
    terminal.type(keys)
    assert terminal.code() == code
    eventually(lambda: scene.alive(holder) is not ended)
    assert ("nothing was done" in terminal.seen) is not ended


def test_ctrl_c_at_the_question_does_nothing(
    scene: Scene, number: int, on_terminal: Callable[..., OnTerminal]
) -> None:
    """The holder lives, and the exit code says what ended the command."""
    holder = scene.hold(str(number))
    terminal = on_terminal("kill", str(number))
    terminal.until("[y/N] ")
    terminal.type(CTRL_C)
    assert terminal.code() == 128 + signal.SIGINT
    assert scene.alive(holder)
    assert terminal.unchanged()
    assert "Traceback" not in terminal.seen


def test_of_several_holders_one_is_chosen(scene: Scene, advlock: Advlock, number: int) -> None:
    """They are listed with what to type; --pid ends that one and no other."""
    one, other = (scene.hold(f"SHARED: {number}", f"reader-{n}") for n in "ab")
    told = advlock("kill", "--yes", str(number))
    assert told.code == 64
    for session in (one, other):
        assert f"advlock kill --pid {pid_of(session)} {number}" in told.err
    told = advlock("kill", "--yes", "--pid", str(pid_of(one)), str(number))
    assert told.code == 0
    assert "one other session still shares it" in told.err
    eventually(lambda: not scene.alive(one))
    assert scene.alive(other)


def test_a_process_that_has_nothing_to_do_with_it_is_left_alone(
    scene: Scene, advlock: Advlock, number: int
) -> None:
    """A wrong --pid ends nobody."""
    scene.hold(str(number))
    other = scene.session()
    told = advlock("kill", "--yes", "--pid", str(pid_of(other)), str(number))
    assert (told.code, scene.alive(other)) == (1, True)
    assert "neither holds" in told.err


def test_nobody_holds_it(scene: Scene, advlock: Advlock, name: str) -> None:
    """There is nothing to end; what was probably meant is said."""
    scene.hold("42", "psql")
    told = advlock("kill", "--yes", "--json", name)
    assert (told.code, told.json["outcome"]) == (1, "none")
    assert f"nobody holds {name}" in told.err


def test_cancel_does_nothing_to_an_idle_holder(scene: Scene, advlock: Advlock, number: int) -> None:
    """A session-level lock outlives every statement, so this is said instead of pretended."""
    holder = scene.hold(str(number))
    told = advlock("kill", "--cancel", "--yes", str(number))
    assert told.code == 1
    assert "it runs nothing that could be cancelled, and keeps the lock" in told.err
    assert scene.alive(holder)


def test_cancel_frees_the_lock_of_a_transaction(
    scene: Scene, advlock: Advlock, number: int
) -> None:
    """Its statement is cancelled, so its transaction fails; the session lives on."""
    holder = scene.session()
    holder.pgconn.send_query(f"SELECT pg_advisory_xact_lock({number}), pg_sleep(60)".encode())
    eventually(lambda: advlock("ps", str(number)).code == 0)
    told = advlock("kill", "--cancel", "--yes", str(number))
    assert told.code == 0
    assert f"what session {pid_of(holder)} ran was cancelled; " in told.err
    assert "is free" in told.err
    assert scene.alive(holder)


def test_cancel_takes_a_waiter_out_of_the_queue(
    scene: Scene, advlock: Advlock, number: int
) -> None:
    """With --pid, somebody who waits may be meant; the holder notices nothing."""
    holder = scene.hold(str(number))
    waiter = scene.wait(str(number))
    told = advlock("kill", "--cancel", "--yes", "--pid", str(pid_of(waiter)), str(number))
    assert told.code == 0
    assert (scene.alive(holder), scene.alive(waiter)) == (True, True)
    (lock,) = advlock("ps", "--json", str(number)).json["locks"]
    assert lock["waiters"] == []


def test_cancel_takes_one_that_shares_it_out_of_the_queue(
    scene: Scene, advlock: Advlock, number: int
) -> None:
    """Who shares a lock and waits to have it alone waits no more; that is what was cancelled."""
    other = scene.hold(f"SHARED: {number}")
    both = scene.hold(f"SHARED: {number}")
    both.pgconn.send_query(f"SELECT pg_advisory_lock({number})".encode())
    waits = "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted"
    pid = pid_of(both)
    eventually(lambda: scene.admin.execute(waits, [pid]).fetchone() == (1,))
    told = advlock("kill", "--cancel", "--yes", "--json", "--pid", str(pid), str(number))
    assert (told.code, told.json["outcome"]) == (0, "cancelled")
    assert scene.admin.execute(waits, [pid]).fetchone() == (0,)
    assert (scene.alive(other), scene.alive(both)) == (True, True)


def test_what_a_cancel_leaves_is_said(
    scene: Scene, advlock: Advlock, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy holder of a session-level lock loses its statement, and keeps the lock."""
    monkeypatch.setattr("advlock.cli.kill._PATIENCE", 0.3)
    holder = scene.hold(str(number))
    holder.pgconn.send_query(b"SELECT pg_sleep(60)")
    active = "SELECT state FROM pg_stat_activity WHERE pid = %s"
    pid = pid_of(holder)
    eventually(lambda: scene.admin.execute(active, [pid]).fetchone() == ("active",))
    told = advlock("kill", "--cancel", "--yes", "--json", str(number))
    assert (told.code, told.json["outcome"]) == (124, "pending")
    assert "and it keeps the lock" in told.err
    assert scene.alive(holder)


# -- who may ---------------------------------------------------------------------------------------


def test_what_is_missing_is_granted(scene: Scene, advlock: Advlock, number: int, dsn: str) -> None:
    """A role that may not says which GRANT it needs; with that it may."""
    owner, weak = scene.role(), scene.role()
    holder = scene.hold(str(number), user=owner)
    address = make_conninfo(dsn, user=weak)
    told = advlock("kill", "--yes", "--json", str(number), dsn=address)
    assert (told.code, told.json["outcome"]) == (77, "forbidden")
    assert f"{weak} may not end sessions of {owner}" in told.err
    assert f"GRANT pg_signal_backend TO {weak}" in told.err
    assert scene.alive(holder)
    scene.admin.execute(f"GRANT pg_signal_backend TO {weak}")
    assert advlock("kill", "--yes", str(number), dsn=address).code == 0
    eventually(lambda: not scene.alive(holder))


def test_a_role_ends_its_own_sessions_without_a_grant(
    scene: Scene, advlock: Advlock, number: int, dsn: str
) -> None:
    """It sees all of them, too."""
    owner = scene.role()
    holder = scene.hold(str(number), user=owner)
    told = advlock("kill", "--yes", str(number), dsn=make_conninfo(dsn, user=owner))
    assert told.code == 0
    eventually(lambda: not scene.alive(holder))


def test_a_superuser_s_session_is_for_superusers(
    scene: Scene, advlock: Advlock, number: int, dsn: str
) -> None:
    """pg_signal_backend does not help there, so it is not suggested."""
    weak = scene.role()
    scene.admin.execute(f"GRANT pg_signal_backend TO {weak}")
    holder = scene.hold(str(number))
    told = advlock("kill", "--yes", str(number), dsn=make_conninfo(dsn, user=weak))
    assert told.code == 77
    assert "belongs to a superuser" in told.err
    assert "pg_signal_backend" not in told.err
    assert scene.alive(holder)


# -- and what changes meanwhile --------------------------------------------------------------------


def test_somebody_else_has_the_lock_by_the_time_of_the_yes(
    scene: Scene, number: int, on_terminal: Callable[..., OnTerminal]
) -> None:
    """The session that was shown is gone, another one took the lock: it is left alone."""
    holder = scene.hold(str(number), "same-name")
    terminal = on_terminal("kill", str(number))
    terminal.until("[y/N] ")
    holder.close()
    heir = scene.hold(str(number), "same-name")
    terminal.type("y\n")
    assert terminal.code() == 75
    assert f"session {pid_of(holder)} has ended by itself; nothing was done" in terminal.seen
    assert scene.alive(heir)


def test_the_holder_has_let_go_by_the_time_of_the_yes(
    scene: Scene, number: int, on_terminal: Callable[..., OnTerminal]
) -> None:
    """The same session, and no lock any more: it is not ended for what it no longer does."""
    holder = scene.hold(str(number))
    terminal = on_terminal("kill", str(number))
    terminal.until("[y/N] ")
    holder.execute("SELECT pg_advisory_unlock_all()")
    scene.hold(str(number))
    terminal.type("y\n")
    assert terminal.code() == 75
    assert "nothing to do with the lock any more" in terminal.seen
    assert scene.alive(holder)


@pytest.mark.parametrize("sees", [True, False])
def test_a_pooled_session_that_changed_hands_is_left_alone(
    scene: Scene, number: int, on_terminal: Callable[..., OnTerminal], cli: Cli, sees: bool
) -> None:
    """The process and the lock are the same, and another client signs: what was shown is not so."""
    owner = scene.role()
    if not sees:
        weak = scene.role()
        scene.admin.execute(f"GRANT pg_signal_backend TO {weak}")
        cli.env["ADVLOCK_DSN"] = make_conninfo(cli.env["ADVLOCK_DSN"], user=weak)
    holder = scene.hold(str(number), "client-1", user=owner)
    terminal = on_terminal("kill", str(number))
    terminal.until("[y/N] ")
    holder.execute("SET application_name = 'client-2'")
    terminal.type("y\n")
    assert terminal.code() == 75
    assert "is another session by now" in terminal.seen
    assert scene.alive(holder)


def test_a_cancelled_wait_at_the_server_is_no_bug_of_ours(
    scene: Scene, advlock: Advlock, number: int
) -> None:
    """Ending a waiter with --pid leaves the lock where it is."""
    holder = scene.hold(str(number))
    waiter = scene.wait(str(number))
    told = advlock("kill", "--yes", "--json", "--pid", str(pid_of(waiter)), str(number))
    assert (told.code, told.json["outcome"]) == (0, "ended")
    assert [one["pid"] for one in told.json["now"]["holders"]] == [pid_of(holder)]
    eventually(lambda: not scene.alive(waiter))
