"""The verdicts on the server itself: its version, its clock, its settings, the way there. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from advlock._doctor import _kinds
from advlock._doctor._judge import Judged, took
from advlock._doctor._report import find
from advlock._duration import brief, seconds
from advlock._inspect._hidden import identifier

if TYPE_CHECKING:
    from advlock._doctor._about import About
    from advlock._doctor._report import Finding
    from advlock._doctor._seen import Clock, Override, Rows, Server

OLDEST: Final = 14
NEWEST: Final = 18  # that advlock was tested with
# What would end our sessions or change what our statements mean, with the values that do not.
_HARMLESS: Final = {
    "statement_timeout": ("0",),
    "lock_timeout": ("0",),
    "idle_session_timeout": ("0",),
    "idle_in_transaction_session_timeout": ("0",),
    "transaction_timeout": ("0",),
    "default_transaction_isolation": ("read committed",),
    "default_transaction_read_only": ("off",),
    "default_transaction_deferrable": ("off",),
    "exit_on_error": ("off",),
    "synchronous_commit": ("on", "local", "remote_write", "remote_apply"),
}
HARMFUL: Final = tuple(_HARMLESS)
KEEPALIVES: Final = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
USER_TIMEOUT: Final = "tcp_user_timeout"
_WHAT_IS_SET: Final = "SELECT name, setting, source, context FROM pg_settings"


def server(seen: Server, about: About) -> Judged:
    """PostgreSQL 14 or newer; something else is judged by what its locks do, and not here."""
    about.version, about.release = seen.number, seen.release
    about.kind = _kinds.identify(seen.version, seen.traces)
    fact = about.server
    notes = [kind for kind in (about.kind, *_kinds.extensions(seen.traces)) if kind.advice]
    fact += "".join(f"; {kind.name}: {kind.advice}" for kind in notes)
    major = seen.number // 10000
    if not about.kind.is_postgresql:
        return Judged(fact)
    if major > NEWEST:
        fact += f"; newer than PostgreSQL {NEWEST}, the newest that advlock was tested with"
    if major >= OLDEST:
        return Judged(fact)
    finding = find(
        "server-too-old",
        f"advlock needs PostgreSQL {OLDEST} or newer",
        evidence=f"the server is PostgreSQL {seen.release}; before {OLDEST} it cannot notice that"
        " a client has gone while it waits",
        remedy=f"upgrade the server, e.g. with pg_upgrade, to PostgreSQL {NEWEST}",
    )
    return Judged(fact, (finding,))


def tls(seen: Rows, _: About) -> Judged:
    """Just a fact: locks carry no secrets, and passwords do."""
    encrypted, version, cipher = seen[0]
    return Judged(f"{version}, {cipher}" if encrypted == "t" else "none")


def clock(seen: Clock, about: About) -> Judged:
    """No promise rests on it, but all that people read does."""
    sign = "ahead of" if seen.offset > 0 else "behind"
    limit = about.limits.clock
    off = max(0.0, abs(seen.offset) - seen.round_trip / 2)
    if off <= limit:
        return Judged(f"the server's is within {max(1, round(off * 1000))}ms of ours")
    fact = f"the server's is {brief(off)} {sign} ours"
    finding = find(
        "clock-offset",
        "the server's clock and ours differ: times in messages and logs will mislead",
        evidence=f"{fact} (measured in a round trip of {took(seen.round_trip)})",
        remedy="let both hosts keep their time; see whether they do with: timedatectl status",
    )
    return Judged(fact, (finding,))


def defaults(seen: Rows, about: About) -> Judged:
    """What would hurt us is overridden: so it is a fact."""
    hurting = [
        f"{name} = {_shown(value, unit)} ({_origin(origin, about)})"
        for name, value, unit, origin in seen
        if (value or "").lower() not in _HARMLESS.get(name or "", ())
    ]
    if not hurting:
        return Judged("no default of this role or database would hurt")
    return Judged("would hurt, and are overridden: " + ", ".join(hurting))


def _origin(origin: str | None, about: About) -> str:
    return {
        "role": f"role {about.role}",
        "database": f"database {about.database}",
        "role in this database": f"role {about.role} in database {about.database}",
    }.get(origin or "", origin or "server")


def _shown(value: str | None, unit: str | None) -> str:
    return f"{value}{unit}" if unit and value != "0" else f"{value}"


def override(seen: Override, about: About) -> Judged:
    """Whatever a DBA's defaults are, our sessions have what they need."""
    if seen.refusal:
        return Judged("refused", (_refused(seen.refusal, about),))
    in_force = {name or "": value or "" for name, value, _ in seen.in_force}
    tcp = (*KEEPALIVES, USER_TIMEOUT)
    wrong = [
        f"{name} is {in_force[name]} in spite of our {value}"
        for name, value in sorted(seen.wanted.items())
        if name in in_force and name not in tcp and in_force[name] != base_unit(value)
    ]
    if wrong:
        return Judged("does not work", (_refused("; ".join(wrong), about),))
    absent = [name for name in sorted(seen.wanted) if name not in in_force]
    lacks = f"; this server has no {', '.join(absent)}" if absent else ""
    return Judged(f"our {len(in_force)} settings are in force on our sessions{lacks}")


