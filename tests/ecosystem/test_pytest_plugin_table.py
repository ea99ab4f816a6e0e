"""The memory server's lock table and PostgreSQL's decide alike: the same requests to both."""

from __future__ import annotations

import select
from typing import Any, Final

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from psycopg import pq

from advlock.testing._table import SESSION, Outcome, Table, Tag, _Lock

pytestmark = pytest.mark.newest

PATIENCE: Final = 20.0  # seconds, on a busy machine
SESSIONS: Final = range(4)
_LOCKS: Final = """
SELECT pid, objid::int8, mode = 'ShareLock', granted FROM pg_locks
WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database
                                            WHERE datname = current_database())
"""

sessions = st.sampled_from(SESSIONS)
keys = st.sampled_from((1, 2))
modes = st.booleans()


class Real:
    """A session of a real server, which is asked without waiting for the answer."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.pgconn = self.connection.pgconn
        self.pid = self.pgconn.backend_pid
        # Circles are found by no timer here, so that nothing depends on how quick a test is.
        self.ask("SET deadlock_timeout = '1h'")
        self.ask("BEGIN")

    def send(self, sql: str) -> None:
        """Ask."""
        self.pgconn.send_query(sql.encode())

    def answer(self) -> Any:
        """Wait for the answer: its first value, or its SQLSTATE."""
        told: Any = None
        while True:
            while self.pgconn.is_busy():
                assert select.select([self.pgconn.socket], [], [], PATIENCE)[0], "no answer"
                self.pgconn.consume_input()
            result = self.pgconn.get_result()
            if result is None:
                return told
            if result.status == pq.ExecStatus.FATAL_ERROR:
                told = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
            elif result.ntuples:
                told = result.get_value(0, 0)

    def ask(self, sql: str) -> Any:
        """Ask, and wait for the answer."""
        self.send(sql)
        return self.answer()


class Alike(RuleBasedStateMachine):
    """Does everything twice, and looks at everything after each step."""

    real: list[Real]
    admin: psycopg.Connection[Any]

    def __init__(self) -> None:
        super().__init__()
        self.served: list[int] = []
        self.table = Table(self.served.append)
        self.waiting: set[int] = set()
        self.savepoints = dict.fromkeys(SESSIONS, 0)

    def teardown(self) -> None:
        """Begin anew on the same sessions."""
        for one in sorted(self.waiting):
            self.admin.execute("SELECT pg_cancel_backend(%s)", [self.real[one].pid])
        for number, one in enumerate(self.real):
            if number in self.waiting:
                one.answer()
            one.ask("ROLLBACK")
            one.ask("SELECT pg_advisory_unlock_all()")
            one.ask("BEGIN")

    # -- asking ----------------------------------------------------------------------------------

    def free(self, session: int) -> bool:
        """Whether it does not wait."""
        return session not in self.waiting

    @rule(session=sessions, key=keys, shared=modes, ours=st.booleans(), waits=st.booleans())
    def lock(self, session: int, key: int, shared: bool, ours: bool, waits: bool) -> None:
        if not self.free(session):
            return
        words = ["pg", *([] if waits else ["try"]), "advisory", *([] if ours else ["xact"]), "lock"]
        call = "_".join(words + (["shared"] if shared else []))
        level = SESSION if ours else self.savepoints[session]
        outcome = self.table.acquire(session, _tag(key), shared=shared, level=level, wait=waits)
        one = self.real[session]
        one.send(f"SELECT {call}({key})")
        if outcome is Outcome.QUEUED:
            self.waiting.add(session)
            self.wait_until_it_waits(one.pid)
        else:
            expected = {Outcome.GRANTED: b"" if waits else b"t", Outcome.BUSY: b"f"}
            assert one.answer() == expected.get(outcome, "40P01")
            if outcome is Outcome.DEADLOCK:
                self.abort(session)
        self.compare()

    @rule(session=sessions, key=keys, shared=modes)
    def unlock(self, session: int, key: int, shared: bool) -> None:
        if self.free(session):
            call = "pg_advisory_unlock_shared" if shared else "pg_advisory_unlock"
            released = self.table.release(session, _tag(key), shared=shared)
            assert self.real[session].ask(f"SELECT {call}({key})") == (b"t" if released else b"f")
            self.compare()

    @rule(session=sessions)
    def unlock_all(self, session: int) -> None:
        if self.free(session):
            self.table.release_all(session)
            self.real[session].ask("SELECT pg_advisory_unlock_all()")
            self.compare()

    @rule(session=sessions)
    def end_transaction(self, session: int) -> None:
        if self.free(session):
            self.savepoints[session] = 0
            self.table.roll_back(session)
            self.real[session].ask("COMMIT")
            self.real[session].ask("BEGIN")
            self.compare()

    @rule(session=sessions)
    def savepoint(self, session: int) -> None:
        if self.free(session):
            self.savepoints[session] += 1
            self.real[session].ask(f"SAVEPOINT s{self.savepoints[session]}")

    @rule(session=sessions, back=st.booleans())
    def leave_savepoint(self, session: int, back: bool) -> None:
        level = self.savepoints[session]
        if self.free(session) and level:
            if back:
                self.table.roll_back(session, level)
                self.real[session].ask(f"ROLLBACK TO s{level}")
            self.savepoints[session] -= 1
            self.table.merge(session, level)
            self.real[session].ask(f"RELEASE s{level}")
            self.compare()

    @precondition(lambda self: self.waiting)
    @rule(choice=st.randoms(use_true_random=False))
    def cancel(self, choice: Any) -> None:
        session = choice.choice(sorted(self.waiting))
        self.waiting.remove(session)
        self.admin.execute("SELECT pg_cancel_backend(%s)", [self.real[session].pid])
        assert self.real[session].answer() == "57014"
        self.table.withdraw(session)
        self.abort(session)
        self.compare()

    def abort(self, session: int) -> None:
        """Go on after an error: PostgreSQL has let go of what the transaction had."""
        self.savepoints[session] = 0
        self.table.roll_back(session)
        self.real[session].ask("ROLLBACK")
        self.real[session].ask("BEGIN")

    # -- looking ---------------------------------------------------------------------------------

    def wait_until_it_waits(self, pid: int) -> None:
        """The queue is in the order in which requests arrive there."""
        mine = "SELECT count(*) FROM pg_locks WHERE pid = %s AND NOT granted"
        while self.admin.execute(mine, [pid]).fetchone() == (0,):
            pass

    def compare(self) -> None:
        """Whoever was served has its answer; both tables have the same rows; so have queues."""
        for session in self.served:
            assert self.real[session].answer() == b""
            self.waiting.remove(session)
        self.served.clear()
        pids = {one.pid: number for number, one in enumerate(self.real)}
        rows = self.admin.execute(_LOCKS).fetchall()
        there = sorted((pids[pid], key, shared, held) for pid, key, shared, held in rows)
        here = sorted(
            (row.session, row.tag.value, row.shared, row.granted) for row in self.table.rows()
        )
        assert here == there
        for session in self.waiting:
            told = self.admin.execute("SELECT pg_blocking_pids(%s)", [self.real[session].pid])
            blockers: Any = told.fetchone()
            assert sorted(pids[pid] for pid in set(blockers[0])) == sorted(
                self.table.blockers(session)
            )


def _tag(key: int) -> Tag:
    return Tag("", key, pair=False)


def check(database: str, admin: psycopg.Connection[Any], **how: Any) -> None:
    """Compare, as often as there are examples."""
    there = {"real": [Real(database) for _ in SESSIONS], "admin": admin}
    machine: Any = type("Machine", (Alike,), there)
    how |= {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
    try:
        run_state_machine_as_test(machine, settings=settings(**how))
    finally:
        for one in machine.real:
            one.connection.close()


def test_it_decides_as_postgresql_does(database: str, admin: psycopg.Connection[Any]) -> None:
    """Who gets a lock, who waits, who is refused, and who is next: the same after each step."""
    check(database, admin, max_examples=20, stateful_step_count=25)


def test_control_other_rules_are_told_apart(
    database: str, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table where whoever comes stands at the end of the queue, as one would think, fails."""
    monkeypatch.setattr(_Lock, "place", lambda lock, *_: len(lock.queue))
    with pytest.raises((AssertionError, ExceptionGroup)):
        check(database, admin, max_examples=200, phases=[Phase.generate], derandomize=True)
