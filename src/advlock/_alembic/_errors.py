"""Our errors, as Alembic's own: its command then ends with a message instead of a traceback."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import TYPE_CHECKING, Any

from alembic.util import CommandError

from advlock.errors import LockError, _rebuild

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def as_command_errors() -> Iterator[None]:
    """Let each `LockError` be a `CommandError`, too; `except LockTimeout` catches it as before."""
    try:
        yield
    except LockError as error:
        if isinstance(error, CommandError):
            raise
        kind: Any = type(error)
        both: type[LockError] = _both(kind)
        again = _rebuild(both, error.args, error.__dict__)
        raise again.with_traceback(error.__traceback__) from error.__cause__


@cache
def _both(kind: Any) -> Any:
    def reduce(error: LockError) -> tuple[Any, ...]:  # whoever reads it may have no Alembic
        return (_rebuild, (kind, error.args, error.__dict__))

    body = {"__module__": kind.__module__, "__doc__": kind.__doc__, "__reduce__": reduce}
    return type(kind.__name__, (kind, CommandError), body)
