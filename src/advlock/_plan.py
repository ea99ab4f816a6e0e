"""Decisions as generators: yield what has to be done, receive its answer, return a verdict.

The rules of this file:

1. A plan does no I/O, reads no clock (but for a signature that it is given), imports no driver
   and calls no user code. The two shells (`drive` in `_session.py` and `_asession.py`) do what it
   yields, and nothing else.
2. There are two kinds. A *session plan* yields `Script`s to one session and gets their rows.
   A *client plan* yields the steps of a contended acquire to the client.
3. A plan never cleans up in `finally`: after anything unexpected its session is discarded, and
   the server frees what it held (docs/why.md, 7).
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from advlock import _sql
from advlock._ledger import QUEUED, Op, Ticket
from advlock.errors import DatabaseUnavailable, LockError, TooManyLocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from advlock._holder import Holder
    from advlock._key import Key
    from advlock._liveness import Bounds
    from advlock._signing import Signature

R = TypeVar("R")

_OUT_OF_MEMORY = "53200"  # what a full lock table is reported as
PASSING = ("08", "40", "53", "57", "58")  # classes of trouble that a second try may not meet
_NOT_ALLOWED = "42501"
_NO_PLPGSQL = ("42704", _NOT_ALLOWED)  # the language is not there, or not for us
_TIMELINE_SHIFT = 48  # leaves 15 bits of a bigint for fail-overs


class Refused(Exception):  # noqa: N818 - an answer, not a failure: plans catch it and decide
    """The server answered a statement with an error."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(sqlstate, message)
        self.sqlstate = sqlstate
        self.message = message
        self.rows: Rows = []  # of the statements before it


class Expired(Exception):  # noqa: N818 - an answer, not a failure
    """The caller's own time ran out; the request goes on without it."""


class SessionLost(Exception):  # noqa: N818 - an answer, not a failure
    """The session ended, and every lock on it with it."""


class Step(NamedTuple):
    """One statement of a script; `sync` ends its transaction, and its error's reach."""

    sql: str
    params: tuple[str | None, ...] = ()
    sync: bool = False


class Script(NamedTuple):
    """Statements sent together, in one round trip.

    A `patient` script asks the server to wait: it may be silent for as long as the caller likes,
    and if the caller cannot wait any longer, it is told to stop and the session ends.

    On a session that is pinned (`_pin`) a script that `locks` begins the transaction, and one that
    `frees` everything ends it. What it sets stays in effect only if it `keeps` it.
    """

    steps: tuple[Step, ...]
    patient: bool = False
    locks: bool = False
    frees: bool = False
    keeps: bool = False


Rows = list[list[tuple[str | None, ...]]]
SessionPlan = Generator[Script, Rows, R]


# -- session plans ---------------------------------------------------------------------------------


def wait_for(
    ticket: Ticket,
    seconds: float | None,
    bounds: Bounds,
    *,
    pooled: bool = False,
    sign: Signature | None = None,
) -> SessionPlan[bool]:
    """Wait on the server for `ticket`'s lock, at most `seconds`; tell whether it was granted.

    When it was, the server has heard us once more since.

    Args:
        ticket: What to wait for.
        seconds: How long; None for ever.
        bounds: The times after which the server lets go.
        pooled: Whether a pooler stands in between. It takes the first of two answers for the end of
            a request, and leaves the waiter in the queue when its client dies.
        sign: Writes the session's `application_name`; None where that is the user's own.

    Raises:
        Refused: 42704 where plpgsql is missing; then nothing was asked, and the caller may poll.
    """
    code = int(ticket.shared) + (_sql.PAIR if ticket.key.pair else 0)
    patience = "" if seconds is None else f"{seconds:.6f}"
    arguments = (str(code), str(ticket.key.value), patience, bounds.waiting_timeout)
    waits = None if sign is None else sign.waits()
    setting = Step(_sql.WAIT_FOR, (*arguments, waits), sync=True)
    wait = (Step(_sql.WAIT), Step(_sql.WAIT_VERDICT))
    if pooled:
        yield Script((setting._replace(sync=False),))
    answer = yield Script(wait if pooled else (setting, *wait), patient=True)
    if answer[-1][0][0] != "yes":
        return False
    holds = None if sign is None else sign.holds()
    yield Script((Step(_sql.CONFIRM, (bounds.user_timeout, holds)),))
    return True


