"""The database under examination: the sessions to it, and what is known of it so far."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from advlock import _connect, _dsn
from advlock import _sql as _library_sql
from advlock._direct import direct
from advlock._doctor import _sql
from advlock._doctor._about import About, Limits
from advlock._doctor._session import Budget, Refused, Rows, Session, Unanswered, said
from advlock._liveness import Bounds

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import LiteralString, Self


_CONNECT_LIMIT: Final = 5  # seconds, for each host
# What a client of ours sets on each of its sessions.
OURS: Final = {**_library_sql.SETTINGS, **Bounds().settings()}


class Patient:
    """One database, the sessions to it, and `about`: what is known so far."""

    def __init__(self, dsn: _dsn.Dsn, limits: Limits) -> None:
        """Connect.

        Raises:
            ConfigError: libpq cannot read the address.
            DatabaseUnavailable: no connection; the message says why and what to check.
        """
        self.dsn = dsn
        self.about = About(limits, direct=_direct_address(dsn))
        conninfo = _connect.conninfo(dsn.conninfo, None, Bounds())
        if "connect_timeout" not in conninfo_to_dict(dsn.conninfo):
            conninfo = make_conninfo(conninfo, connect_timeout=_CONNECT_LIMIT)
        self.conninfo = conninfo
        self._rival: Session | None = None
        try:
            started = time.monotonic()
            self._main = Session(conninfo, Budget(limits.total, limits.step))
            self.connecting = time.monotonic() - started
        except (psycopg.Error, OSError) as error:
            raise _connect.unavailable(error, dsn) from None
        self.budget = self._main._budget = Budget(limits.total, limits.step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def main(self) -> Session:
        """The session that asks most questions; a new one where the last did not survive."""
        if self._main.over:
            self._main = self.another()
        return self._main

    @property
    def rival(self) -> Session:
        """A second session."""
        if self._rival is None or self._rival.over:
            self._rival = self.another()
        return self._rival

    def another(self) -> Session:
        """Open a session more.

        Raises:
            Unanswered: there is none to be had.
        """
        self.budget.next()
        try:
            session = Session(self.conninfo, self.budget)
        except (psycopg.Error, OSError) as error:
            words = said(error, self.dsn.conninfo)
            raise Unanswered(f"there is no further session: {words}") from None
        try:
            if not self.about.pooled:
                self.calm(session)
        except BaseException:
            session.close()
            raise
        return session

    def calm(self, session: Session) -> None:
        """Give a session of our own what advlock's have: a role's defaults do not reach it.

        And the server then ends it soon after us, whatever it is doing.
        """
        with contextlib.suppress(Refused):  # the checks will tell
            for sql in (_sql.SET_TIMEOUT, _sql.SET_ISOLATION):
                session.ask(sql)
            session.ask(_sql.OVERRIDE, array(OURS), array(OURS.values()), "false")

    def ask(self, sql: LiteralString, *params: object) -> Rows:
        """Ask on the main session.

        Raises:
            Unanswered: as `Session.ask`.
        """
        return self.main.ask(sql, *params)

    def close(self) -> None:
        """End both sessions, whatever they hold or wait for; the next question opens a new one.

        A transaction that is open on them is not ended first: so a pooler ends the server's
        session with it, and every lock there.
        """
        for session in (self._main, self._rival):
            if session is not None:
                session.close()


def _direct_address(dsn: _dsn.Dsn) -> str:
    found = direct(dsn.conninfo)
    return _dsn.redact(found) if found else ""


def array(values: Iterable[str]) -> str:
    """Spell an array of texts as a parameter."""
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{value}"' for value in quoted) + "}"
