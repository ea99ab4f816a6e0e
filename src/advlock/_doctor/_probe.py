"""Do locks lock? Tried on a private random key that nobody else can know.

Everything here is observation; `_verdicts` says what it means. Behind a pooler each session stays
inside a transaction meanwhile, as advlock itself does there.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final

from advlock._doctor import _sql
from advlock._doctor._look import Senseless
from advlock._doctor._patient import OURS, array
from advlock._doctor._seen import Exclusion
from advlock._doctor._session import Refused, Session, Unanswered
from advlock._pooling import Pooling

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from advlock._doctor._patient import Patient

_PAUSE: Final = 0.002
# Classes of trouble that say nothing about how locks behave: a timeout, a shutdown, a full table.
_PASSING: Final = ("08", "40", "53", "57", "58")


def exclusion(patient: Patient) -> Exclusion:
    """Let two sessions ask for the same key.

    Raises:
        Unanswered: something was in the way.
    """
    with _Pair(patient) as pair:
        try:
            first = pair.rival.ask(_sql.TRY, pair.key)
        except Refused as refusal:
            if refusal.sqlstate[:2] in _PASSING:
                raise
            return Exclusion(pair.pids, str(refusal))
        if not first or first[0][0] is None:
            return Exclusion(pair.pids)
        return Exclusion(
            pair.pids,
            first=first[0][0],
            visible=(pair.pids[0], "t") in pair.entries(),
            second=pair.main.value(_sql.TRY, pair.key),
            released=pair.rival.value(_sql.UNLOCK, pair.key),
            third=pair.main.value(_sql.TRY, pair.key),
        )


def death(patient: Patient) -> float | None:
    """Let a holder's connection break; seconds until its lock is free, None when it stays."""
    with _Pair(patient) as pair:
        pair.take(pair.rival)
        started = time.monotonic()
        pair.rival.drop()
        for passed in _until(patient.about.limits.death, started):
            if not pair.entries():
                return passed
    return None


def handover(patient: Patient) -> float | None:
    """Let somebody wait; seconds from the release to the grant, None when it never came."""
    if patient.about.pinned:
        raise Senseless("behind this pooler, waiters poll")
    with _Pair(patient) as pair:
        pair.take(pair.main)
        pair.rival.send(_sql.WAIT, pair.key)
        for _ in _until(patient.about.limits.step):
            if (pair.pids[0], "f") in pair.entries():
                break
        started = time.monotonic()
        pair.main.ask(_sql.UNLOCK, pair.key)
        try:
            pair.rival.answer()
        except Unanswered:
            return None
        return time.monotonic() - started


class _Pair:
    """Two sessions and a key; behind a pooler in a transaction each, which pins them.

    What they hold is given back at the end; after anything unexpected they are closed instead.
    """

    def __init__(self, patient: Patient) -> None:
        _check_sense(patient)
        self._patient = patient
        self._pins = patient.about.pooled
        self.key = secrets.randbits(64) - (1 << 63)
        self.main, self.rival = patient.main, patient.rival
        self.pids: tuple[str | None, str | None] = ("", "")

    def __enter__(self) -> Self:
        try:
            if self._pins:
                self._pin(self.rival)
                self._pin(self.main)
            self.pids = (self._pid(self.rival), self._pid(self.main))
        except BaseException:
            self._patient.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None or not self._given_back():
            self._patient.close()

    @staticmethod
    def _pin(session: Session) -> None:
        """Begin; and let the server's session end soon after ours, for as long as this lasts."""
        session.ask(_sql.BEGIN)
        session.ask(_sql.OVERRIDE, array(OURS), array(OURS.values()), "true")

    def _given_back(self) -> bool:
        try:
            for session in (self.main, self.rival):
                if not session.over:
                    session.ask(_sql.UNLOCK, self.key)
                    if self._pins:
                        session.ask(_sql.ROLLBACK)
        except Unanswered:
            return False
        return True

    def _pid(self, session: Session) -> str | None:
        return session.value(_sql.WHO_ANSWERS_PLAINLY)

    def take(self, session: Session) -> None:
        """Lock the key.

        Raises:
            Unanswered: that was not granted.
        """
        if session.value(_sql.TRY, self.key) != "t":
            raise Unanswered("a key that nobody can know was not free")

    def entries(self) -> list[tuple[str | None, ...]]:
        """Who holds the key and who waits for it, as pg_locks has it."""
        return self.main.ask(_sql.ENTRIES, self.key)


def _check_sense(patient: Patient) -> None:
    about = patient.about
    if about.replica:
        raise Senseless("a read replica's locks are no use")
    if about.pooling is None:
        raise Unanswered("it is not known whether a pooler stands in between")
    if about.pooling.pooling is Pooling.STATEMENT:
        raise Senseless("the pooler lets no transaction begin")
    if about.unsound:
        raise Senseless(f"see {about.unsound}")


def _until(seconds: float, started: float | None = None) -> Iterator[float]:
    """Yield how much time has passed, again and again, while it is not over."""
    began = time.monotonic() if started is None else started
    while (passed := time.monotonic() - began) < seconds:
        yield passed
        time.sleep(_PAUSE)
