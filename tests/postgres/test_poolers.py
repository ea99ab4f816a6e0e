"""What a pooler does to sessions and their locks; PgBouncer plays it, in all its modes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from bouncers import MODES
from waiting import eventually

from .helpers import answers, hang_up, is_gone, one, send
from .pooled import LEAVE, backend, ended, free, last_words, pin, pinned, refusal, send_pin

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import Connection
    from servers import Server

    from .pooled import Pooler

    Connect = Callable[..., Connection[Any]]
    MakePooler = Callable[..., Pooler]

# The largest process id of Linux; elsewhere they end earlier.
PID_MAX = 4_194_304
CLIENTS = 200
ASKS = 32
QUICK = 0.3  # PgBouncer looks at its timeouts three times a second

ROLLS_OF_SERVERS = [
    pytest.param({}, id="last one first"),
    pytest.param({"server_round_robin": 1}, id="round robin"),
]


def leave(session: Connection[Any], way: str) -> None:
    """End a client: politely, or as kill -9 does."""
    if way == "close":
        session.close()
    else:
        hang_up(session)


def take(session: Connection[Any], key: int) -> bool:
    """Try for a lock without a transaction, as one does on a session of one's own."""
    return bool(one(session, f"SELECT pg_try_advisory_lock({key})"))


def is_evidence(first: Connection[Any], second: Connection[Any], coin: random.Random) -> bool:
    """Ask two clients for their backend, in random order; tell whether it is no backend of theirs.

    That is: one was answered by two backends, or both by one.
    """
    seen: dict[Connection[Any], int] = {}
    for _ in range(ASKS):
        asked, other = (first, second) if coin.random() < 1 / 2 else (second, first)
        pid = backend(asked)
        if seen.get(asked, pid) != pid or seen.get(other) == pid:
            return True
        seen[asked] = pid
    return False


@pytest.mark.parametrize("network", ["unix", "tcp"])
def test_without_a_pooler_the_startup_names_the_backend(
    server: Server, dsn: str, network: str
) -> None:
    """On a direct connection the process id of the startup packet is always the backend's own."""
    dbname = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    address = server.dsn(str(dbname)) if network == "unix" else server.tcp_dsn(str(dbname))
    for _ in range(10):
        with psycopg.connect(address, autocommit=True) as session:
            assert session.info.backend_pid == backend(session)
            assert 1 <= session.info.backend_pid <= PID_MAX


@pytest.mark.parametrize("mode", MODES)
def test_a_pooler_makes_the_process_id_up(pooler: MakePooler, mode: str) -> None:
    """The process id of the startup is a random number: never the backend's, seldom a possible one.

    Of 6 000 such numbers 6 could have been the id of a process: they have 32 bits, and one in 1 024
    lies between 1 and `PID_MAX`.
    """
    made = pooler(mode)
    possible = 0
    for _ in range(CLIENTS):
        session = made.connect()
        told = session.info.backend_pid
        assert told != backend(session)
        possible += 1 <= told <= PID_MAX
        session.close()
    assert possible < CLIENTS / 10


@pytest.mark.parametrize("roll", ROLLS_OF_SERVERS)
@pytest.mark.parametrize("size", [1, 5])
def test_transaction_pooling_shows_when_two_clients_ask(
    pooler: MakePooler, roll: dict[str, object], size: int
) -> None:
    """Of two clients that ask in random order for their backend one is moved, or they share one."""
    made = pooler("transaction", default_pool_size=size, **roll)
    busy = [made.connect() for _ in range(size)]
    for session in busy:  # as many server sessions as there may be
        session.execute("BEGIN")
    for session in busy:
        session.execute("COMMIT")
    assert is_evidence(made.connect(), made.connect(), random.Random(size))  # noqa: S311


