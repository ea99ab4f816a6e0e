"""System checks: `manage.py check`, with `--database default` those that connect."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning  # noqa: A004 - what Django calls it
from django.core.checks import register as register_with_django
from django.core.management import get_commands
from django.db import connections

from advlock import _dsn
from advlock._locks import Locks
from advlock._pooling import Pooling
from advlock.django import _address, _clients, _settings
from advlock.errors import LockError, UnsafeServer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from advlock._pooling import Verdict
    from advlock.django._address import Address

TAG: Final = "advlock"
_OURS: Final = "advlock.django"


def register() -> None:
    """Register them with Django."""
    register_with_django(check_settings, TAG)
    register_with_django(check_databases, TAG, Tags.database)
    register_with_django(check_atomic_requests, TAG, deploy=True)


def check_settings(**_: Any) -> list[CheckMessage]:
    """Whether `ADVLOCK` can be right, and `migrate` is ours where it has to be."""
    try:
        given = _settings.read()
        for own in filter(None, map(given.dsn_of, connections)):
            _dsn.normalise(own)
        Locks("dbname=x", **given.options).close()  # it connects on first use, and has none
    except LockError as error:
        hint = "Write for example ADVLOCK = {'MIGRATE': True, 'MIGRATE_WAIT': '10m'}."
        return [Error(f"{error}.", hint=hint, id="advlock.E001")]
    winner = get_commands().get("migrate")
    winner = winner if isinstance(winner, str) else getattr(winner, "__module__", "")
    if not given.migrate or winner == _OURS:
        return []
    return [
        Error(
            f"ADVLOCK['MIGRATE'] is True, but `migrate` is the command of {winner!r}, which takes "
            f"no lock.",
            hint=f"Put {_OURS!r} before {winner!r} in INSTALLED_APPS: the first app wins, and "
            f"advlock runs the other one's command under its lock.",
            id="advlock.E002",
        )
    ]


def check_databases(*, databases: Iterable[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Whether locks hold on these aliases, and whether a pooler has what it needs."""
    found: list[CheckMessage] = []
    for alias in databases or ():
        if connections[alias].vendor != "postgresql":
            continue
        with contextlib.suppress(LockError):  # `check_settings`, or whoever connects, says it
            found += _check_alias(alias)
    return found


def _check_alias(alias: str) -> list[CheckMessage]:
    ours, django_s = _address.address(alias), _address.of_django(alias)
    try:
        verdict = _pooler(ours)
    except UnsafeServer as error:
        if error.reason == "replica":
            return []  # to read from one is not to lock there
        hint = f"Set ADVLOCK['DSN'] = {{{alias!r}: …}} to the server's own address."
        return [Error(f"{alias!r}: {error}.", hint=hint, id="advlock.E003")]
    if ours.identity != django_s.identity:
        verdict = _pooler(django_s)
    return _check_pooler(alias, verdict)


def _check_pooler(alias: str, verdict: Verdict | None) -> list[CheckMessage]:
    """What Django needs to know of the pooler that it goes through itself."""
    database = connections[alias].settings_dict
    if verdict is None:
        return []
    if verdict.pooling is Pooling.TRANSACTION and not database.get("DISABLE_SERVER_SIDE_CURSORS"):
        return [
            Warning(
                f"{alias!r} goes through a pooler in transaction mode, where server-side cursors "
                f"(QuerySet.iterator) do not work.",
                hint=f"Set DATABASES[{alias!r}]['DISABLE_SERVER_SIDE_CURSORS'] = True.",
                id="advlock.W001",
            )
        ]
    if verdict.pooling is Pooling.SESSION and database["CONN_MAX_AGE"] != 0:
        return [
            Warning(
                f"{alias!r} goes through a pooler in session mode and has CONN_MAX_AGE = "
                f"{database['CONN_MAX_AGE']}: each thread of the web servers keeps one of the "
                f"pooler's connections, and locks may find none.",
                hint="Set CONN_MAX_AGE = 0, because the pooler keeps connections anyway; or set "
                "ADVLOCK['DSN'] to the server's own address.",
                id="advlock.W002",
            )
        ]
    return []


def _pooler(where: Address) -> Verdict | None:
    """Connect, and say what stands in between."""
    with _clients.make(where) as client:
        client._sessions.connect(None)
        return client._pooler


def check_atomic_requests(**_: Any) -> list[CheckMessage]:
    """With `ATOMIC_REQUESTS` a lock ends before the transaction that it protects."""
    return [
        Warning(
            f"{alias!r} has ATOMIC_REQUESTS: what a view writes is committed after it returns, and "
            f"so after `with locks().hold(…)` has let go.",
            hint="Lock with advlock.django.xact_lock in views, which lasts until COMMIT; or mark "
            "the view @transaction.non_atomic_requests, and put atomic() inside the lock.",
            id="advlock.W003",
        )
        for alias, database in settings.DATABASES.items()
        if database.get("ATOMIC_REQUESTS") and connections[alias].vendor == "postgresql"
    ]