def _refused(evidence: str, about: About) -> Finding:
    role = identifier(about.role or "app")
    return find(
        "override-refused",
        "our sessions cannot have the settings that keep them alive",
        evidence=evidence,
        remedy=f"see what a session gets: {_WHAT_IS_SET}; then e.g. ALTER ROLE {role} RESET ALL",
    )


def keepalives(seen: Override, _: About) -> Judged:
    """How the server notices that our host has vanished, on this very way."""
    if seen.through:
        return Judged("the server watches the pooler, and the pooler watches us")
    if not seen.tcp:
        return Judged("not needed on a Unix socket")
    in_force = {name or "": value or "" for name, value, _ in seen.in_force}
    findings = []
    kept = {name: in_force.get(name, "0") for name in KEEPALIVES}
    if any(base_unit(seen.wanted[name]) != value for name, value in kept.items()):
        findings.append(_no_keepalives(kept))
    timeout = in_force.get(USER_TIMEOUT, "0")
    if base_unit(seen.wanted[USER_TIMEOUT]) != timeout:
        findings.append(_no_user_timeout(timeout))
    idle, interval, count = kept.values()
    fact = f"TCP: idle {idle}s, interval {interval}s, count {count}, user timeout {timeout}ms"
    return Judged(fact, tuple(findings))


def _no_keepalives(kept: dict[str, str]) -> Finding:
    return find(
        "keepalives-refused",
        "the server's system does not take our keepalives: a vanished host's locks stay for long",
        evidence=", ".join(f"{name} = {value}" for name, value in kept.items()),
        remedy="run the server on Linux, or use a lease: Locks(…, lease='15s'), "
        "advlock run --lease 15s",
    )


def _no_user_timeout(value: str) -> Finding:
    return find(
        "user-timeout-refused",
        "the server's system has no TCP_USER_TIMEOUT: a client that vanishes while it is being "
        "answered keeps its locks for minutes",
        evidence=f"{USER_TIMEOUT} = {value}",
        remedy="run the server on Linux, or use a lease: Locks(…, lease='15s'), "
        "advlock run --lease 15s",
    )


def plpgsql(seen: str | None, about: About) -> Judged:
    """With it a waiter queues on the server; without, it asks again and again."""
    if seen == "t":
        return Judged("on the server, in its queue")
    role = identifier(about.role)
    finding = find(
        "plpgsql-missing",
        "waiters poll instead of queueing: a hand-over takes up to 0.4 s, in no order",
        evidence="plpgsql is not installed in this database, or not for this role",
        remedy=f"CREATE EXTENSION plpgsql; or GRANT USAGE ON LANGUAGE plpgsql TO {role}",
    )
    return Judged("by polling", (finding,))


def base_unit(value: str) -> str:
    """Return what pg_settings says of a setting that was given as `500ms`."""
    if re.fullmatch(r"\d+ms", value):
        return str(round(seconds(value) * 1000))
    return value
