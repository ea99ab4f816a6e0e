"""Do locks lock here? The verdicts on what `_probe` and `_pooler` saw. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advlock._doctor._judge import Judged, took
from advlock._doctor._report import find

if TYPE_CHECKING:
    from advlock._doctor._about import About
    from advlock._doctor._report import Finding
    from advlock._doctor._seen import Exclusion
    from advlock._pooling import Verdict

_ELSEWHERE = (
    "point advlock at a PostgreSQL 14 or newer, e.g. "
    "ADVLOCK_DSN=postgresql://user@database-host:5432/name"
)


def pooling(seen: Verdict, about: About) -> Judged:
    """A pooler is fine where locks can be made to hold; what it costs is a warning."""
    about.pooling, mode = seen, seen.pooling.value
    if mode == "direct":
        return Judged(f"none: {seen.evidence}")
    if mode == "statement":
        finding = find(
            "pooler-statement",
            "a pooler in statement mode stands in between: no lock can outlive its statement",
            evidence=seen.evidence,
            remedy=_address(about, "in the pooler's configuration: pool_mode = transaction"),
        )
        return Judged(f"statement mode: {seen.evidence}", (finding,))
    if mode == "session" and seen.leaks:
        finding = find(
            "pooler-leaks",
            "the pooler keeps the locks of clients that have gone: its reset query frees none",
            evidence=seen.evidence,
            remedy=_address(about, "in pgbouncer.ini: server_reset_query = DISCARD ALL"),
        )
        return Judged(f"session mode, which leaks: {seen.evidence}", (finding,))
    if mode == "session":
        return Judged(f"session mode: {seen.evidence}; locks work as on a direct connection")
    costs = "locks work pinned, at one pooled connection for each client while it holds any"
    how = "transaction mode" if mode == "transaction" else "in a mode that cannot be told"
    return Judged(f"{how}: {seen.evidence}; {costs}")


def _address(about: About, otherwise: str) -> str:
    if about.direct:
        return f"ADVLOCK_DSN='{about.direct}', or {otherwise}"
    return f"{otherwise}; or give advlock the server's own address"


def replica(seen: str | None, about: About) -> Judged:
    """A read replica grants locks of its own."""
    about.replica = seen == "t"
    if not about.replica:
        return Judged("no, this is the primary")
    finding = find(
        "read-replica",
        "this is a read replica: whatever it grants, the primary may grant to somebody else",
        evidence="pg_is_in_recovery() is true",
        remedy="connect to the primary; with several hosts, add to the DSN: "
        "target_session_attrs=read-write",
    )
    return Judged("yes", (finding,))


def exclusion(seen: Exclusion, about: About) -> Judged:
    """One of two gets the lock, the other one afterwards, and pg_locks shows it."""
    finding = _unsound(seen, about)
    if finding is None:
        return Judged("two sessions exclude each other, and pg_locks shows who has it")
    about.unsound = finding.code
    return Judged(f"does not hold: {finding.code}", (finding,))


def _unsound(seen: Exclusion, about: About) -> Finding | None:
    """Say what is wrong; the first thing that is, because it explains the rest."""
    holder, other = seen.pids
    code, summary, evidence = "", "", ""
    if seen.error:
        code, summary = "locks-missing", "the server has no advisory locks, or refuses them"
        evidence = f"pg_try_advisory_lock(…): {seen.error}"
    elif seen.first != "t":
        code, summary = "locks-no-answer", "the server does not say whether a lock was granted"
        answer = "no row, or NULL" if seen.first is None else "false, for a key nobody else knows"
        evidence = f"pg_try_advisory_lock(…) returned {answer}"
    elif seen.second != "f":
        code = "locks-exclude-nobody"
        summary = "two sessions were granted the same lock at the same time"
        evidence = f"sessions {holder} and {other} both got true"
        evidence += "" if seen.visible else ", and pg_locks showed neither"
    elif not seen.visible:
        code = "locks-invisible"
        summary = "pg_locks does not show a lock that is held, so nobody can verify a grant"
        evidence = f"session {holder} holds a lock, and pg_locks has no such row"
    elif (seen.released, seen.third) != ("t", "t"):
        code, summary = "lock-not-released", "a lock was not free after its holder had released it"
        evidence = f"pg_advisory_unlock(…) returned {seen.released}, the next try {seen.third}"
    else:
        return None
    advice = f"{about.kind.name}: {about.kind.advice}; " if about.kind.advice else ""
    return find(code, summary, evidence=evidence, remedy=advice + _ELSEWHERE)


def untested(fact: str) -> Finding:
    """A report without it must not look clean."""
    return find(
        "exclusion-untested",
        "whether locks hold here is not known: two sessions could not be made to ask for one",
        evidence=f"exclusion {fact}",
        remedy="run advlock doctor again; behind a pooler, with room for two clients in its pool",
    )


def death(seen: float | None, about: About) -> Judged:
    """A lock ends with its connection."""
    if seen is not None:
        return Judged(f"a lock was free {took(seen)} after its connection broke")
    limit = took(about.limits.death)
    finding = find(
        "lock-outlives-connection",
        "a lock was not free after its holder's connection had broken",
        evidence=f"still in pg_locks after {limit}",
        remedy="connect to the server without the proxy or pooler in between; it seems to keep "
        "a broken client's session",
    )
    return Judged(f"a lock outlived its connection by {limit}", (finding,))


def handover(seen: float | None, about: About) -> Judged:
    """A waiter is granted the lock when it is released."""
    if seen is not None:
        return Judged(f"a waiter was granted the lock {took(seen)} after its release")
    finding = find(
        "waiter-not-granted",
        "a session that waited for a lock was not granted it after its release",
        evidence=f"nothing within {took(about.limits.step)}",
        remedy="look for what holds the server up: "
        "SELECT pid, state, wait_event_type, wait_event FROM pg_stat_activity",
    )
    return Judged("a waiter was not granted the lock", (finding,))