@pytest.mark.parametrize("roll", ROLLS_OF_SERVERS)
def test_session_pooling_never_looks_like_transaction_pooling(
    pooler: MakePooler, roll: dict[str, object]
) -> None:
    """In session mode a client keeps its backend, and no other client has it."""
    made = pooler("session", **roll)
    coin = random.Random(1)  # noqa: S311
    for _ in range(10):
        first, second = made.connect(), made.connect()
        assert not is_evidence(first, second, coin)
        first.close()
        second.close()


def test_transaction_pooling_grants_one_lock_twice(
    pooler: MakePooler, connect: Connect, key: int
) -> None:
    """Without a transaction two clients get one lock, and it stays when both have left."""
    made, witness = pooler("transaction"), connect()
    first, second = made.connect(), made.connect()
    assert take(first, key)
    assert take(second, key)
    first.close()
    second.close()
    assert backend(made.connect())  # the pooler serves others: it has seen both leave
    assert not free(witness, key)


def test_a_transaction_pins_the_server_session(
    pooler: MakePooler, connect: Connect, key: int
) -> None:
    """Inside transactions the same two clients exclude each other, and leave nothing behind."""
    made, witness = pooler("transaction"), connect()
    first, second = made.connect(), made.connect()
    assert pin(first, key, key + 1) == [True, True]
    assert pin(second, key, key + 2) == [False, True]
    assert backend(first) != backend(second)
    first.execute(LEAVE)
    assert take(second, key)
    second.execute(LEAVE)
    assert all(free(witness, key + number) for number in range(3))


@pytest.mark.parametrize("way", ["close", "hang up"])
@pytest.mark.parametrize("reset", ["DISCARD ALL", "RESET ALL", ""])
def test_session_pooling_frees_locks_by_discard_all_alone(
    pooler: MakePooler, connect: Connect, key: int, reset: str, way: str
) -> None:
    """A lock ends with its client where the pooler sends DISCARD ALL; else the next one has it."""
    made, witness = pooler("session", server_reset_query=reset, default_pool_size=1), connect()
    holder, following = made.connect(), made.connect()
    assert take(holder, key)
    pid = backend(holder)
    assert not free(witness, key)
    leave(holder, way)
    assert backend(following) == pid
    assert free(witness, key) is (reset == "DISCARD ALL")
    assert free(following, key)


def test_a_reset_after_each_transaction_takes_the_lock_away(
    pooler: MakePooler, connect: Connect, key: int
) -> None:
    """With server_reset_query_always a try in transaction mode is true, and its lock is gone."""
    made, witness = pooler("transaction", server_reset_query_always=1), connect()
    session = made.connect()
    assert take(session, key)
    eventually(lambda: free(witness, key), message="the lock is free")


def test_a_reset_after_each_transaction_leaves_a_pinned_one_alone(
    pooler: MakePooler, connect: Connect, key: int
) -> None:
    """The reset comes when the transaction is over; until then the lock stays."""
    made, witness = pooler("transaction", server_reset_query_always=1), connect()
    holder, other = made.connect(), made.connect()
    pinned(holder, key)
    for _ in range(3):
        assert backend(other)
    assert not free(witness, key)


def test_a_full_pool_makes_others_wait(pooler: MakePooler, key: int) -> None:
    """Where all server sessions are pinned, a request waits for a COMMIT and is then answered."""
    made = pooler("transaction", default_pool_size=1)
    holder, other = made.connect(), made.connect()
    pid = pinned(holder, key)
    send(other, "SELECT pg_backend_pid()")
    eventually(lambda: "waiting" in states(made), message="the client waits")
    assert made.bouncer.pinned() == 1
    holder.execute(LEAVE)
    assert [result.get_value(0, 0) for result in answers(other)] == [str(pid).encode()]


def states(made: Pooler) -> list[str]:
    """What the pooler says about its clients on the test database."""
    rows = made.bouncer.ask("SHOW CLIENTS")
    return [row["state"] for row in rows if row["database"] == made.dbname]


