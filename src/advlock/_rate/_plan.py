"""How permits are asked for, and what follows from the answers. Pure.

The rules:

1. The server decides, under the lock `rate:NAME`, by its own clock, and records what it grants in
   the transaction that decides. What is refused leaves no trace.
2. Nothing is held while somebody waits: no connection, no lock, no place in a queue of the
   server's. A wait that is nearly over is granted ahead of time, and its taker sleeps on.
3. The requests of one client queue (`_desk.py`) and are asked for together, in their order.
4. Whatever goes wrong, a permit is lost and never granted twice: an answer that does not arrive
   is asked for anew.
5. Nothing touches the table whose owner could run code, or forge a grant, and could not otherwise.
"""

from __future__ import annotations

import random
import shlex
from typing import TYPE_CHECKING, Final, NamedTuple

from advlock import _plan, _schema
from advlock._plan import Refused, Script, Step
from advlock._rate import _sql
from advlock._rate._rate import RateStats
from advlock.errors import ConfigError, DatabaseUnavailable, LockError

if TYPE_CHECKING:
    from advlock._plan import SessionPlan
    from advlock._rate._rate import Rate

AHEAD: Final = 0.05  # seconds; a crash loses no more of a wait than that
LOCK: Final = "rate:"
MISSING: Final = ("42P01", "3F000")
BUSY: Final = "55P03"  # somebody held the lock for longer than we wait for it
UNPREPARED: Final = "26000"
_PATIENCE: Final = "250ms"  # so long the other locks of this client may have to wait, too
_NOT_ALLOWED: Final = "42501"
_READ_ONLY: Final = "25006"
_SWEEP_EVERY: Final = 64
_MICROSECONDS: Final = 1_000_000
_GUARD: Final = (Step(_sql.STILL), Step(_sql.UNTOUCHED))


class Answer(NamedTuple):
    """What the server said of one request.

    Attributes:
        after: Seconds until its permits are good, or would be.

        granted: Whether they are granted.
    """

    after: float
    granted: bool


class Asked(NamedTuple):
    """What `ask` asks for.

    Attributes:
        key: What to lock.

        wants: How many permits each request wants.

        aheads: How many seconds before they are good each may be granted.
    """

    key: int
    wants: tuple[int, ...]
    aheads: tuple[float, ...]


# -- session plans ---------------------------------------------------------------------------------


def ask(
    rate: Rate,
    asked: Asked,
    *,
    prepared: bool | None,
    clock: str | None = None,
) -> SessionPlan[tuple[list[Answer], int]]:
    """Ask for permits; return the answers, and the number of the last permit before them.

    Args:
        rate: The limit.
        asked: What is wanted.
        prepared: Whether this session has the statement; None where none may be prepared, because
            a pooler stands in between.
        clock: A time to go by instead of the server's, for tests.
    """
    for _ in range(2):
        answers, set_back, total = yield from _decide(rate, asked, prepared, clock)
        if not set_back:
            break
        prepared = None if prepared is None else True
        yield Script((*_lead(asked.key), Step(_sql.REDATE, (str(asked.key), clock))))
    return answers, total


def _decide(
    rate: Rate,
    asked: Asked,
    prepared: bool | None,  # noqa: FBT001 - as it was given to `ask`
    clock: str | None,
) -> SessionPlan[tuple[list[Answer], bool, int]]:
    settings = _settings(rate, asked)
    if prepared is None or clock is not None:
        decide = Step(_sql.DECIDE, (*settings, clock))
        rows = (yield Script((*_lead(asked.key), decide)))[-1]
        if any(row[1] == "t" for row in rows):
            # Not in the same script: a pooler takes the first of two answers for the last one.
            yield Script((Step(_sql.FLUSH, ("false",)),))
    else:
        steps = (
            Step(_sql.PREPARED_SETTINGS, (_PATIENCE, *settings)),
            Step(_sql.STILL),
            Step(_sql.EXECUTE_UNTOUCHED),
            Step(_sql.LOCK, (str(asked.key),)),
            Step(_sql.EXECUTE, (), sync=True),
            Step(_sql.FLUSH, ("true",)),
        )
        # In the same transaction: where it fails, nothing of the rest is done.
        first = () if prepared else (Step(_sql.PREPARE_UNTOUCHED), Step(_sql.PREPARE))
        rows = (yield Script((*first, *steps)))[-2]
    answers = [Answer(int(row[0] or 0) / _MICROSECONDS, row[1] == "t") for row in rows]
    return answers, rows[0][2] == "t", int(rows[0][3] or 0)


