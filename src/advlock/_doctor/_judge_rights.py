"""The verdicts on what this role may do, and on fencing tokens. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from advlock._doctor._judge import Judged
from advlock._doctor._report import find
from advlock._inspect._hidden import identifier

if TYPE_CHECKING:
    from advlock._doctor._about import About
    from advlock._doctor._report import Finding
    from advlock._doctor._seen import Rows, Tokens

# Who we are, and whether we still are: see `Identity` in `_plan`.
IDENTITY: Final = ("pg_control_system",)
# All of them stand in one statement, which needs every one (tests/conformance/test_fencing.py).
TOKENS: Final = (
    "pg_walfile_name",
    "pg_current_wal_lsn",
    "pg_current_wal_insert_lsn",
    "pg_current_wal_flush_lsn",
    "pg_logical_emit_message",
    "pg_current_xact_id",
)
_MAKE: Final = (
    "CREATE SCHEMA advlock; "
    "CREATE SEQUENCE advlock.fence AS bigint MAXVALUE 140737488355327 CACHE 1; "
    "GRANT USAGE ON SCHEMA advlock TO PUBLIC; "
    "GRANT USAGE ON SEQUENCE advlock.fence TO PUBLIC"
)
_MEND: Final = (
    "ALTER SEQUENCE advlock.fence INCREMENT 1 CACHE 1 NO CYCLE MINVALUE 1 MAXVALUE 140737488355327"
)


def permissions(seen: Rows, about: About) -> Judged:
    """What an operator of this role could see and do."""
    kill, stats = (value == "t" for value in seen[0])
    role = identifier(about.role)
    whose = "of any role but superusers" if kill else "of its own role only"
    if about.superuser:
        whose = "of everybody"
    if not about.superuser and not kill:
        whose += f" (GRANT pg_signal_backend TO {role})"
    sees = "and" if stats or about.superuser else "but not"
    fact = f"{about.role} may end sessions {whose}, {sees} see what others' sessions do"
    if sees == "but not":
        fact += f" (GRANT pg_read_all_stats TO {role})"
    return Judged(fact)


def identity(seen: Rows, about: About) -> Judged:
    """A client that knows which server it is on refuses a former primary after a fail-over."""
    denied = [name for name, allowed in seen if allowed == "f"]
    if not denied:
        return Judged("the server's identity can be read")
    finding = find(
        "identity-hidden",
        "a client cannot tell this server from another: a wrong one may go unnoticed after a "
        "fail-over",
        evidence=f"{about.role} may not call {', '.join(filter(None, denied))}",
        remedy=_grants(denied, about),
    )
    return Judged("hidden from this role", (finding,))


def tokens(seen: Tokens, about: About) -> Judged:
    """Fencing tokens come from a sequence, or else from transaction ids, which costs a flush."""
    denied = [name for name, allowed in seen.functions if allowed == "f"]
    if denied:
        finding = find(
            "token-functions-denied",
            "there are no fencing tokens: held.token() and advlock run fail",
            evidence=f"{about.role} may not call {', '.join(filter(None, denied))}",
            remedy=_grants(denied, about),
        )
        return Judged("none, for want of a privilege", (finding,))
    if seen.fence:
        return _fence(seen.fence, about)
    if seen.may_create:
        return Judged("from the sequence advlock.fence, which the first token will make")
    finding = find(
        "fence-missing",
        "there is no sequence for fencing tokens, and this role may not make it: each token "
        "takes a transaction id and a flush of the server's log",
        evidence=f"no advlock.fence in database {about.database}; {about.role} has no CREATE there",
        remedy=f"as the database's owner: {_MAKE}",
    )
    return Judged("from transaction ids", (finding,))


def _fence(fence: Rows, about: About) -> Judged:
    sound, persistence, shape, usable = fence[0]
    if sound != "t":
        return Judged("none: advlock.fence is not sound", (_unsound(persistence, shape),))
    if usable == "t":
        return Judged("from the sequence advlock.fence")
    role = identifier(about.role)
    finding = find(
        "fence-unusable",
        "there are no fencing tokens for this role: it may not use the sequence that is there",
        evidence=f"{about.role} has no USAGE on schema advlock and sequence advlock.fence",
        remedy=f"GRANT USAGE ON SCHEMA advlock TO {role}; "
        f"GRANT USAGE ON SEQUENCE advlock.fence TO {role}",
    )
    return Judged("none: advlock.fence may not be used", (finding,))


def _unsound(persistence: str | None, shape: str | None) -> Finding:
    if shape is None:
        evidence, remedy = "advlock.fence is no sequence", f"rename or drop it; then {_MAKE}"
    elif persistence != "p":
        evidence = "advlock.fence is UNLOGGED: a crash sets it back"
        remedy = "ALTER SEQUENCE advlock.fence SET LOGGED"
    else:
        evidence, remedy = f"advlock.fence has {shape}", _MEND
    return find(
        "fence-unsound",
        "there are no fencing tokens: the sequence for them can go backward",
        evidence=evidence,
        remedy=remedy,
    )


def _grants(functions: list[str | None], about: About) -> str:
    role = identifier(about.role)
    each = (f"GRANT EXECUTE ON FUNCTION pg_catalog.{name} TO {role}" for name in functions)
    return "as a superuser: " + "; ".join(each)
