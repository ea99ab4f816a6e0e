"""Stop what runs under a lock when the lock is lost: somebody else may be at it by then.

Two ways, because nothing in Python stops everything. The next statement on Django's connection is
refused, and its COMMIT. And the main thread is interrupted, as by Ctrl-C, whatever it does: psycopg
then cancels the statement that runs on the server, `time.sleep` ends, and `atomic()` rolls back.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Final

from django.core.management.base import CommandError
from psycopg.pq import TransactionStatus

from advlock.errors import DatabaseUnavailable, LockError, LockLost, LockTimeout, TooManyLocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advlock._held import Held

# Ignored by default, and used by nobody in Python. Not SIGINT, which a shell has what it runs in
# the background ignore.
_SIGNAL: Final = signal.SIGURG
_CODES: Final = {  # those of `advlock run`
    LockTimeout: os.EX_TEMPFAIL,
    LockLost: os.EX_IOERR,
    DatabaseUnavailable: os.EX_UNAVAILABLE,
    TooManyLocks: os.EX_UNAVAILABLE,
}


class _Interrupt(KeyboardInterrupt):
    """The lock was lost. No `except Exception` on the way may swallow it."""


def command_error(error: LockError) -> CommandError:
    """Make what ends a management command with one line, and the exit code of `advlock run`."""
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), os.EX_CONFIG)
    return CommandError(f"advlock: {error}", returncode=code)


@contextlib.contextmanager
def stopped_when_lost(held: Held, connection: Any) -> Iterator[None]:
    """Run the block while `held` is held, and no longer.

    Args:
        held: The lock.
        connection: Django's, whose statements are refused when it is lost.

    Raises:
        CommandError: it was lost, however the block ended; with exit code 74.
    """
    try:
        with _guarded(held, connection), _interrupted_when_lost(held):
            yield
    except BaseException as error:
        if not held.lost:
            raise
        _mend(connection)
        raise command_error(held._client._lost(held._ticket)) from error
    if held.lost:
        raise command_error(held._client._lost(held._ticket))


@contextlib.contextmanager
def lost_on_leaving(name: object) -> Iterator[None]:
    """End a command in the same way when the loss shows only where the lock is released.

    Args:
        name: The lock's; what is lost of others is not ours to tell.

    Raises:
        CommandError: it was lost; with exit code 74.
    """
    try:
        yield
    except LockLost as error:
        if error.name != name:
            raise
        raise command_error(error) from None


def _mend(connection: Any) -> None:
    # An interrupt may fall between the two halves of a statement, and leave psycopg without its
    # answer: 4 of 120 times, when aimed. Nothing can be asked on such a connection any more.
    wire = connection.connection
    status = TransactionStatus.IDLE if wire is None else wire.info.transaction_status
    # And where it fell into the COMMIT of `atomic()`, a transaction is left that nobody ends.
    left = status != TransactionStatus.IDLE and not connection.in_atomic_block
    if left or status == TransactionStatus.ACTIVE:
        connection.close()


@contextlib.contextmanager
def _guarded(held: Held, connection: Any) -> Iterator[None]:
    """Refuse statements and COMMIT on a connection of Django's from when the lock is lost."""
    process = os.getpid()
    before, commit = vars(connection).get("commit"), connection.commit

    def lost() -> bool:
        # A process that was forked has no lock, but works for the one that has it and is watched.
        return os.getpid() == process and held.lost

    def guard(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:  # noqa: FBT001
        # ROLLBACK TO SAVEPOINT is how an inner `atomic()` gives up.
        if lost() and not str(sql).startswith("ROLLBACK"):
            held.check()
        return execute(sql, params, many, context)

    def guarded_commit() -> None:
        if lost():
            connection.rollback()  # `atomic()` does so only after an error of the database's
            held.check()
        commit()

    try:
        connection.commit = guarded_commit  # Django has a hook for statements, but none for this
        with connection.execute_wrapper(guard):
            yield
    finally:
        vars(connection).pop("commit", None)
        if before is not None:
            connection.commit = before


@contextlib.contextmanager
def _interrupted_when_lost(held: Held) -> Iterator[None]:
    main = threading.main_thread()
    before = signal.getsignal(_SIGNAL)
    ours = getattr(before, "__module__", None) == __name__  # of a command that calls this one
    free = ours or before in (signal.SIG_DFL, signal.SIG_IGN)
    if threading.current_thread() is not main or not free:
        yield
        return
    mutex = threading.Lock()
    running = True

    def interrupt(_: Held) -> None:
        with mutex:
            if running and main.ident is not None:
                signal.pthread_kill(main.ident, _SIGNAL)

    def interrupted(signum: int, frame: Any) -> None:
        if held.lost:
            raise _Interrupt
        if callable(before):
            before(signum, frame)

    signal.signal(_SIGNAL, interrupted)
    try:
        held.on_lost(interrupt)
        yield
    finally:
        try:
            with mutex:
                running = False
        finally:
            signal.signal(_SIGNAL, before)