def judge_failed_wait(refusal: Refused) -> Waited:
    """Tell what a refusal of `wait_for` means for the next try. Its session is of no use any more.

    Raises:
        TooManyLocks: the server's lock table is full.
    """
    if refusal.sqlstate in _NO_PLPGSQL:
        return Waited.IMPOSSIBLE
    if refusal.sqlstate == _OUT_OF_MEMORY:
        raise server_error(refusal)
    return Waited.BROKEN


def holders(key: Key, *, briefly: bool = False) -> SessionPlan[list[Holder]]:
    """Ask who holds `key` and who waits for it: holders first, then the queue.

    Args:
        key: The lock.
        briefly: Whether locks are carried by the session, which must not wait for a catalog then.
    """
    from advlock._inspect import _one  # noqa: PLC0415 - most locks are free

    ask = Step(_sql.HOLDERS, (str(key.value), "2" if key.pair else "1"))
    answer = yield Script((Step(_sql.BRIEFLY), ask) if briefly else (ask,))
    return _one.read(key, answer[-1])


def ask_one(key: Key, *, shared: bool, release: bool) -> SessionPlan[bool]:
    """Try for one lock, or release it, on a session that nobody shares."""
    code = (_sql.UNLOCK if release else _sql.TRY) + int(shared) + (_sql.PAIR if key.pair else 0)
    step = Step(_sql.BATCH, (f"{{{code}}}", f"{{{key.value}}}"))
    answer = yield Script((step,), locks=not release, frees=release)
    return answer[0][0][0] == "t"


def token() -> SessionPlan[int]:
    """Draw a fencing token: greater than every token drawn before, also across a crash.

    Makes the sequence that it is drawn from, once, where the role may create a schema.
    """
    timeline, sound, number = yield from _draw(may_make=True)
    if number is None and sound is None:
        # Whether that works or not, what is there afterwards decides.
        with contextlib.suppress(Refused):
            yield Script(tuple(Step(sql) for sql in _sql.MAKE_FENCE))
        timeline, sound, number = yield from _draw(may_make=False)
    if sound == "f":
        # Or it was made while we asked: `to_regclass` finds what the statement's own snapshot does
        # not have yet (tests/postgres/test_tokens.py).
        timeline, sound, number = yield from _draw(may_make=False)
    if sound == "f":
        raise LockError(
            "no fencing token: advlock.fence is not a sequence that only rises. Drop it, or make "
            "it one: ALTER SEQUENCE advlock.fence INCREMENT 1 CACHE 1 NO CYCLE MINVALUE 1 "
            "MAXVALUE 140737488355327; and it must not be UNLOGGED"
        )
    return (int(timeline or "0", 16) << _TIMELINE_SHIFT) | int(number or 0)


def _draw(*, may_make: bool) -> SessionPlan[Sequence[str | None]]:
    answer = yield Script((Step(_sql.DRAW_TOKEN, ("true" if may_make else "false",)),))
    return answer[0][0][:3]


def judge_failed_token(refusal: Refused) -> LockError:
    """Say why there is no token."""
    if refusal.sqlstate != _NOT_ALLOWED:
        return server_error(refusal)
    return LockError(
        f"no fencing token: {refusal.message}. Where there is a sequence advlock.fence, all tokens "
        f"come from it; let this role use it: GRANT USAGE ON SCHEMA advlock TO …; GRANT USAGE ON "
        f"SEQUENCE advlock.fence TO …. The functions that are needed may be called by everybody, "
        f"unless somebody has revoked that",
        sqlstate=refusal.sqlstate,
    )


def set_application_name(name: str, *, pinned: bool) -> SessionPlan[None]:
    """Put down who we are, where every role can read it; if `pinned`, for the transaction."""
    yield Script((Step(_sql.SET_APPLICATION_NAME, (name, str(pinned))),), keeps=True)


