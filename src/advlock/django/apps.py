"""The app: it registers the checks, and knows when databases of tests come and go."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.signals import setting_changed
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.signals import connection_created

from advlock.django import _address, _clients


class AdvlockConfig(AppConfig):
    """`advlock.django` in `INSTALLED_APPS`."""

    name = "advlock.django"
    label = "advlock"
    verbose_name = "advlock"

    def ready(self) -> None:
        """Begin."""
        from advlock.django import checks  # noqa: PLC0415 - registers itself, in projects only

        checks.register()
        _address.remember_names()
        connection_created.connect(_let_go, dispatch_uid="advlock.let_go")
        setting_changed.connect(_start_afresh, dispatch_uid="advlock.start_afresh")


def _let_go(*, connection: Any, **_: Any) -> None:
    # Django connects to no database in particular before it copies or drops one of its tests',
    # which cannot be done while a client of ours is connected to it.
    if connection.alias == NO_DB_ALIAS:
        _clients.close(of_tests_only=True)


def _start_afresh(*, setting: str, **_: Any) -> None:
    if setting in ("ADVLOCK", "DATABASES"):
        _clients.close()
