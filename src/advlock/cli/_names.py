"""What the registry file, if there is one, says about the name of `advlock run`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advlock.errors import ConfigError

if TYPE_CHECKING:
    from advlock._registry._names import Names


def registered_names(name: str, slots: int | None) -> Names | None:
    """Return what makes keys of names here; None where no registry has a say.

    Args:
        name: What is to be locked.
        slots: How many may hold it at a time; None for a plain lock.

    Raises:
        ConfigError: the registry, or the file in which it might be, is wrong; or the key that it
            has for this name cannot have slots.
        KeyCollision: it has one key for two names.
    """
    settings, path = _settings()
    if path is None or "locks" not in settings:
        return None
    from advlock._registry import _load, _names  # noqa: PLC0415 - for those who have one

    registry = _load.read(settings, path)
    names = _names.Names(registry, strict=False, namespace=None, keys=None)
    if slots is not None:
        names.slot(name, 0, encoding="utf-8")
    return names


def _settings() -> tuple[dict[str, Any], Path | None]:
    from advlock import _dsn  # noqa: PLC0415 - not for --help

    try:
        return _dsn.find_settings()
    except ConfigError as error:
        # `sudo -u reports advlock run --dsn … …` in root's home: a directory closed to us has no
        # file for us. One that is there and cannot be read is another matter: it might name a key.
        cause = error.__cause__
        closed = isinstance(cause, PermissionError) and not os.access(
            Path(cause.filename).parent, os.X_OK
        )
        if not closed:
            raise
        return {}, None
