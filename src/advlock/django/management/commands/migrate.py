"""`manage.py migrate`, of several at once by one after the other; see docs/django.md."""

from __future__ import annotations

from typing import Any

from advlock.django import _migrate


class Command(_migrate.below()):  # type: ignore[misc]
    """Whatever `migrate` there would be without us, under a lock where `ADVLOCK` says so."""

    def handle(self, *args: Any, **options: Any) -> Any:
        """Migrate, alone."""
        with _migrate.locked(self, options):
            return super().handle(*args, **options)
