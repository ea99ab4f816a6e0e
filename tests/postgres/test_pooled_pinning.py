"""A pinned transaction behind a pooler: what it leaves, what ends it, and what does not."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from waiting import eventually

from .helpers import entry, hang_up, is_gone
from .pooled import (
    HEARTBEAT,
    LEAVE,
    backend,
    ended,
    free,
    last_words,
    pin,
    pinned,
    send_pin,
    setting,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection

    from .pooled import Pooler

    Connect = Callable[..., Connection[Any]]
    MakePooler = Callable[..., Pooler]

OURS = {
    "idle_in_transaction_session_timeout": "1min",
    "tcp_user_timeout": "5000",
    "application_name": "pinned",
}
# Long for a heartbeat to be late, on a machine that does other things too.
PATIENT = "3s"
QUICK = 0.3  # PgBouncer looks at its timeouts three times a second
HOLDER = """
import sys, psycopg
session = psycopg.connect(sys.argv[1], autocommit=True)
session.execute("BEGIN")
session.execute("SELECT pg_advisory_lock(" + sys.argv[2] + ")")
print(session.execute("SELECT pg_backend_pid()").fetchone()[0], flush=True)
sys.stdin.read()
"""


def read(session: Connection[Any]) -> dict[str, str | None]:
    """Return those settings of the backend that a pinned transaction changes."""
    return {name: setting(session, name) for name in OURS}


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_settings_for_the_transaction_leave_the_backend_as_it_was(
    pooler: MakePooler, key: int, end: str
) -> None:
    """After set_config(…, true) the next client finds what it would have found without us."""
    made = pooler("transaction", default_pool_size=1)
    first, second = made.connect(application_name="first"), made.connect(application_name="second")
    pid, before, others = backend(first), read(first), read(second)
    assert pinned(first, key, **OURS) == pid
    assert read(first) == OURS
    first.execute("SELECT pg_advisory_unlock_all()")
    first.execute(end)
    assert backend(second) == pid
    assert read(second) == others
    assert read(first) == before


def test_settings_for_the_session_stay_with_the_backend(pooler: MakePooler) -> None:
    """After set_config(…, false) the next client has them, but for those that PgBouncer follows."""
    made = pooler("transaction", default_pool_size=1)
    first, second = made.connect(application_name="first"), made.connect(application_name="second")
    for name, wanted in OURS.items():
        first.execute(f"SELECT set_config('{name}', '{wanted}', false)")
    assert read(second) == OURS | {"application_name": "second"}


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_locks_that_are_held_at_the_end_go_to_the_next_client(
    pooler: MakePooler, connect: Connect, key: int, end: str
) -> None:
    """A transaction that ends before its locks do leaves them to whoever gets the backend."""
    made, witness = pooler("transaction", default_pool_size=1), connect()
    holder, following = made.connect(), made.connect()
    pid = pinned(holder, key)
    holder.execute(end)
    holder.close()
    assert backend(following) == pid
    assert not free(witness, key)
    assert pin(following, key) == [True]


def hang_up_holder(made: Pooler, key: int) -> int:
    """Pin a session, and end the connection without a word; return the backend."""
    holder = made.connect()
    pid = pinned(holder, key)
    hang_up(holder)
    return pid


def close_holder(made: Pooler, key: int) -> int:
    """Pin a session, and say goodbye in the middle of its transaction; return the backend."""
    holder = made.connect()
    pid = pinned(holder, key)
    holder.close()
    return pid


def kill_holder(made: Pooler, key: int) -> int:
    """Pin a session in another process, and kill that; return the backend."""
    command = [sys.executable, "-c", HOLDER, made.bouncer.dsn(made.dbname), str(key)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        holder.send_signal(signal.SIGKILL)
    return pid


@pytest.mark.parametrize("lose", [hang_up_holder, close_holder, kill_holder])
def test_a_client_that_leaves_takes_its_backend_along(
    pooler: MakePooler, connect: Connect, key: int, lose: Callable[[Pooler, int], int]
) -> None:
    """Left inside a transaction the server session is closed, not reused, and its lock is free."""
    made, witness = pooler("transaction", default_pool_size=1), connect()
    pid = lose(made, key)
    eventually(lambda: free(witness, key), message="the lock is free")
    eventually(lambda: is_gone(witness, pid), message="the backend's end")
    assert pinned(made.connect(), key) != pid


def test_a_client_that_leaves_at_once_leaves_nothing(
    pooler: MakePooler, connect: Connect, key: int
) -> None:
    """However soon after its request a client goes, no lock stays and nobody inherits one."""
    made, witness = pooler("transaction", default_pool_size=2), connect()
    for number in range(40):
        session = made.connect()
        send_pin(session, key + number % 4)
        if number % 2:
            session.close()
        else:
            hang_up(session)
    eventually(lambda: not made.bouncer.pinned(), message="the pooler has dealt with all of them")
    eventually(lambda: all(free(witness, key + n) for n in range(4)), message="the locks are free")


HEARTBEATS_HELP = [
    pytest.param({"idle_transaction_timeout": 3}, {}, "08P01", id="idle_transaction_timeout"),
    pytest.param({"query_timeout": 3}, {}, "08P01", id="query_timeout"),
    pytest.param(
        {}, {"idle_in_transaction_session_timeout": PATIENT}, "25P03", id="the server's own"
    ),
]


@pytest.mark.parametrize(("poolers", "own", "code"), HEARTBEATS_HELP)
def test_heartbeats_keep_timeouts_away(
    pooler: MakePooler,
    connect: Connect,
    key: int,
    poolers: dict[str, object],
    own: dict[str, str],
    code: str,
) -> None:
    """A silent transaction is ended and frees its lock; one that asks nothing but often lives."""
    made, witness = pooler("transaction", **poolers), connect()
    busy, silent = made.connect(), made.connect()
    pid = pinned(busy, key, **own)
    pinned(silent, key + 1, **own)

    def silence_ended() -> bool:
        busy.execute(HEARTBEAT)
        assert busy.info.transaction_status == TransactionStatus.INTRANS
        return ended(silent)

    eventually(silence_ended, within=15, message="the silent one's end")
    assert last_words(silent)[0] == code
    eventually(lambda: free(witness, key + 1), message="its lock is free")
    assert entry(witness, pid, key) is True


def test_a_timeout_of_the_transaction_is_a_lease_behind_a_pooler(
    pooler: MakePooler, connect: Connect, key: int
) -> None:
    """A client too silent for its own timeout loses its lock, and the pooler passes the word on."""
    made, witness = pooler("transaction"), connect()
    holder = made.connect()
    pid = pinned(holder, key, idle_in_transaction_session_timeout="2s")
    assert entry(witness, pid, key) is True
    eventually(lambda: ended(holder), message="the holder hears of its end")
    code, words = last_words(holder)
    assert (code, "idle-in-transaction timeout" in words) == ("25P03", True)
    eventually(lambda: free(witness, key), message="the lock is free")


def test_the_age_of_a_server_connection_does_not_end_a_transaction(
    pooler: MakePooler, connect: Connect, key: int
) -> None:
    """server_lifetime and server_idle_timeout close an idle connection, and no pinned one."""
    limits = {"server_lifetime": QUICK, "server_idle_timeout": QUICK, "client_idle_timeout": QUICK}
    made, witness = pooler("transaction"), connect()
    holder, other = made.connect(), made.connect()
    pid, idle = pinned(holder, key), pinned(other, key + 1)
    made.bouncer.reload(**limits)  # only now: a slow start would be idle for as long
    other.execute(LEAVE)
    eventually(lambda: is_gone(witness, idle), message="the idle connection is closed")
    assert backend(holder) == pid
    assert entry(witness, pid, key) is True


def test_an_administrators_commands_wait_for_a_pinned_transaction(
    pooler: MakePooler, connect: Connect, key: int
) -> None:
    """RELOAD, RECONNECT, DISABLE, PAUSE and a gentle stop leave a pinned transaction alone."""
    made, witness = pooler("transaction"), connect()
    holder = made.connect()
    pid = pinned(holder, key)
    made.bouncer.reload(default_pool_size=1)
    for command in ("RECONNECT", f"DISABLE {made.dbname}", f"ENABLE {made.dbname}"):
        made.bouncer.ask(command)
        assert backend(holder) == pid
    pause = Thread(target=ask_and_be_cut_off, args=(made, f"PAUSE {made.dbname}"))
    pause.start()
    try:
        eventually(lambda: is_paused(made), message="PAUSE is at work")
        made.bouncer.retire()
        for _ in range(3):
            assert backend(holder) == pid
        assert made.bouncer.process.poll() is None
        assert entry(witness, pid, key) is True
        holder.execute(LEAVE)
        eventually(lambda: made.bouncer.process.poll() is not None, message="the gentle stop")
    finally:
        made.bouncer.kill()
        pause.join()


def ask_and_be_cut_off(made: Pooler, command: str) -> None:
    """Give the console a command that may last until the pooler ends."""
    with suppress(psycopg.OperationalError):
        made.bouncer.ask(command)


def is_paused(made: Pooler) -> bool:
    """Tell whether the pooler keeps new requests back."""
    return any(row["paused"] for row in made.bouncer.ask("SHOW DATABASES"))


def test_kill_ends_a_pinned_transaction_with_a_word(
    pooler: MakePooler, connect: Connect, key: int
) -> None:
    """The console's KILL frees the lock, and tells the client with 08P01 and its reason."""
    made, witness = pooler("transaction"), connect()
    holder = made.connect()
    pinned(holder, key)
    made.bouncer.ask(f"KILL {made.dbname}")
    eventually(lambda: free(witness, key), message="the lock is free")
    eventually(lambda: ended(holder), message="the client is told")
    code, words = last_words(holder)
    assert (code, "database removed" in words) == ("08P01", True)


def test_a_terminated_backend_reaches_the_client(
    pooler: MakePooler, connect: Connect, key: int
) -> None:
    """pg_terminate_backend's words pass through the pooler to an idle client at once."""
    made, witness = pooler("transaction"), connect()
    holder = made.connect()
    witness.execute("SELECT pg_terminate_backend(%s)", (pinned(holder, key),))
    eventually(lambda: ended(holder), message="the client is told")
    assert last_words(holder)[0] == "57P01"


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_the_poolers_end_frees_the_lock_and_reaches_the_client(
    pooler: MakePooler, connect: Connect, key: int, end: str
) -> None:
    """A killed or stopped pooler takes both ends along: no backend, no lock, an end of file."""
    made, witness = pooler("transaction"), connect()
    holder = made.connect()
    pid = pinned(holder, key)
    getattr(made.bouncer, end)()
    eventually(lambda: is_gone(witness, pid), message="the backend's end")
    eventually(lambda: ended(holder), message="the client sees it")
    assert free(witness, key)