def _lead(key: int) -> tuple[Step, ...]:
    return Step(_sql.SETTINGS, (_PATIENCE,)), *_GUARD, Step(_sql.LOCK, (str(key),))


def _settings(rate: Rate, asked: Asked) -> tuple[str, ...]:
    aheads = (str(round(seconds * _MICROSECONDS)) for seconds in asked.aheads)
    return (
        str(asked.key),
        f"{{{','.join(map(str, asked.wants))}}}",
        f"{{{','.join(aheads)}}}",
        str(rate.limit),
        str(rate.window),
        str(rate.apart),
        str(rate.bin),
    )


def look(rate: Rate, key: int, n: int) -> SessionPlan[float]:
    """Ask in how many seconds `n` permits are to be had, and take none."""
    settings = _settings(rate, Asked(key, (n,), (-1.0,)))
    rows = (yield Script((*_GUARD, Step(_sql.DECIDE, (*settings, None)))))[-1]
    return int(rows[0][0] or 0) / _MICROSECONDS


def stats(rate: Rate, key: int) -> SessionPlan[RateStats]:
    """Ask how a limit stands."""
    rows = (yield Script((Step(_sql.STATS, (str(key), str(rate.window))),)))[-1]
    used, after = (int(value or 0) for value in rows[0])
    return RateStats(rate.limit, max(0, rate.limit - used), max(0, after) / _MICROSECONDS)


def forget(key: int) -> SessionPlan[None]:
    """Forget what was granted."""
    yield Script((*_lead(key), Step(_sql.FORGET, (str(key),))))


def sweep(key: int, swept: int) -> SessionPlan[tuple[int, bool]]:
    """Remove what has expired.

    Returns:
        Up to which number this key's is gone; and whether it went well.
    """
    lead, well = (Step(_sql.SWEEP_SETTINGS), *_GUARD), True
    answer = yield Script((*lead, Step(_sql.SWEEP, (str(key), str(swept)))))
    place = random.randrange(-(2**63), 2**63)  # noqa: S311 - any place will do
    try:
        yield Script((*lead, Step(_sql.SWEEP_OTHERS, (str(place),))))
    except Refused:
        well = False
    return int(answer[-1][0][0] or 0), well


def sweeps() -> bool:
    """Whether to clean up now; by chance, as many a program asks only once in its life."""
    return random.randrange(_SWEEP_EVERY) == 0  # noqa: S311 - not cryptography


# -- errors ----------------------------------------------------------------------------------------


def unanswered(name: str, wait: float) -> DatabaseUnavailable:
    """Make the error of a wait in which the server did not say when there are permits."""
    return DatabaseUnavailable(f"the server has not answered for {name!r} within {wait:g} s")


def judge(refusal: Refused, name: str, role: str) -> LockError:
    """Say why there is no answer.

    Args:
        refusal: What the server said.
        name: Which limit.
        role: Who we are to it.
    """
    if refusal.sqlstate == BUSY:
        lock = LOCK + name
        return DatabaseUnavailable(
            f"somebody has held {lock!r}, under which permits are granted, or has locked the table "
            f"advlock.rate_grant, for longer than {_PATIENCE}; see who: advlock why {lock!r}",
            sqlstate=refusal.sqlstate,
        )
    if refusal.sqlstate == _NOT_ALLOWED:
        return ConfigError(
            f"this role may not use the table of rate limits: {refusal.message}. Have somebody "
            f"grant it: advlock init --sql --role {shlex.quote(role)} | psql",
            sqlstate=refusal.sqlstate,
        )
    if refusal.sqlstate == _schema.UNTRUSTED:  # or `UNTOUCHED` has failed
        return _schema.untrusted(refusal)
    if refusal.sqlstate == _READ_ONLY:
        return ConfigError(
            f"what is granted has to be recorded, and this transaction is read-only "
            f"({refusal.message}). Behind a pooler that is what a role's default says: "
            f"ALTER ROLE {role} SET default_transaction_read_only = off",
            sqlstate=refusal.sqlstate,
        )
    if refusal.sqlstate[:2] in _plan.PASSING or refusal.sqlstate == "53200":
        return _plan.server_error(refusal)
    return LockError(
        f"the server refused to grant permits ({refusal.sqlstate}: {refusal.message})",
        sqlstate=refusal.sqlstate,
    )
