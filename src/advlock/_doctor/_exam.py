"""The examination: every check for itself, so that one that cannot be made hides no other."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from advlock import _dsn
from advlock._doctor import (
    _judge_locks,
    _judge_others,
    _judge_rights,
    _judge_room,
    _judge_server,
    _look,
    _probe,
)
from advlock._doctor._about import Limits
from advlock._doctor._judge import Judged, took
from advlock._doctor._patient import Patient
from advlock._doctor._report import Finding, Report, ordered
from advlock._doctor._session import Unanswered
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from advlock._doctor._about import About
    from advlock._doctor._seen import Rows
    from advlock._key import Name, Scheme


class _Check(NamedTuple):
    topic: str
    look: Callable[[Patient], Any]
    judge: Callable[[Any, About], Judged]


def _role(seen: Rows, about: About) -> Judged:
    about.role, about.database = seen[0][0] or "", seen[0][1] or ""
    about.superuser = seen[0][2] == "on"
    kind = "a superuser" if about.superuser else "no superuser"
    return Judged(f"{about.role}, {kind}, in database {about.database}")


def _connection(seen: tuple[str, float], _: About) -> Judged:
    where, trip = seen
    return Judged(f"{where}, a round trip takes {took(trip)}")


_NOT_CHECKED = "could not be checked"
# In this order: what is known first decides what makes sense later, and connections are counted
# while we have but one.
_CHECKS = (
    _Check("pooler", _look.pooling, _judge_locks.pooling),
    _Check("server", _look.server, _judge_server.server),
    _Check("role", _look.role, _role),
    _Check("replica", _look.replica, _judge_locks.replica),
    _Check("connection", _look.connection, _connection),
    _Check("tls", _look.tls, _judge_server.tls),
    _Check("connections", _look.connections, _judge_room.connections),
    _Check("exclusion", _probe.exclusion, _judge_locks.exclusion),
    _Check("death", _probe.death, _judge_locks.death),
    _Check("handover", _probe.handover, _judge_locks.handover),
    _Check("waiting", _look.plpgsql, _judge_server.plpgsql),
    _Check("settings", _look.defaults, _judge_server.defaults),
    _Check("tokens", _look.tokens, _judge_rights.tokens),
    _Check("identity", _look.identity, _judge_rights.identity),
    _Check("permissions", _look.permissions, _judge_rights.permissions),
    _Check("lock_table", _look.lock_table, _judge_room.lock_table),
    _Check("clock", _look.clock, _judge_server.clock),
)
# They know the locks by the names that were given.
_LAST_CHECKS = (
    _Check("waiters", _look.locks, _judge_others.waiters),
    _Check("idle_holders", _look.locks, _judge_others.idle_holders),
)


class _Exam:
    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self.findings: list[Finding] = []
        self.facts: dict[str, str] = {}

    def make_all(self, names: list[Name], keys: Scheme) -> None:
        """Make every check, in an order in which each knows what it needs."""
        for check in _CHECKS:
            self.make(check)
        _address(self, self._patient.about)
        _override(self, self._patient)
        if names:
            look = partial(_look.keys, self._patient, names, keys)
            self.judge("names", look, _judge_others.collisions)
        for check in _LAST_CHECKS:
            self.make(check)
        fact = self.facts["exclusion"]
        if fact.startswith(_NOT_CHECKED) and all(one.severity != "error" for one in self.findings):
            self.findings.append(_judge_locks.untested(fact))

    def make(self, check: _Check) -> None:
        """Make one check, or note why it cannot be made."""
        self.judge(check.topic, lambda: check.look(self._patient), check.judge)

    def judge(
        self, topic: str, look: Callable[[], Any], judge: Callable[[Any, About], Judged]
    ) -> Any:
        """Look, and judge what was seen; return that, or None where there was nothing to see."""
        try:
            seen = look()
            judged = judge(seen, self._patient.about)
        except _look.Senseless as why:
            self.facts[topic] = f"not checked: {why}"
        except Unanswered as why:
            self.facts[topic] = f"{_NOT_CHECKED}: {why}"
        except ConfigError:  # a name that was given is none
            raise
        except (LookupError, TypeError, ValueError) as odd:
            self.facts[topic] = f"{_NOT_CHECKED}: the server gave an odd answer ({odd})"
        else:
            self.facts[topic] = judged.fact
            self.findings += judged.findings
            return seen
        return None


def examine(
    dsn: str | None = None,
    names: Iterable[Name] = (),
    keys: Scheme = "hashtextextended",
    *,
    given: str = "dsn",
    limits: Limits | None = None,
) -> Report:
    """Examine a database; see `advlock.doctor`.

    Args:
        dsn: As for `doctor`.
        names: Likewise.
        keys: Likewise.
        given: What to call the place that `dsn` comes from.
        limits: Where to begin to complain.

    Raises:
        ConfigError, DatabaseUnavailable: as for `doctor`.
    """
    started = time.monotonic()
    where = _dsn.resolve(dsn, given=given)
    with Patient(where, limits or Limits()) as patient:
        exam = _Exam(patient)
        exam.make_all(list(names), keys)
        if where.pooled:  # Prisma's word, which goes with another one for the server itself
            exam.facts.setdefault(
                "direct_address", "this one says pgbouncer=true; directUrl is the server's own"
            )
        return Report(
            str(where),
            patient.about.server,
            ordered(exam.findings),
            exam.facts,
            time.monotonic() - started,
        )


def _address(exam: _Exam, about: About) -> None:
    """Name the server's own address, where that of the pooler gives it away."""
    if about.direct and about.pooled:
        exam.facts["direct_address"] = f"past the pooler, by its name: {about.direct}"
    elif about.direct:
        exam.facts["direct_address"] = "the address looks like a pooler's, and there is none"


def _override(exam: _Exam, patient: Patient) -> None:
    """Judge what was set and read back, once as settings and once as keepalives."""
    if patient.about.pooling is None or patient.about.pooling.pooling.value == "statement":
        exam.facts["overrides"] = "not checked: no session is ours alone"
        return
    seen = exam.judge("overrides", lambda: _look.override(patient), _judge_server.override)
    if seen is not None:
        exam.judge("keepalives", lambda: seen, _judge_server.keepalives)