def unlock_all() -> SessionPlan[None]:
    """Release everything at once; afterwards it is free for everybody."""
    yield Script((Step(_sql.UNLOCK_ALL),), frees=True)


def recover(ops: Sequence[Op], refusal: Refused) -> SessionPlan[list[bool | Exception]]:
    """Find out what a combined request did before it failed: one verdict for each op.

    A failed statement keeps the locks that it took before the error, and takes none back that it
    released (tests/postgres/test_lock_table.py), so the truth is in pg_locks. Shares may be
    stacked, which pg_locks does not show: then nobody can know, and the refusal goes on.
    """
    if any(op.ticket.shared for op in ops):
        raise refusal
    answer = yield Script((Step(_sql.OWN_LOCKS),))
    held = {(int(key or 0), subid == "2") for key, subid in answer[0]}
    verdicts: list[bool | Exception] = []
    for op in ops:
        is_held = (op.ticket.key.value, op.ticket.key.pair) in held
        if op.releases:
            verdicts.append(_retry(refusal) if is_held else True)
        else:
            verdicts.append(True if is_held else server_error(refusal))
    return verdicts


class Unanswered(Exception):  # noqa: N818 - an answer, not a failure
    """A release was not carried out, but its session lives: ask again."""


def _retry(refusal: Refused) -> Unanswered:
    return Unanswered(refusal.message)


def server_error(refusal: Refused) -> LockError:
    """Say what a refusal to lock means."""
    if refusal.sqlstate == _OUT_OF_MEMORY:
        return TooManyLocks(
            f"the server's lock table is full ({refusal.message}). Raise "
            "max_locks_per_transaction there (it is shared by all sessions), or see in pg_locks "
            "whose locks fill it",
            sqlstate=refusal.sqlstate,
        )
    return DatabaseUnavailable(
        f"the server refused ({refusal.sqlstate}: {refusal.message}); try again",
        sqlstate=refusal.sqlstate,
    )


# -- client plans ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """Wait until it is our turn among our own threads or tasks. Answer: False, time ran out."""


@dataclass(frozen=True, slots=True)
class Try:
    """Try once, on the shared session. Answer: granted or not."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait on the server, on a session of our own, if the budget has one. Answer: a `Waited`."""


@dataclass(frozen=True, slots=True)
class Nap:
    """Let `seconds` pass. Answer: False, time ran out."""

    seconds: float


class Waited(Enum):
    """How waiting on the server ended."""

    GRANTED = "granted"
    TIME_IS_UP = "time is up"
    BROKEN = "the session broke"
    NO_SESSION = "the budget of sessions is used up"
    IMPOSSIBLE = "this server cannot wait for us"


ClientStep = Turn | Try | Wait | Nap
ClientPlan = Generator[ClientStep, Any, R]

_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.25


def contend(ticket: Ticket) -> ClientPlan[bool]:
    """Acquire `ticket`'s lock, which was not free at once; tell whether it is held now.

    Waits on the server where that is possible, in the server's own FIFO queue. Beyond the budget
    of sessions, without plpgsql, or while the server is away, it polls on the shared session.
    Afterwards the ticket is held, or the server does not hold it for us.
    """
    if ticket.state is QUEUED:
        if not (yield Turn()):
            return False
        if (yield Try()):
            return True
    naps = pauses()
    waited = yield Wait()
    while waited not in (Waited.GRANTED, Waited.TIME_IS_UP):
        if not (yield Nap(next(naps))):
            return False
        try:
            if (yield Try()):
                return True
        except DatabaseUnavailable:
            # The server was there when we started to wait: it restarts, and we carry on waiting
            # within our own deadline.
            continue
        if waited is not Waited.IMPOSSIBLE:
            waited = yield Wait()
    return waited is Waited.GRANTED


def pauses() -> Iterator[float]:
    """Yield the pauses between two polls: doubling, jittered, so that pollers do not march."""
    pause = _FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not cryptography
        pause = min(pause * 2, _LONGEST_PAUSE)
