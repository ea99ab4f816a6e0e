"""`advlock run --rate 100/60s NAME -- COMMAND`: start a command when a rate limit allows it.

Nothing is held while the command runs, so nothing has to be looked after: it takes our place.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import time
import uuid
from typing import TYPE_CHECKING, Final, NoReturn

from advlock._duration import brief
from advlock._rate._plan import BUSY
from advlock._rate._rate import Permit
from advlock.cli._child import not_started
from advlock.cli._names import registered_names
from advlock.errors import DatabaseUnavailable, RateLimited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from advlock._dsn import Dsn
    from advlock._rate._limit import RateLimit
    from advlock._rate._rate import Rate
    from advlock.cli._acquire import Want

# Seconds below so many are shown to so many.
_SHOWN: Final = ((1.0, 0.001), (10.0, 0.1), (3600.0, 1.0), (86_400.0, 60.0), (math.inf, 3600.0))


def start_at(
    rate: Rate, want: Want, wait: float | None, dsn: Dsn, tell: Callable[[str], None]
) -> bool:
    """Take a permit; False when there was none in time.

    Args:
        rate: The limit.
        want: The name, and whether to wait at all.
        wait: How long, in seconds; None for ever.
        dsn: The database.
        tell: Takes the line that says what is being waited for, or why we give up.
    """
    from advlock._locks import Locks  # noqa: PLC0415 - the database is not needed for --help

    until = None if wait is None else time.monotonic() + wait
    names = registered_names(want.name, None)
    with Locks(dsn.conninfo, registry=names.registry if names else None) as locks:
        limit = locks.rate_limit(want.name, rate.limit, rate.per)
        permit = _try(limit, want, until)
        left = math.inf if until is None else until - time.monotonic()
        after = permit.retry_after
        if not permit and want.patient and after <= left:
            if after:
                tell(f"waiting for {want.name!r}: {rate} is used up; the next in {_soon(after)}")
            late = _acquire(limit, until)
            if late is None:
                return True
            after = late
        if not permit:
            tell(f"skipped {want.name!r}: {rate} is used up; retry after {_soon(after)}")
        return bool(permit)


def _try(limit: RateLimit, want: Want, until: float | None) -> Permit:
    """Ask once; where very many do so at once, whoever may wait does."""
    try:
        return limit.try_acquire()
    except DatabaseUnavailable as error:
        over = until is not None and time.monotonic() >= until
        if over or not want.patient or error.sqlstate != BUSY:
            raise
        return Permit(1, granted=False)


def _acquire(limit: RateLimit, until: float | None) -> float | None:
    """Wait for a permit; when there is none in time, return when there will be."""
    try:
        limit.acquire(wait=None if until is None else max(0.0, until - time.monotonic()))
    except RateLimited as error:
        return error.retry_after
    return None


def _soon(seconds: float) -> str:
    # Rounded up, to what is shown: whoever comes back when told gets it.
    unit = next(unit for below, unit in _SHOWN if seconds < below)
    return brief(math.ceil(round(seconds / unit, 6)) * unit)


def become(command: Sequence[str], name: str, inherit: Iterable[int]) -> NoReturn:
    """Become the command; its exit code and its signals are its own.

    Raises:
        NotStarted: It could not be executed.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith("ADVLOCK_SLOT")}
    for left_over in ("ADVLOCK_KEY", "ADVLOCK_TOKEN"):  # those of a lock around us
        env.pop(left_over, None)
    env |= {"ADVLOCK_NAME": name, "ADVLOCK_RUN_ID": str(uuid.uuid4())}
    for fd in inherit:
        os.set_inheritable(fd, True)  # noqa: FBT003
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these two
        signal.signal(signum, signal.SIG_DFL)
    program = shutil.which(command[0], path=env.get("PATH")) or command[0]
    try:
        os.execve(program, list(command), env)  # noqa: S606 - no shell is meant
    except OSError as error:
        raise not_started(command[0], error, env.get("PATH")) from None
