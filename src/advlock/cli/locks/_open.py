"""The session by which commands look at locks, and the options that say where."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from advlock.cli._database import database, opened, text
from advlock.cli._say import say
from advlock.cli.locks._text import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from advlock._inspect._tree import Snapshot
    from advlock._inspect._window import Window
    from advlock._registry._registry import Registry
    from advlock.cli.locks._pick import Wanted

F = TypeVar("F", bound="Callable[..., Any]")


_SHORTEST: Final = 0.2  # seconds


def lock_name(value: str) -> str:
    """A lock's name on the command line."""
    if not text(value):
        raise click.BadParameter("a lock's name is empty; advlock ps shows those that there are")
    return value


def pause(value: str) -> float:
    """How long to wait between two looks, in seconds."""
    from advlock._duration import seconds  # noqa: PLC0415 - for those who pass one
    from advlock.errors import ConfigError  # noqa: PLC0415

    try:
        found = seconds(value)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None
    if found < _SHORTEST:
        raise click.BadParameter(f"{value} is too often; the least is {_SHORTEST}")
    return found


def where(command: F) -> F:
    """Add the options that name a database and a registry."""
    registry = click.option(
        "--registry",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help="Names from this file; without it, from the nearest advlock.toml.",
    )
    return registry(database(command))


class Sight:
    """A session that looks, and what the registry says."""

    def __init__(self, window: Window, registry: Registry | None) -> None:
        self.window = window
        self.registry = registry

    def wanted(self, words: Sequence[str]) -> list[Wanted]:
        """Read names and keys, as the database would hash them."""
        from advlock.cli.locks import _pick  # noqa: PLC0415 - for those who name a lock

        return [_pick.wanted(word, self.registry, self.window.keys) for word in words]


@contextlib.contextmanager
def looking(
    application: str,
    *,
    dsn: str | None,
    local: bool,
    registry: str | None,
    all_databases: bool = False,
) -> Iterator[Sight]:
    """Load the registry, and open a session that looks.

    Raises:
        ConfigError: the registry cannot be read, or the DSN.
        DatabaseUnavailable: there is no session.
    """
    from advlock._inspect._window import Window  # noqa: PLC0415 - not for --help
    from advlock._registry._load import load  # noqa: PLC0415

    names = load(registry)
    with (
        opened(dsn=dsn, local=local) as there,
        Window(
            there, registry=names, all_databases=all_databases, application_name=application
        ) as window,
    ):
        yield Sight(window, names)


def tell_hidden(seen: Snapshot) -> None:
    """Say what this role could not see."""
    for sentence in seen.hidden:
        say(visible(sentence))


def encodes(text: str) -> bool:
    """Whether stdout can express a text."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
