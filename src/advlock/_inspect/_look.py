"""The plans that look at locks. Pure: a session of any kind drives them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from advlock._catalogue._catalogue import Catalogue
from advlock._catalogue._facts import Facts, facts
from advlock._inspect import _sql
from advlock._inspect._asked import asked
from advlock._inspect._naming import Namer, Naming, spelled
from advlock._inspect._read import parse, snapshot
from advlock._plan import Refused, Script, Step

if TYPE_CHECKING:
    from collections.abc import Iterable

    from advlock._inspect._read import Limits
    from advlock._inspect._tree import Snapshot
    from advlock._key import Key, Name
    from advlock._plan import Rows, SessionPlan
    from advlock._registry._registry import Registry

R = TypeVar("R")

# A query of another database may have bytes that this one's encoding has no characters for.
_ENCODING: Final = ("22021", "22P05")
# A table was dropped, changed, forbidden or locked since we asked whether it may be read, or became
# a view (55000).
_TABLES: Final = ("42P01", "42703", "42883", "42501", "42804", "55000", "55P03", "3F000")


class Access:
    """What is known of one connection.

    Attributes:
        names: Whether the names that were recorded may be read; None where nobody has asked.

        cron: Whether the cron's tables may be.

        locked: Whether they could not be read the last time, for another reason.

        pid: The server process that answered last.
    """

    __slots__ = ("cron", "locked", "names", "pid")

    def __init__(self) -> None:
        self.names: bool | None = None
        self.cron = False
        self.locked = False
        self.pid = 0

    @property
    def tables(self) -> tuple[bool, bool]:
        """Which of `_sql.LOOK` fits."""
        return bool(self.names), self.cron

    def learn(self, readable: Mapping[str, bool]) -> None:
        """Take what the server said."""
        self.names = readable.get("lock_name", False)
        self.cron = readable.get("cron_run", False) and readable.get("cron_host", False)


def look(
    names: Iterable[Key] | Mapping[Key, Naming] = (),
    *,
    all_databases: bool = False,
    namer: Namer,
    access: Access | None = None,
    limits: Limits | None = None,
) -> SessionPlan[Snapshot]:
    """Look at the locks, with one statement; the first time one more asks what may be read.

    Args:
        names: Only these; all without it.
        all_databases: Those of all databases, and not only of the session's.
        namer: Names what is seen.
        access: What was learned the last time on this connection.
        limits: After how many seconds a session is odd.

    Raises:
        Refused: the server does not answer such questions.
    """
    access = access or Access()
    wanted = names if isinstance(names, Mapping) else {k: Naming(k, spelled(k)) for k in names}
    if access.names is None:
        answer = yield Script((Step(_sql.READABLE),))
        access.learn(json.loads(answer[0][0][0] or "{}"))
    answer = yield from _ask(wanted, access, all_databases=all_databases)
    told = parse(answer[0][0])
    access.learn(told.readable)
    return snapshot(told, namer, wanted, limits=limits, locked=access.locked)


def _ask(keys: Iterable[Key], access: Access, *, all_databases: bool) -> SessionPlan[Rows]:
    """Ask; without our tables, or without queries, where these are what is refused."""
    columns = [f"{key.classid}/{key.objid}/{key.objsubid}" for key in keys]
    wanted = "{" + ",".join(columns) + "}" if columns else None
    with_queries, tables = True, access.tables
    access.locked = False
    while True:
        arguments = (str(all_databases), wanted, str(with_queries))
        try:
            return (yield Script((Step(_sql.LOOK[tables], arguments),)))
        except Refused as refusal:
            if refusal.sqlstate in _ENCODING and with_queries:
                with_queries = False
            elif refusal.sqlstate in _TABLES and any(tables):
                tables, access.locked = (False, False), True
            else:
                raise


def namer(
    registry: Registry | None, called: Mapping[Key, Naming] | None = None
) -> SessionPlan[Namer]:
    """Make what names the locks of the session's database, and of others as far as that goes.

    Args:
        registry: The project's registry.
        called: What some keys are called anyway.
    """
    here = Catalogue((yield from facts()))
    return Namer(registry, here, lambda database: Catalogue(Facts(database)), called)


def once(  # noqa: PLR0913 - what a client knows
    names: Iterable[Name],
    *,
    all_databases: bool,
    registry: Registry | None,
    namespace: str,
    encoding: str,
    used: Iterable[Key],
) -> SessionPlan[Snapshot]:
    """Look at the locks, on a session of a client that others need as well: it must not wait.

    Args:
        names: Only these; all without it.
        all_databases: As for `look`.
        registry: The client's registry.
        namespace: The client's namespace.
        encoding: The Python codec of the server's encoding.
        used: The keys of the client's own locks: it knows their names.
    """
    wanted = asked(names, namespace=namespace, encoding=encoding, registry=registry)
    called = {key: Naming(key, spelled(key), "recorded") for key in used}
    made = yield from settled(namer(registry, called), Access(), 0, _sql.BRIEFLY)
    plan = look(wanted, all_databases=all_databases, namer=made)
    return (yield from settled(plan, Access(), 0, _sql.BRIEFLY))


def settled(
    plan: SessionPlan[R], access: Access, owner: int, settings: Mapping[str, str]
) -> SessionPlan[R]:
    """Drive `plan`, each of its scripts with settings before it.

    Args:
        plan: What to drive.
        access: Is told which process answers.
        owner: The process whose session is ours to change; 0 for nothing but the transaction.
        settings: The settings.
    """
    arguments = (_array(settings), _array(settings.values()), str(owner))
    setting = Step(_sql.SET, arguments)
    try:
        script = next(plan)
        while True:
            answer: Any
            try:
                answer = yield Script((setting, *script.steps))
            except Refused as refusal:
                script = plan.throw(refusal)
            else:
                access.pid = int(answer[0][0][0])
                script = plan.send(answer[1:])
    except StopIteration as stop:
        verdict: R = stop.value
        return verdict


def _array(values: Iterable[str]) -> str:
    return "{" + ",".join(f'"{value}"' for value in values) + "}"
