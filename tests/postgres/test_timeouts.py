"""Timeouts and cancels: a failed wait may hold the lock, and pg_locks always knows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from .helpers import answers, entry, one, send, sqlstate, start_waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import Connection

    Connect = Callable[..., Connection[Any]]
    Property = Callable[[str, object], None]

# How often the race was seen belongs in the report, also in a report of the younger family.
pytestmark = pytest.mark.filterwarnings("ignore:record_property:pytest.PytestWarning")

TRIES = 2000
ENOUGH_SECONDS = 5.0
TIMEOUT_MS = 1

PLAIN = "SELECT pg_advisory_lock({key})"
HANDLED = """
DO $$ BEGIN
  PERFORM pg_advisory_lock({key});
  PERFORM set_config('advlock.verdict', 'granted', false);
EXCEPTION WHEN lock_not_available THEN
  PERFORM set_config('advlock.verdict', CASE WHEN EXISTS (
      SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND granted AND locktype = 'advisory'
      AND (classid::bigint << 32) | objid::bigint = {key})
    THEN 'granted with an error' ELSE 'timed out' END, false);
END $$"""


class Aim:
    """Move the release towards the instant at which the waiter's timeout fires."""

    def __init__(self) -> None:
        self.after = TIMEOUT_MS / 1000
        self.tries = 0

    def attempts(self) -> Iterator[int]:
        """Count up to `TRIES`; on a busy machine stop when `ENOUGH_SECONDS` are over."""
        end = time.monotonic() + ENOUGH_SECONDS
        while self.tries < TRIES and time.monotonic() < end:
            self.tries += 1
            yield self.tries

    def wait(self) -> None:
        """Spin until the moment at which the holder should send its unlock."""
        fire = time.perf_counter() + self.after
        while time.perf_counter() < fire:
            pass

    def learn(self, *, timed_out: bool) -> None:
        """Release earlier after a timeout and later after a grant, so that most tries race."""
        self.after += -0.00003 if timed_out else 0.00003


def race(holder: Connection[Any], waiter: Connection[Any], key: int, wait: str, aim: Aim) -> bool:
    """Let the holder release at about the timeout; return whether the wait ended in an error."""
    send(waiter, wait)
    aim.wait()
    assert one(holder, f"SELECT pg_advisory_unlock({key})") is True
    failed = sqlstate(answers(waiter)[-1])
    assert failed in {None, "55P03"}
    return failed is not None


def others_are_kept_out(holder: Connection[Any], waiter: Connection[Any], key: int) -> bool:
    """Ask the lock itself who has it, and leave it with `holder` again."""
    if one(holder, f"SELECT pg_try_advisory_lock({key})"):
        return False
    assert one(waiter, f"SELECT pg_advisory_unlock({key})") is True
    assert one(holder, f"SELECT pg_try_advisory_lock({key})") is True
    return True


def pair(connect: Connect, key: int) -> tuple[Connection[Any], Connection[Any]]:
    """Open a holder that has the lock, and a waiter with a short lock_timeout."""
    holder, waiter = connect(), connect()
    holder.execute(f"SELECT pg_advisory_lock({key})")
    waiter.execute(f"SET lock_timeout = {TIMEOUT_MS}")
    return holder, waiter


def test_pg_locks_is_right_after_a_failed_wait(
    connect: Connect, key: int, record_property: Property
) -> None:
    """A wait that failed with 55P03 may hold the lock; pg_locks, asked then, is never wrong."""
    holder, waiter = pair(connect, key)
    aim = Aim()
    held = failures = held_in_error = 0
    for _ in aim.attempts():
        failed = race(holder, waiter, key, PLAIN.format(key=key), aim)
        verdict = entry(waiter, waiter.info.backend_pid, key) is True
        assert verdict is others_are_kept_out(holder, waiter, key)
        assert verdict or failed
        aim.learn(timed_out=not verdict)
        held += verdict
        failures += failed
        held_in_error += failed and verdict
    record_property("failed waits", failures)
    record_property("failed waits that hold the lock", held_in_error)
    record_property("waits that hold the lock", held)
    assert 0 < held < aim.tries, "the release never came close to the timeout"


