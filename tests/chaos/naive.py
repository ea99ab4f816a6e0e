"""The controls of a run through a pooler: what happens to those who do without the library's care.

One takes locks as every tutorial does, in autocommit mode, and believes what it is told. The other
is the library, with the transaction taken out that pins its server session.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from advlock import _aconnecting, _connecting, _sql
from advlock._plan import Script, Step
from advlock._wire import Wire
from advlock.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from advlock._ledger import Op

_PAUSE = 0.02  # seconds between two tries
_LONGEST_WAIT = 3.0


class Unpinned(Wire):
    """What `PinnedWire` would be without its transaction."""

    def __init__(self, connection: Any, *_: object) -> None:
        super().__init__(connection)

    def send_ops(self, ops: Sequence[Op]) -> None:
        """Send the request that `PinnedWire` sends, and nothing around it."""
        codes = ",".join([str(op.code) for op in ops])
        values = ",".join([str(op.value) for op in ops])
        self.send_script(Script((Step(_sql.BATCH, (f"{{{codes}}}", f"{{{values}}}")),)))


def take_the_pin_out() -> None:
    """Have the library use a connection to a pooler as if it led to one server session."""
    for module in (_connecting, _aconnecting):
        vars(module)["PinnedWire"] = Unpinned


class Held:
    """A lock that the server has granted to whoever's session it was.

    Attributes:
        lost: Never, as far as it knows.
    """

    lost = False

    def __init__(self, token: int) -> None:
        self._token = token

    def check(self) -> None:
        """Believe."""

    def on_lost(self, callback: Callable[[Held], object]) -> None:
        """Have no news."""

    def token(self) -> int:
        """Return the transaction that it was granted in."""
        return self._token


class Locks:
    """As much of `advlock.Locks` as a worker uses, made of two functions of PostgreSQL.

    Args:
        dsn: Where to.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    @contextmanager
    def attempt(self, key: str) -> Iterator[Held | None]:
        """Try for a lock, on a connection of its own."""
        with self.hold(key, wait=0.0) as held:
            yield held

    @contextmanager
    def hold(self, key: str, wait: float | None) -> Iterator[Held | None]:
        """Try again and again."""
        until = time.monotonic() + (_LONGEST_WAIT if wait is None else wait)
        try:
            with psycopg.connect(self._dsn, autocommit=True, prepare_threshold=None) as session:
                held = _try(session, key)
                while held is None and time.monotonic() < until:
                    time.sleep(_PAUSE)
                    held = _try(session, key)
                yield held
                if held is not None:
                    session.execute("SELECT pg_advisory_unlock(hashtext(%s))", [key])
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(str(error)) from None

    def close(self) -> None:
        """Have nothing to close."""


def _try(session: psycopg.Connection[Any], key: str) -> Held | None:
    row = session.execute(
        "SELECT pg_try_advisory_lock(hashtext(%s)), pg_current_xact_id()::text::bigint", [key]
    ).fetchone()
    assert row
    granted, token = row
    return Held(token) if granted else None
