"""The questions to the catalogs, one function for each check. They look; `_judge_…` judges."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

from advlock import _plan
from advlock._doctor import _judge_rights, _judge_server, _pooler, _sql
from advlock._doctor._patient import OURS, array
from advlock._doctor._seen import Clock, Override, Server, Tokens
from advlock._doctor._session import Refused, Unanswered
from advlock._inspect._look import look, namer
from advlock._inspect._naming import Naming
from advlock._inspect._read import Limits
from advlock._key import Key, pg_encoding
from advlock._pooling import Pooling
from advlock._registry._load import load
from advlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from advlock._doctor._patient import Patient
    from advlock._doctor._seen import Rows
    from advlock._inspect._tree import Snapshot
    from advlock._key import Name, Scheme
    from advlock._plan import SessionPlan
    from advlock._pooling import Verdict
    from advlock._registry._registry import Registry

R = TypeVar("R")

_ROUNDS: Final = 5


class Senseless(Unanswered):
    """A check that would say nothing here; the text says why."""


def pooling(patient: Patient) -> Verdict:
    """Look for a pooler; where there is none, make the session immune to a role's defaults."""
    main = patient.main
    verdict = _pooler.look(main, patient.conninfo, patient.budget.next())
    if verdict.pooling is Pooling.DIRECT:
        patient.calm(main)
    return verdict


def server(patient: Patient) -> Server:
    """Ask for names; where only some are to be had, with those."""
    info = patient.main.info
    version, traces = "", frozenset[str]()
    try:
        version = patient.main.value(_sql.VERSION) or ""
        traces = frozenset(row[0] or "" for row in patient.ask(_sql.TRACES))
    except Refused:  # no PostgreSQL has to have all of it
        pass
    release = (info.parameter_status("server_version") or "").partition(" ")[0]
    return Server(info.server_version, release, version, traces)


def role(patient: Patient) -> Rows:
    """Ask who we are there."""
    return patient.ask(_sql.ROLE)


def replica(patient: Patient) -> str | None:
    """Ask whether it is a read replica."""
    return patient.main.value(_sql.IN_RECOVERY)


def connection(patient: Patient) -> tuple[str, float]:
    """Measure a round trip; say where it went."""
    info = patient.main.info
    where = f"Unix socket {info.host}" if info.host.startswith("/") else f"{info.host}:{info.port}"
    return where, _clock(patient).round_trip


def tls(patient: Patient) -> Rows:
    """Ask for the server's view; through a pooler, only ours is about our own connection."""
    if patient.about.pooled:
        return [("t" if patient.main.tls else "f", "TLS up to the pooler", "its way on not known")]
    return patient.ask(_sql.TLS)


def clock(patient: Patient) -> Clock:
    """Ask several times; the quickest round trip is the truest."""
    return _clock(patient)


def _clock(patient: Patient) -> Clock:
    best: Clock | None = None
    for _ in range(_ROUNDS):
        ours, started = time.time(), time.monotonic()
        theirs = float(patient.main.value(_sql.CLOCK) or 0)
        trip = time.monotonic() - started
        if best is None or trip < best.round_trip:
            best = Clock(theirs - (ours + trip / 2), trip)
    assert best is not None
    return best


def lock_table(patient: Patient) -> Rows:
    """Count its entries."""
    return patient.ask(_sql.LOCK_TABLE)


def connections(patient: Patient) -> Rows:
    """Count them, while we have but one."""
    return patient.ask(_sql.CONNECTIONS)


def defaults(patient: Patient) -> Rows:
    """Ask what a session of this role begins with."""
    return patient.ask(_sql.DEFAULTS, array(_judge_server.HARMFUL))


def override(patient: Patient) -> Override:
    """Set our settings on a second session as a client does, and read them back."""
    about = patient.about
    session = patient.rival
    refusal, in_force, tcp = "", [], None
    try:
        if about.pooled:
            session.ask(_sql.BEGIN)
        session.ask(_sql.OVERRIDE, array(OURS), array(OURS.values()), str(about.pooled).lower())
        in_force = session.ask(_sql.IN_FORCE, array(OURS))
        tcp = session.value(_sql.ON_UNIX_SOCKET) == "f"
    except Refused as answer:
        refusal = str(answer)
    if about.pooled:
        session.ask(_sql.ROLLBACK)
    return Override(OURS, refusal, in_force, tcp, about.pooled)


def plpgsql(patient: Patient) -> str | None:
    """Ask whether waiting on the server is possible."""
    if patient.about.pinned:
        raise Senseless("behind this pooler, waiters poll")
    return patient.main.value(_sql.PLPGSQL)


def permissions(patient: Patient) -> Rows:
    """Ask for what an operator needs."""
    return patient.ask(_sql.PERMISSIONS)


def identity(patient: Patient) -> Rows:
    """Ask whether this role can tell which server it is on."""
    return patient.ask(_sql.FUNCTIONS, array(_judge_rights.IDENTITY))


def tokens(patient: Patient) -> Tokens:
    """Ask for everything that a token needs; none is drawn."""
    if patient.about.replica:
        raise Senseless("a read replica gives out none")
    return Tokens(
        patient.ask(_sql.FENCE),
        patient.main.value(_sql.MAY_CREATE) == "t",
        patient.ask(_sql.FUNCTIONS, array(_judge_rights.TOKENS)),
    )


def locks(patient: Patient) -> Snapshot:
    """Ask who holds what, who waits, and what they are doing."""
    limits = patient.about.limits
    called = {key: Naming(key, key.name) for key in patient.about.keys}
    made = _drive(patient, namer(_registry(), called))
    odd = Limits(idle=limits.idle, waiting=limits.waiting)
    return _drive(patient, look(namer=made, limits=odd))


def _registry() -> Registry | None:
    try:
        return load()
    except ConfigError:  # another command says what is wrong with it
        return None


def _drive(patient: Patient, plan: SessionPlan[R]) -> R:
    """Drive a plan of the library's on the main session."""
    try:
        script = next(plan)
        while True:
            try:
                rows = [patient.ask(step.sql, *step.params) for step in script.steps]
            except Refused as refusal:
                script = plan.throw(_plan.Refused(refusal.sqlstate, refusal.message))
            else:
                script = plan.send(rows)
    except StopIteration as stop:
        verdict: R = stop.value
        return verdict
    except _plan.Refused as refusal:
        raise Refused(refusal.sqlstate, refusal.message) from None


def keys(patient: Patient, names: Iterable[Name], scheme: Scheme) -> list[Key]:
    """Make keys of names, in the server's encoding."""
    encoding = pg_encoding(patient.main.info.parameter_status("server_encoding") or "UTF8")
    return [Key.of(name, encoding=encoding, scheme=scheme) for name in names]