def test_pg_locks_is_right_inside_the_exception_handler(
    connect: Connect, key: int, record_property: Property
) -> None:
    """Asked in the handler of lock_not_available, pg_locks already knows of a racing grant."""
    holder, waiter = pair(connect, key)
    aim, seen = Aim(), {"granted": 0, "granted with an error": 0, "timed out": 0}
    for _ in aim.attempts():
        assert not race(holder, waiter, key, HANDLED.format(key=key), aim)
        verdict = one(waiter, "SELECT current_setting('advlock.verdict')")
        held = verdict != "timed out"
        assert held is others_are_kept_out(holder, waiter, key)
        aim.learn(timed_out=not held)
        seen[verdict] += 1
    for verdict, times in seen.items():
        record_property(verdict, times)
    assert 0 < seen["timed out"] < aim.tries, "the release never came close to the timeout"


def test_a_cancel_together_with_the_grant_may_leave_the_lock_held(
    connect: Connect, key: int, record_property: Property
) -> None:
    """A wait cancelled together with its grant may hold the lock; pg_locks is never wrong."""
    holder, waiter = connect(), connect()
    pid = waiter.info.backend_pid
    holder.execute(f"SELECT pg_advisory_lock({key})")
    failures = held_in_error = 0
    for _ in range(200):
        start_waiting(holder, waiter, key)
        holder.execute(f"SELECT pg_advisory_unlock({key}), pg_cancel_backend({pid})")
        failed = sqlstate(answers(waiter)[-1])
        assert failed in {None, "57014"}
        verdict = entry(holder, pid, key) is True
        assert verdict is others_are_kept_out(holder, waiter, key)
        assert verdict or failed
        failures += failed is not None
        held_in_error += failed is not None and verdict
    record_property("cancelled waits", failures)
    record_property("cancelled waits that hold the lock", held_in_error)


def test_a_failed_transaction_level_wait_holds_nothing(connect: Connect, key: int) -> None:
    """However a timeout races with the grant of a transaction-level lock, ROLLBACK frees it."""
    holder, waiter = pair(connect, key)
    aim = Aim()
    for _ in range(300):
        waiter.execute("BEGIN")
        failed = race(holder, waiter, key, f"SELECT pg_advisory_xact_lock({key})", aim)
        waiter.execute("ROLLBACK")
        assert one(holder, f"SELECT pg_try_advisory_lock({key})") is True
        aim.learn(timed_out=failed)


def test_timeouts_have_their_own_sqlstates(connect: Connect, key: int) -> None:
    """lock_timeout fails with 55P03, statement_timeout with 57014; the session stays usable."""
    holder, waiter = connect(), connect()
    holder.execute("SELECT pg_advisory_lock(%s)", (key,))
    for setting, error in (("lock_timeout", "55P03"), ("statement_timeout", "57014")):
        # The error itself takes the setting back: what follows it may take longer than 5 ms.
        with waiter.transaction(force_rollback=True):
            waiter.execute(f"SET LOCAL {setting} = '5ms'")
            with pytest.raises(psycopg.Error) as failure:
                waiter.execute("SELECT pg_advisory_lock(%s)", (key,))
        assert failure.value.sqlstate == error
    assert one(waiter, "SELECT 1") == 1


def test_a_timeout_set_in_the_same_statement_applies_and_leaves_nothing(
    connect: Connect, key: int
) -> None:
    """set_config('lock_timeout', …, true) before the lock in one SELECT binds that wait alone."""
    holder, waiter = connect(), connect()
    holder.execute("SELECT pg_advisory_lock(%s)", (key,))
    acquire = "SELECT set_config('lock_timeout', '5ms', true), pg_advisory_lock(%s)"
    with pytest.raises(psycopg.errors.LockNotAvailable):
        waiter.execute(acquire, (key,))
    assert one(waiter, "SHOW lock_timeout") == "0"
    waiter.execute(acquire, (key + 1,))
    assert one(waiter, "SHOW lock_timeout") == "0"