@pytest.mark.parametrize("way", ["close", "hang up"])
def test_a_request_in_the_poolers_queue_dies_with_its_client(
    pooler: MakePooler, connect: Connect, key: int, table: str, way: str
) -> None:
    """What a client asked for that left before its turn is not run, although it keeps its place."""
    made, witness = pooler("transaction", default_pool_size=1), connect()
    witness.execute(f"CREATE SEQUENCE {table}_ran OWNED BY {table}.id")
    holder, other = made.connect(), made.connect()
    pinned(holder, key)
    count = f"SELECT nextval('{table}_ran') FROM pg_catalog.unnest($1::int8[])"
    send_pin(other, key, try_=count.encode())
    eventually(lambda: "waiting" in states(made), message="the client waits")
    leave(other, way)
    assert "waiting" in states(made)  # PgBouncer does not read from those who wait
    holder.execute(LEAVE)
    assert pin(holder, key) == [True]
    assert "waiting" not in states(made)
    assert one(witness, f"SELECT is_called FROM {table}_ran") is False


def test_a_wait_for_a_full_pool_ends_with_a_word(pooler: MakePooler, key: int) -> None:
    """query_wait_timeout answers the first statement with 08P01 and its own name, and hangs up."""
    made = pooler("transaction", default_pool_size=1)
    holder, other = made.connect(), made.connect()
    pinned(holder, key)
    made.bouncer.reload(query_wait_timeout=QUICK)  # only now: the first wait is for a connection
    send_pin(other, key)
    assert refusal(other) == ("08P01", "FATAL:  query_wait_timeout")
    holder.execute(LEAVE)
    assert pin(holder, key) == [True]


def test_too_many_clients_are_told_so(pooler: MakePooler) -> None:
    """Beyond max_client_conn connecting fails, with the name of the setting and no SQLSTATE."""
    made = pooler("transaction", max_client_conn=1)
    first = made.connect()
    with pytest.raises(psycopg.OperationalError, match=r"\(max_client_conn\)") as failure:
        made.connect()
    assert failure.value.sqlstate is None
    assert backend(first)


def test_statement_pooling_refuses_transactions(
    pooler: MakePooler, connect: Connect, key: int
) -> None:
    """In statement mode BEGIN is answered with 08P01, alone or in a pipeline, and no lock stays."""
    made, witness = pooler("statement"), connect()
    alone, together = made.connect(), made.connect()
    words = "transaction blocks not allowed in statement pooling mode"
    with pytest.raises(psycopg.errors.ProtocolViolation, match=words):
        alone.execute("BEGIN")
    send_pin(together, key)
    assert refusal(together) == ("08P01", f"FATAL:  {words}")
    eventually(lambda: free(witness, key), message="the lock is free")


@pytest.mark.parametrize("mode", MODES)
def test_options_in_the_startup_are_refused(pooler: MakePooler, mode: str) -> None:
    """The startup packet may not have `options`; its application_name reaches the server."""
    made = pooler(mode)
    with pytest.raises(psycopg.OperationalError, match="unsupported startup parameter: options"):
        made.connect(options="-c idle_session_timeout=0")
    assert one(made.connect(application_name="mine"), "SHOW application_name") == "mine"


def test_the_idle_timeout_of_a_session_is_a_lease_in_session_mode(
    pooler: MakePooler, connect: Connect, key: int
) -> None:
    """idle_session_timeout ends a silent holder's session; the next client does not inherit it."""
    made, witness = pooler("session", default_pool_size=1), connect()
    holder = made.connect()
    assert take(holder, key)
    pid = backend(holder)
    holder.execute("SELECT set_config('idle_session_timeout', '2s', false)")
    assert not free(witness, key)
    eventually(lambda: free(witness, key), message="the lock is free")
    eventually(lambda: is_gone(witness, pid), message="the backend's end")
    eventually(lambda: ended(holder), message="the holder hears of it")
    assert last_words(holder)[0] == "57P05"
    assert one(made.connect(), "SHOW idle_session_timeout") == "0"
