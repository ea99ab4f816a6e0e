"""`migrate` under a lock: one process migrates a database, the others wait and find it done."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.core.management import CommandError, find_commands, load_command_class
from django.core.management.commands.migrate import Command as Core
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.db.models.signals import pre_migrate

from advlock._duration import brief
from advlock.django import _clients, _settings
from advlock.django._address import address
from advlock.django._stop import command_error, lost_on_leaving, stopped_when_lost
from advlock.errors import LockError, LockTimeout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from django.core.management.base import BaseCommand

    from advlock._held import Attempt, Held, Hold
    from advlock._locks import Locks

# Not "migrate", which is what `advlock run migrate -- python manage.py migrate` already holds.
NAME: Final = "django-migrate"
# How long somebody with nothing to apply waits for whoever is migrating, in seconds: as long as the
# `post_migrate` handlers take, which must not create the same permissions twice, and not for as
# long as a newer version's migrations may take, which are none of his.
SHORTLY: Final = 5.0


def below() -> type[BaseCommand]:
    """Return the `migrate` that there would be without us: another app's, or Django's own."""
    configs = list(apps.get_app_configs())
    names = [config.name for config in configs]
    ours = names.index("advlock.django") if "advlock.django" in names else -1
    for config in configs[ours + 1 :]:  # the first one wins, so those behind us are below us
        if "migrate" in find_commands(os.path.join(config.path, "management")):  # noqa: PTH118
            return type(load_command_class(config.name, "migrate"))
    return type(load_command_class("django.core", "migrate"))


@contextlib.contextmanager
def locked(command: BaseCommand, options: dict[str, Any]) -> Iterator[None]:
    """Migrate in the block, alone.

    Raises:
        CommandError: it was not free in time (exit code 75), it was lost (74), the database cannot
            be reached (69), no lock would hold there, or `ADVLOCK` cannot be right (78).
    """
    using = options["database"]
    if not _is_wanted(options):
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(lost_on_leaving(NAME))
        try:
            # A registry that has to have every name need not have ours.
            client = stack.enter_context(_clients.make(address(using), strict=False))
            turn = _Turn(client, command, options)
            held = stack.enter_context(turn)
        except LockError as error:
            raise command_error(error) from None
        if held is not None:
            stack.enter_context(stopped_when_lost(held, connections[using]))
        if not turn.alone:
            stack.enter_context(_nothing_applied(using))
        yield


def _is_wanted(options: dict[str, Any]) -> bool:
    only_looks = options["plan"] or options["check_unapplied"]
    if only_looks or connections[options["database"]].vendor != "postgresql":
        return False
    try:
        return _settings.read().migrate
    except LockError as error:
        raise command_error(error) from None


@contextlib.contextmanager
def _nothing_applied(database: str) -> Iterator[None]:
    """Refuse to migrate: there was nothing to apply, so we are not alone."""

    def refuse(*, using: str, plan: Any = None, **_: Any) -> None:
        if plan and using == database:
            raise CommandError(
                "advlock: nothing was to be applied, so the lock was not waited for, and now there "
                "is something: somebody unapplied it. Nothing was migrated; run it again",
                returncode=os.EX_TEMPFAIL,
            )

    pre_migrate.connect(refuse, weak=False)
    try:
        yield
    finally:
        pre_migrate.disconnect(refuse)


class _Turn:
    """The wait for our turn: alone, or together with all who have nothing to apply.

    Whoever has nothing to apply runs the `post_migrate` handlers, as Django does. He shares the
    lock: not with somebody who migrates, but many of them need not queue.

    Attributes:
        alone: Whether nobody else has the lock.
    """

    alone = False

    def __init__(self, client: Locks, command: BaseCommand, options: dict[str, Any]) -> None:
        self._client = client
        self._command = command
        self._options = options
        self._connection = connections[options["database"]]
        self._entry: Hold | Attempt | None = None

    def __enter__(self) -> Held | None:
        if self._needs_all():
            return self._alone()
        for wait in (0.0, SHORTLY):
            held = self._shared(wait)
            if self._has_something_to_apply():
                self._leave()
                return self._alone()
            if held is not None:
                return held
        return None

    def __exit__(
        self, kind: type[BaseException] | None, body: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._leave(kind, body, tb)

    def _needs_all(self) -> bool:
        """Whether it is more than `migrate`, whose targets are the newest of all apps."""
        more = ("app_label", "prune", "run_syncdb")
        # What another app's command would migrate (the schemas of tenants), nobody can tell.
        return below().handle is not Core.handle or any(self._options[name] for name in more)

    def _has_something_to_apply(self) -> bool:
        executor = MigrationExecutor(self._connection)
        return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))

    def _shared(self, wait: float) -> Held | None:
        if not wait:
            return self._enter(self._client.attempt(NAME, shared=True))
        self._step_aside()
        try:
            return self._enter(self._client.hold(NAME, wait=wait, shared=True))
        except LockTimeout:
            return None

    def _alone(self) -> Held:
        held = self._enter(self._client.attempt(NAME))
        if held is None:
            self._step_aside()
            wait = _settings.read().migrate_wait
            self._tell(wait)
            held = self._enter(self._client.hold(NAME, wait=wait))
        assert held is not None
        self.alone = True
        return held

    def _enter(self, entry: Hold | Attempt) -> Held | None:
        held = entry.__enter__()
        if held is not None:
            self._entry = entry
        return held

    def _leave(
        self,
        kind: type[BaseException] | None = None,
        body: BaseException | None = None,
        tb: TracebackType | None = None,
    ) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            entry.__exit__(kind, body, tb)

    def _step_aside(self) -> None:
        # Nobody knows for how long: what ends idle sessions would end Django's, and be noticed at
        # its first statement.
        if not self._connection.in_atomic_block:
            self._connection.close()

    def _tell(self, wait: float | None) -> None:
        if self._options["verbosity"] < 1:
            return
        who = "; ".join(str(h) for h in self._client.holders(NAME) if not h.waiting)
        limit = "" if wait is None else f", for at most {brief(wait)}"
        self._command.stderr.write(
            f"advlock: waiting for {NAME!r}, held by {who or 'somebody'}{limit}",
            self._command.style.NOTICE,
        )
