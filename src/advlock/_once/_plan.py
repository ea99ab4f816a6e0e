"""What is asked of the table of `once`, and what follows from the answers. Pure.

The rules:

1. Whoever holds the lock `once:NAME` asks whether it was done, and begins only if it was not.
2. It is recorded as done while the lock is held, on the session that holds it, where that can be;
   and only if nobody else has begun since: the row says whose run it is.
3. What is there, and is read before the lock is asked for, is final: to have been done does not
   pass, but by `forget` or with its window.
4. Nothing touches the table whose owner could run code, or forge a record, and could not otherwise.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from advlock import _duration, _plan, _schema, _schema_sql
from advlock._key import Key
from advlock._once import _sql
from advlock._once._done import Done, Record, Run, moment, read_done
from advlock._plan import Refused, Script, Step
from advlock.errors import ConfigError, DatabaseUnavailable, LockError, LockLost

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from advlock._client import Seconds
    from advlock._plan import SessionPlan

    Row: TypeAlias = Sequence[str | None]

LOCK: Final = "once:"
LONGEST_NAME: Final = 1000  # bytes of UTF-8: an entry of a B-tree holds at most 2 704 bytes
LONGEST: Final = 100 * 366 * 86_400.0  # seconds
MISSING: Final = ("42P01", "3F000")
_NOT_ALLOWED: Final = "42501"
_NO_PLPGSQL: Final = ("42704", _NOT_ALLOWED)
_TABLE_LOCKED: Final = "55P03"
_READ_ONLY: Final = "25006"
_TRIES: Final = 4  # a window may end between a look and a claim
A_LOOK: Final = 0.5  # seconds that a look may take, however small the wait for others is
_MARKS: Final = 5  # each waits a second for a table that is locked: what was done is worth that
_PER: Final = 6  # which parameter of a claim
_TRUSTED: Final = Step(_schema_sql.TRUSTED)


@dataclass(frozen=True, slots=True)
class Want:
    """What is to be done once, understood.

    Attributes:
        name: As it was given; the lock is `once:` and this.

        per: The window in seconds; None for ever.
    """

    name: str
    per: float | None

    @property
    def lock(self) -> str:
        """The name of the lock."""
        return LOCK + self.name

    def recorded_as(self, namespace: str) -> str:
        """The name in the table."""
        return f"{namespace}:{self.name}" if namespace else self.name


def want(name: str, per: Seconds) -> Want:
    """Read what was asked for.

    Raises:
        ConfigError: it is no name, or no window.
    """
    if not isinstance(name, str):
        msg = f"once needs a name that can be written down, not {name!r}; give a string"
        raise ConfigError(msg)
    Key.of(name)  # what no lock may be called
    if len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        msg = f"the name {name[:40]!r}… is longer than {LONGEST_NAME} bytes; give a shorter one"
        raise ConfigError(msg)
    if per is None:
        return Want(name, None)
    seconds = _duration.seconds(per)
    if not 0 < seconds <= LONGEST:
        msg = f"per must be more than 0 and at most 100 years, not {per!r}; leave it out for ever"
        raise ConfigError(msg)
    return Want(name, seconds)


def judge(name: str, per: float | None, row: Row) -> Done | None:
    """Say whether it was done, and the window, if there is one, is not over yet."""
    done = read_done(name, row[1:6])
    if done is None or per is None:
        return done
    # The server's own numbers, so that they compare as they do there.
    return None if float(row[0] or 0) >= float(row[2] or 0) + per else done


# -- session plans ---------------------------------------------------------------------------------


def look(name: str, per: float | None) -> SessionPlan[Done | None]:
    """Ask whether it was done; None also where there is no table yet."""
    row = yield from _look(name)
    return None if row is None else judge(name, per, row)


def _look(name: str) -> SessionPlan[Row | None]:
    try:
        answer = yield from _read(Step(_sql.LOOK, (name,)))
    except Refused as refusal:
        if refusal.sqlstate in MISSING:
            return None
        raise
    return answer[0]


def _read(step: Step) -> SessionPlan[list[Row]]:
    answer = yield Script((Step(_sql.HASTE), _TRUSTED, step))
    return list(answer[-1])


def _write(step: Step) -> SessionPlan[list[Row]]:
    first, then = (Step(_sql.HASTE), _TRUSTED), (Step(_sql.TRIGGERS), step)
    try:
        answer = yield Script((*first, Step(_sql.STILL), *then))
    except Refused as refusal:
        if refusal.sqlstate not in _NO_PLPGSQL:
            raise
        answer = yield Script((*first, *then))
    return list(answer[-1])


def begin(
    name: str, per: float | None, key: Key, *, token: int | None = None, run_id: str | None = None
) -> SessionPlan[Run | Done]:
    """Begin, with the lock in hand, unless it was done meanwhile; makes the table if need be.

    Raises:
        ConfigError: there is no table, and this role may not make it; or not write to it; or
            somebody is at it under another key.
        LockLost: somebody else has begun, so the lock must have been lost.
    """
    run, seen = None, None
    for _ in range(_TRIES):
        row = yield from _look(name)
        if row is None:
            yield from _schema.prepare(_schema.ONCE)
            row = (yield from _read(Step(_sql.LOOK, (name,))))[0]
        done = judge(name, per, row)
        if done is not None:
            return done
        if run is not None and row[6] != seen and int(row[7] or 0) > run.token:
            break  # somebody has begun after we got the lock
        seen = row[6]
        other = other_key(row, key)
        if other is not None and (yield Script((Step(_sql.HELD, (other,)),)))[0] == [("t",)]:
            raise elsewhere(name, key, other)
        if run is None:
            token = token or (yield from _plan.token())
            run = Run(name, token, run_id or str(uuid.uuid4()))
        if (yield from _claim(claimed(run, per, key, row))):
            return run
    raise overtaken(name)


def _claim(parameters: tuple[str | None, ...]) -> SessionPlan[bool]:
    claimed = yield from _write(Step(_sql.CLAIM, parameters))
    if claimed and parameters[_PER] is not None:
        # Not where it is recorded as done: whether that was written must not be left in doubt.
        with contextlib.suppress(Refused):
            yield from _write(Step(_sql.PRUNE))
    return bool(claimed)


def other_key(row: Row, key: Key) -> str | None:
    """Return the key under which the row was begun, if it is not ours."""
    return None if row[8] is None or int(row[8]) == key.value else row[8]


def claimed(run: Run, per: float | None, key: Key, row: Row) -> tuple[str | None, ...]:
    """Make the parameters of `CLAIM`, after a look that has seen `row`."""
    who = (os.uname().nodename, str(os.getpid()))
    window = None if per is None else repr(per)
    return (run.name, str(key.value), str(run.token), run.run_id, *who, window, row[6])


def mark(run: Run) -> SessionPlan[bool]:
    """Record that it is done; False when somebody else has begun since."""
    for _ in range(_MARKS - 1):
        try:
            return bool((yield from _write(Step(_sql.MARK, (run.name, run.run_id)))))
        except Refused as refusal:
            if refusal.sqlstate != _TABLE_LOCKED:
                raise
    return bool((yield from _write(Step(_sql.MARK, (run.name, run.run_id)))))


def records() -> SessionPlan[list[Record]]:
    """List all that is known; nothing where there is no table.

    Raises:
        LockError: it is refused; what that means.
    """
    try:
        answer = yield from _read(Step(_sql.LIST))
    except Refused as refusal:
        if refusal.sqlstate in MISSING:
            return []
        raise refused(refusal) from None
    return [_record(row) for row in answer]


def _record(row: Sequence[str | None]) -> Record:
    name, busy, begun, token, host, pid, run_id, per, started, done, *by = row
    by_token, by_host, by_pid = by
    return Record(
        name or "",
        busy == "t",
        moment(begun),
        int(token or 0),
        host or "",
        int(pid or 0),
        run_id or "",
        None if per is None else float(per),
        read_done(name or "", (done, started, by_host, by_pid, by_token)),
    )


def forget(name: str) -> SessionPlan[bool]:
    """Forget that it was done; tell whether anything was known of it."""
    try:
        return bool((yield from _write(Step(_sql.FORGET, (name,)))))
    except Refused as refusal:
        if refusal.sqlstate in MISSING:
            return False
        raise


# -- errors ----------------------------------------------------------------------------------------


def refused(refusal: Refused) -> LockError:
    """Say what a refusal means, and what to do."""
    state, told = refusal.sqlstate, refusal.message
    if state == _NOT_ALLOWED:
        return ConfigError(
            f"what is done once is recorded in the table advlock.once, which is not for this role: "
            f"{told}. Have its owner allow it: advlock init --sql --role ROLE | psql",
            sqlstate=state,
        )
    if state in MISSING:
        return ConfigError(
            f"the table advlock.once is not in this database ({told}); make it: advlock init",
            sqlstate=state,
        )
    if state == _schema.UNTRUSTED:
        return _schema.untrusted(refusal)
    if state == _READ_ONLY:
        return ConfigError(
            f"what is done once has to be recorded, and this transaction is read-only ({told}). "
            f"Let it write: conn.read_only = False before it begins, or behind a pooler ALTER ROLE "
            f"… SET default_transaction_read_only = off",
            sqlstate=state,
        )
    if state == _TABLE_LOCKED:
        return DatabaseUnavailable(
            "the table advlock.once is locked by somebody else's statement; try again",
            sqlstate=state,
        )
    return _plan.server_error(refusal)


def overtaken(name: str) -> LockLost:
    """Make the error of who lost the lock, and somebody else has begun."""
    return LockLost(
        f"{name!r} is not recorded as done: the lock was lost, and somebody else has begun to do "
        f"it since (or its row was deleted meanwhile)",
        name=name,
    )


def elsewhere(name: str, key: Key, other: str) -> ConfigError:
    """Make the error of who holds a lock that does not exclude whoever does it."""
    return ConfigError(
        f"{name!r} is being done under the lock {other}, and ours is {key.value}, so two would do "
        f"it at once. Give all who do it the same namespace=, keys= and registry; who that is: "
        f"advlock once --list"
    )


def in_doubt(name: str, why: object) -> LockLost:
    """Make the error of a session that ended while it was being recorded."""
    return LockLost(
        f"{name!r} may or may not be recorded as done: {why}, while that was being written. "
        f"Whoever comes next looks, and does it again if it is not",
        name=name,
    )


def unrecorded(name: str, error: LockError) -> LockError:
    """Add to an error that what was done is not on record."""
    error.add_note(f"{name!r} is not recorded as done, so the next one does it again")
    return error
